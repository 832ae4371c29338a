//! Logs, and live updates: of the cluster, or of a log.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::WatchStream;

use super::permitted::Permitted;
use super::{Pages, Request};
use crate::cluster::logs::{LogError, Logs, Place};
use crate::model::Snapshot;
use crate::pages::{FollowedLog, logs as page};

/// Shortest interval of live updates to one browser.
const LIVE_INTERVAL: Duration = Duration::from_secs(2);

/// The page of a log.
pub(super) async fn one_log(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    Path((namespace, pod)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let mut request = Request::new(&pages, &snapshot, &headers);
    let Some((logs, place)) = find(&pages, &snapshot, &namespace, &pod) else {
        return request.missing(&format!("Log of pod {namespace}/{pod} (or the flag --logs)"));
    };
    let log = logs.read(&place, user(&pages, &headers)).await;
    let filter = page::LogFilter::parse(query.as_deref().unwrap_or_default());
    let seen = log.as_ref().ok().and_then(|log| log.last.as_deref());
    request.site.followed = Some(FollowedLog { namespace: &namespace, pod: &pod, seen });
    let view = page::view(place, log.as_ref(), filter);
    request.answer("logs", &format!("Log of {pod}"), &view, |_, view| page::render(view))
}

fn find<'a>(
    pages: &'a Pages,
    snapshot: &Snapshot,
    namespace: &str,
    pod: &str,
) -> Option<(&'a Logs, Place)> {
    pages.logs.as_ref().zip(page::place(snapshot, namespace, pod))
}

/// The credentials of the sender, which [`Permitted`] has checked; those of the dashboard without
/// `--auth=token`.
fn user<'a>(pages: &Pages, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    headers.get(header::AUTHORIZATION).filter(|_| pages.reviews.is_some())
}

/// Notifies browsers of changes, of a log if the query names a pod; they reload their page.
pub(super) async fn changes(
    State(pages): State<Pages>,
    Permitted(snapshot): Permitted,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let value = |name| parameter(query.as_deref().unwrap_or_default(), name);
    let Some((namespace, pod)) = value("namespace").zip(value("pod")) else {
        let changes = WatchStream::from_changes(pages.cluster.changes());
        return events(changes.then(async |_| tokio::time::sleep(LIVE_INTERVAL).await));
    };
    let Some((logs, place)) = find(&pages, &snapshot, &namespace, &pod) else {
        return (StatusCode::NOT_FOUND, "there is no such log\n").into_response();
    };
    match logs.watch(&place, user(&pages, &headers), value("seen"), LIVE_INTERVAL).await {
        Ok(lines) => events(lines),
        Err(error) => (status(&error), format!("{error}\n")).into_response(),
    }
}

fn parameter(query: &str, wanted: &str) -> Option<String> {
    let mut all = form_urlencoded::parse(query.as_bytes());
    all.find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned())
}

fn status(error: &LogError) -> StatusCode {
    match error {
        LogError::Forbidden(_) => StatusCode::FORBIDDEN,
        LogError::Unavailable(_) | LogError::Body | LogError::Full => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    }
}

fn events(changes: impl Stream<Item = ()> + Send + 'static) -> Response {
    let events = changes.map(|()| Ok::<_, Infallible>(Event::default().data("changed")));
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
