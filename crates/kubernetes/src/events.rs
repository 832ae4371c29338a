//! Kubernetes Events on the objects that they concern, limited per object and reason.

mod limiter;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use runtime::{Scope, clock, printable, random};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

pub use kube::runtime::events::EventType;

use crate::client::api_text;
use limiter::{RateLimiter, Subject};

/// Events written at the same time. More background Events are dropped: an API server that is slow
/// would only become slower.
const CONCURRENT: usize = 4;
/// Time limit of one write.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Longest note in bytes (Kubernetes, `events.k8s.io/v1`).
const MAX_NOTE_BYTES: usize = 1024;
/// Longest name of an object in bytes (Kubernetes), less a dot and sixteen hexadecimal digits.
const MAX_NAME_BYTES: usize = 253 - 17;
/// Where Events about objects without a namespace are written.
const DEFAULT_NAMESPACE: &str = "default";
/// The same Event was already written by another replica.
const CONFLICT: u16 = 409;

/// How often an equal Event is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Once in ten minutes per object and reason.
    PerReason,
    /// Once in ten minutes per object, reason and note. The name of the Event follows from the
    /// three, so replicas that record the same write one Event.
    PerNote,
    /// Each time.
    Always,
}

/// The contents of an Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Normal or Warning.
    pub type_: EventType,
    /// Reason in `PascalCase`; for programs.
    pub reason: &'static str,
    /// Action in `PascalCase`. `kubectl describe` does not show it.
    pub action: &'static str,
    /// The text that users read. More than 1024 bytes are cut off.
    pub note: String,
    /// How often an equal Event is recorded.
    pub repeat: Repeat,
}

/// Records Events. Cheap to clone; all clones share the limits.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    controller: &'static str,
    instance: String,
    limiter: Arc<Mutex<RateLimiter>>,
    slots: Arc<Semaphore>,
    failing: Arc<AtomicBool>,
}

impl Recorder {
    /// Records as `controller`, for example `dapr-operator`. `instance` is the name of the pod.
    pub fn new(client: Client, controller: &'static str, instance: String) -> Self {
        Self {
            client,
            controller,
            instance,
            limiter: Arc::default(),
            slots: Arc::new(Semaphore::new(CONCURRENT)),
            failing: Arc::default(),
        }
    }

    /// Records an Event about `object` and waits for the API server, at most five seconds. Returns
    /// whether it was due according to its [`Repeat`]. A failure is logged and the Event is lost.
    /// Dropping the future may lose the Event.
    pub async fn record_event(&self, object: &ObjectReference, event: Event) -> bool {
        if !self.is_due(object, &event) {
            return false;
        }
        let _slot = self.slots.acquire().await; // never closed
        self.write(object, event).await;
        true
    }

    /// As [`Recorder::record_event`], in the background. Events are dropped while four are being
    /// written, and when the scope ends.
    pub fn record_event_in_background(&self, scope: &Scope, object: ObjectReference, event: Event) {
        if !self.is_due(&object, &event) {
            return;
        }
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return };
        let (recorder, token) = (self.clone(), scope.token().clone());
        scope.spawn_detached("event", async move {
            token.run_until_cancelled(recorder.write(&object, event)).await;
            drop(slot);
        });
    }

    fn is_due(&self, object: &ObjectReference, event: &Event) -> bool {
        let subject = match event.repeat {
            Repeat::Always => return true,
            Repeat::PerReason => Subject::new(object, event.reason, None),
            Repeat::PerNote => {
                Subject::new(object, event.reason, Some(digest(event.reason, &event.note)))
            }
        };
        let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.admits(subject, clock::monotonic())
    }

    async fn write(&self, object: &ObjectReference, event: Event) {
        let reason = event.reason;
        let namespace = namespace(object).to_owned();
        let event = self.build(object, &event, clock::now(), random::bits());
        let api: Api<ApiEvent> = Api::namespaced(self.client.clone(), &namespace);
        let params = PostParams::default();
        let failure = match tokio::time::timeout(WRITE_LIMIT, api.create(&params, &event)).await {
            Ok(Ok(_)) => None,
            Ok(Err(kube::Error::Api(status))) if status.code == CONFLICT => None,
            Ok(Err(error)) => Some(api_text(&error)),
            Err(_) => Some(format!("no answer within {} s", WRITE_LIMIT.as_secs())),
        };
        let Some(error) = failure else {
            self.failing.store(false, Ordering::Relaxed);
            return;
        };
        if self.failing.swap(true, Ordering::Relaxed) {
            tracing::debug!(reason, namespace, "Event was not recorded: {error}");
        } else {
            tracing::warn!(reason, namespace, "Event was not recorded: {error}");
        }
    }

    /// The Event as the API server expects it; `random` distinguishes the names of Events about the
    /// same object.
    fn build(
        &self,
        object: &ObjectReference,
        event: &Event,
        now: jiff::Timestamp,
        random: u64,
    ) -> ApiEvent {
        let mut note = printable(&event.note);
        note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
        let suffix = match event.repeat {
            Repeat::PerNote => digest(event.reason, &event.note),
            Repeat::PerReason | Repeat::Always => random,
        };
        let name = object.name.as_deref().unwrap_or(self.controller);
        let name = name.get(..name.floor_char_boundary(MAX_NAME_BYTES)).unwrap_or_default();
        let name = name.trim_end_matches(['.', '-']);
        ApiEvent {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{suffix:016x}")),
                namespace: Some(namespace(object).to_owned()),
                ..ObjectMeta::default()
            },
            action: Some(event.action.to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(note),
            reason: Some(event.reason.to_owned()),
            regarding: Some(object.clone()),
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(type_name(event.type_).to_owned()),
            ..ApiEvent::default()
        }
    }
}

fn namespace(object: &ObjectReference) -> &str {
    let namespace = object.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    namespace.unwrap_or(DEFAULT_NAMESPACE)
}

fn type_name(type_: EventType) -> &'static str {
    match type_ {
        EventType::Normal => "Normal",
        EventType::Warning => "Warning",
    }
}

/// Distinguishes the Events about one object.
fn digest(reason: &str, note: &str) -> u64 {
    let digest = Sha256::digest(format!("{reason}\n{note}"));
    u64::from_be_bytes(*digest.first_chunk().unwrap_or(&[0; 8]))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn recorder() -> Recorder {
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let client = Client::try_from(config).unwrap();
        Recorder::new(client, "dapr-test", "pod-1".to_owned())
    }

    fn about(name: &str) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(name.to_owned()),
            namespace: Some("n".to_owned()),
            ..ObjectReference::default()
        }
    }

    fn event(note: &str, repeat: Repeat) -> Event {
        let (type_, reason, action) = (EventType::Warning, "Broken", "Serve");
        Event { type_, reason, action, note: note.to_owned(), repeat }
    }

    #[tokio::test]
    async fn an_event_names_its_object_and_its_recorder() {
        let object = about("bundle");
        let at = jiff::Timestamp::UNIX_EPOCH;
        let built = recorder().build(&object, &event("it is\nbroken", Repeat::Always), at, 10);
        assert_eq!(built.metadata.name.as_deref(), Some("bundle.000000000000000a"));
        assert_eq!(built.metadata.namespace.as_deref(), Some("n"));
        assert_eq!(built.regarding, Some(object));
        assert_eq!(built.note.as_deref(), Some("it is broken"), "on one line");
        assert_eq!(built.type_.as_deref(), Some("Warning"));
        assert_eq!(built.reporting_controller.as_deref(), Some("dapr-test"));
        assert_eq!(built.reporting_instance.as_deref(), Some("pod-1"));
        assert_eq!(
            (built.reason.as_deref(), built.action.as_deref()),
            (Some("Broken"), Some("Serve"))
        );
    }

    #[tokio::test]
    async fn the_same_note_makes_the_same_event() {
        let recorder = recorder();
        let name = |note: &str, random| {
            let event = event(note, Repeat::PerNote);
            let built = recorder.build(&about("a"), &event, jiff::Timestamp::UNIX_EPOCH, random);
            built.metadata.name
        };
        assert_eq!(name("a", 1), name("a", 2));
        assert_ne!(name("a", 1), name("b", 1));
    }

    #[tokio::test]
    async fn an_object_without_namespace_has_its_events_in_the_default_one() {
        let object = ObjectReference { namespace: None, ..about("a") };
        let event = event("x", Repeat::Always);
        let built = recorder().build(&object, &event, jiff::Timestamp::UNIX_EPOCH, 1);
        assert_eq!(built.metadata.namespace.as_deref(), Some("default"));
    }

    #[rstest]
    #[case::longest("n".repeat(MAX_NOTE_BYTES), MAX_NOTE_BYTES)]
    #[case::one_more("n".repeat(MAX_NOTE_BYTES + 1), MAX_NOTE_BYTES)]
    #[case::within_a_character("é".repeat(MAX_NOTE_BYTES / 2) + "x", MAX_NOTE_BYTES)]
    #[case::a_character_too_long("n".to_owned() + &"é".repeat(MAX_NOTE_BYTES / 2), MAX_NOTE_BYTES - 1)]
    #[tokio::test]
    async fn long_notes_are_cut(#[case] note: String, #[case] bytes: usize) {
        let event = event(&note, Repeat::Always);
        let built = recorder().build(&about("a"), &event, jiff::Timestamp::UNIX_EPOCH, 1);
        assert_eq!(built.note.unwrap().len(), bytes);
    }

    #[rstest]
    #[case::longest("a".repeat(MAX_NAME_BYTES), MAX_NAME_BYTES)]
    #[case::one_more("a".repeat(MAX_NAME_BYTES + 1), MAX_NAME_BYTES)]
    #[case::cut_at_a_dot("a".repeat(MAX_NAME_BYTES - 1) + ".a", MAX_NAME_BYTES - 1)]
    #[tokio::test]
    async fn names_stay_legal(#[case] name: String, #[case] bytes: usize) {
        let event = event("x", Repeat::Always);
        let built = recorder().build(&about(&name), &event, jiff::Timestamp::UNIX_EPOCH, 1);
        assert_eq!(built.metadata.name.unwrap().len(), bytes + 17);
    }

    #[tokio::test]
    async fn repetitions_are_counted_per_reason_or_per_note() {
        let recorder = recorder();
        let due = |note, repeat| recorder.is_due(&about("a"), &event(note, repeat));
        assert!(due("a", Repeat::PerReason));
        assert!(!due("b", Repeat::PerReason));
        assert!(due("a", Repeat::PerNote) && due("b", Repeat::PerNote));
        assert!(!due("b", Repeat::PerNote));
        assert!(due("b", Repeat::Always) && due("b", Repeat::Always));
    }
}
