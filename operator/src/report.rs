//! Rate-limited Warning Events.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kubernetes::api_text;
use runtime::{Scope, clock};
use tokio::sync::Semaphore;

use crate::cluster::Cluster;

/// Interval between two Events with the same object and reason.
const QUIET: Duration = Duration::from_mins(10);
/// Concurrent writes; further Events are dropped to limit the load on the API server.
const PARALLEL: usize = 4;
/// Longest text of an Event (Kubernetes events.k8s.io/v1: 1024 bytes).
const MAX_NOTE_BYTES: usize = 1000;
/// Objects and reasons of recent Events; beyond this number new Events are dropped.
const REMEMBERED: usize = 4096;

/// Sends Warning Events in the background; failures are only logged.
#[derive(Clone)]
pub(crate) struct Reports {
    cluster: Cluster,
    scope: Scope,
    slots: Arc<Semaphore>,
    sent: Arc<Mutex<Sent>>,
}

/// Kind, namespace and name of an object, and the reason of an Event.
type EventKey = (String, String, String, &'static str);

#[derive(Default)]
struct Sent(HashMap<EventKey, Instant>);

impl Sent {
    /// Whether a report is due, which then counts as made.
    fn due(&mut self, about: EventKey, now: Instant) -> bool {
        let recent = |at: &Instant| now.saturating_duration_since(*at) < QUIET;
        if self.0.get(&about).is_some_and(recent) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.retain(|_, at| recent(at));
        }
        if self.0.len() >= REMEMBERED {
            return false;
        }
        self.0.insert(about, now);
        true
    }
}

impl Reports {
    /// Reports to the API server, for as long as the scope lives.
    pub(crate) fn new(cluster: Cluster, scope: Scope) -> Self {
        Self { cluster, scope, slots: Arc::new(Semaphore::new(PARALLEL)), sent: Arc::default() }
    }

    /// Puts a Warning Event on `object` in the background, unless the same was said lately.
    pub(crate) fn warn(&self, object: ObjectReference, reason: &'static str, note: String) {
        if !self.is_due(&object, reason) {
            return;
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return };
        let (reports, token) = (self.clone(), self.scope.token().clone());
        self.scope.spawn_detached("event", async move {
            token.run_until_cancelled(reports.publish(&object, reason, note)).await;
            drop(slot);
        });
    }

    /// Puts a Warning Event on `object`, unless the same was said lately; waits its turn and for
    /// the API server. Returns whether it was due. Dropping the future may lose the Event.
    pub(crate) async fn record_event(
        &self,
        object: ObjectReference,
        reason: &'static str,
        note: String,
    ) -> bool {
        if !self.is_due(&object, reason) {
            return false;
        }
        let _slot = self.slots.acquire().await; // never closed
        self.publish(&object, reason, note).await;
        true
    }

    fn is_due(&self, object: &ObjectReference, reason: &'static str) -> bool {
        let name = |part: &Option<String>| part.clone().unwrap_or_default();
        let about = (name(&object.kind), name(&object.namespace), name(&object.name), reason);
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.due(about, clock::monotonic())
    }

    async fn publish(&self, object: &ObjectReference, reason: &'static str, mut note: String) {
        note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
        if let Err(error) = self.cluster.warn(object, reason, &note).await {
            let error = api_text(&error);
            tracing::debug!(target: "dapr.operator", "event was not recorded: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_reason_is_reported_once_in_a_while() {
        let mut sent = Sent::default();
        let about = |reason| ("Component".into(), "n".into(), "c".into(), reason);
        let start = clock::monotonic();
        assert!(sent.due(about("SecretNotFound"), start));
        assert!(!sent.due(about("SecretNotFound"), start + QUIET / 2));
        assert!(sent.due(about("Undecodable"), start));
        assert!(sent.due(about("SecretNotFound"), start + QUIET));
    }

    #[test]
    fn memory_of_reports_is_bounded() {
        let mut sent = Sent::default();
        let start = clock::monotonic();
        for i in 0..2 * REMEMBERED {
            sent.due(("K".into(), "n".into(), i.to_string(), "Undecodable"), start);
        }
        assert_eq!(sent.0.len(), REMEMBERED);
    }
}
