//! Counts of jobs by application, on request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::clock;
use tokio::sync::oneshot;

use crate::engine::Engine;
use crate::engine::summary::{Summary, Walk};

/// How long counts are given again, so that callers do not keep the dispatcher busy.
const FRESH: Duration = Duration::from_secs(5);

/// Who waits for counts.
pub(super) type Caller = oneshot::Sender<Arc<Summary>>;

/// The count that is under way, and the last one.
#[derive(Debug, Default)]
pub(super) struct Count {
    walk: Option<Walk>,
    callers: Vec<Caller>,
    last: Option<(Instant, Arc<Summary>)>,
}

impl Count {
    /// Answers a caller, at once if the last counts are fresh.
    pub(super) fn answer(&mut self, caller: Caller) {
        match &self.last {
            Some((at, summary)) if at.elapsed() < FRESH && self.walk.is_none() => {
                let _ = caller.send(summary.clone()); // a caller may be gone
            }
            _ => {
                self.walk.get_or_insert_default();
                self.callers.push(caller);
            }
        }
    }

    /// Whether [`Self::go_on`] has something to do.
    pub(super) fn is_under_way(&self) -> bool {
        self.walk.is_some()
    }

    /// Counts some more jobs.
    pub(super) fn go_on(&mut self, engine: &Engine) {
        let Some(walk) = self.walk.take() else { return };
        match engine.count(walk) {
            Err(walk) => self.walk = Some(walk),
            Ok(summary) => {
                let summary = Arc::new(summary);
                for caller in self.callers.drain(..) {
                    let _ = caller.send(summary.clone());
                }
                self.last = Some((clock::monotonic(), summary));
            }
        }
    }
}
