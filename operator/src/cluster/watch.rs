//! Forwards the events of a watch and counts them.
use std::pin::pin;

use futures::{Stream, StreamExt as _};
use kubernetes::WatchEvent;

use crate::metrics::Metrics;

/// Forwards the events of the watch of `kind` to `handler`. Never returns. Cancel safe.
pub(crate) async fn handle_events<T>(
    kind: &'static str,
    metrics: &Metrics,
    events: impl Stream<Item = WatchEvent<T>>,
    mut handler: impl FnMut(WatchEvent<T>),
) {
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            WatchEvent::Init => metrics.listing(kind),
            WatchEvent::Failed(_) => metrics.watch_failed(kind),
            _ => {}
        }
        handler(event);
    }
}
