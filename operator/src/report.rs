//! Warning Events on the objects that cause trouble, a few per object and reason.
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use runtime::{Scope, clock, kubernetes::api_text};
use tokio::sync::Semaphore;

use crate::cluster::Cluster;

/// The same reason on the same object is reported once in this time.
const QUIET: Duration = Duration::from_mins(10);
/// Reports under way; more are dropped, they would only slow the API server down.
const PARALLEL: usize = 4;
/// Longest text of an Event (Kubernetes events.k8s.io/v1: 1024 bytes).
const MAX_NOTE_BYTES: usize = 1000;
/// Remembered reports; when there are more, the oldest are forgotten.
const REMEMBERED: usize = 4096;

/// Why an object is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A Secret that it names cannot be read.
    SecretNotFound,
    /// A Secret that it names lacks the key.
    SecretKeyNotFound,
    /// The object cannot be decoded and is left out.
    Undecodable,
    /// The Service of an app exists and belongs to somebody else.
    ServiceConflict,
    /// Two workloads have the same app id.
    DuplicateAppId,
    /// The annotations of a workload make no Service.
    InvalidAnnotation,
    /// A pod of it came up without its sidecar and was deleted.
    SidecarMissing,
    /// Its pods come up without their sidecar whatever is done.
    SidecarStillMissing,
    /// No official component has its type.
    UnknownType,
    /// Its type has no such version.
    UnknownVersion,
    /// Metadata that its type needs is not given.
    MissingMetadata,
    /// Metadata is probably misspelt.
    UnknownMetadata,
    /// The secret store that it names is not there.
    SecretStoreNotFound,
    /// The apps that see it have another actor state store.
    DuplicateActorStateStore,
    /// No pod has an app id that it is meant for.
    UnknownScope,
    /// Its name means something else to sidecars.
    NameClash,
    /// A member is no duration.
    InvalidDuration,
}

impl Reason {
    /// The reason as it is written into Events.
    pub fn text(self) -> &'static str {
        match self {
            Self::SecretNotFound => "SecretNotFound",
            Self::SecretKeyNotFound => "SecretKeyNotFound",
            Self::Undecodable => "Undecodable",
            Self::ServiceConflict => "ServiceConflict",
            Self::DuplicateAppId => "DuplicateAppId",
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::SidecarMissing => "SidecarMissing",
            Self::SidecarStillMissing => "SidecarStillMissing",
            Self::UnknownType => "UnknownType",
            Self::UnknownVersion => "UnknownVersion",
            Self::MissingMetadata => "MissingMetadata",
            Self::UnknownMetadata => "UnknownMetadata",
            Self::SecretStoreNotFound => "SecretStoreNotFound",
            Self::DuplicateActorStateStore => "DuplicateActorStateStore",
            Self::UnknownScope => "UnknownScope",
            Self::NameClash => "NameClash",
            Self::InvalidDuration => "InvalidDuration",
        }
    }
}

/// Sends Warning Events in the background; failures are only logged.
#[derive(Clone)]
pub struct Reports {
    cluster: Cluster,
    scope: Scope,
    slots: Arc<Semaphore>,
    sent: Arc<Mutex<Sent>>,
}

type About = (String, String, String, Reason);

#[derive(Default)]
struct Sent(HashMap<About, Instant>);

impl Sent {
    /// Whether a report is due, which then counts as made.
    fn due(&mut self, about: About, now: Instant) -> bool {
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
    pub fn new(cluster: Cluster, scope: Scope) -> Self {
        Self { cluster, scope, slots: Arc::new(Semaphore::new(PARALLEL)), sent: Arc::default() }
    }

    /// Puts a Warning Event on `object` in the background, unless the same was said lately.
    pub fn warn(&self, object: ObjectReference, reason: Reason, note: String) {
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
    pub async fn tell(&self, object: ObjectReference, reason: Reason, note: String) -> bool {
        if !self.is_due(&object, reason) {
            return false;
        }
        let _slot = self.slots.acquire().await; // never closed
        self.publish(&object, reason, note).await;
        true
    }

    fn is_due(&self, object: &ObjectReference, reason: Reason) -> bool {
        let name = |part: &Option<String>| part.clone().unwrap_or_default();
        let about = (name(&object.kind), name(&object.namespace), name(&object.name), reason);
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.due(about, clock::monotonic())
    }

    async fn publish(&self, object: &ObjectReference, reason: Reason, mut note: String) {
        note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
        if let Err(error) = self.cluster.warn(object, reason.text(), &note).await {
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
        assert!(sent.due(about(Reason::SecretNotFound), start));
        assert!(!sent.due(about(Reason::SecretNotFound), start + QUIET / 2));
        assert!(sent.due(about(Reason::Undecodable), start));
        assert!(sent.due(about(Reason::SecretNotFound), start + QUIET));
    }

    #[test]
    fn memory_of_reports_is_bounded() {
        let mut sent = Sent::default();
        let start = clock::monotonic();
        for i in 0..2 * REMEMBERED {
            sent.due(("K".into(), "n".into(), i.to_string(), Reason::Undecodable), start);
        }
        assert_eq!(sent.0.len(), REMEMBERED);
    }
}
