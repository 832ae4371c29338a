//! Events for the owners of pods. Admission warnings reach only the client that creates the pod,
//! which in most cases is a controller.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;
use resources::names;
use runtime::printable;

use crate::pod::Owner;

/// Interval between two Events of an owner with the same reason: its pods yield the same text.
const QUIET: Duration = Duration::from_mins(10);
/// Entries of the limiter. If more owners have Events in one interval, further Events are dropped.
const MAX_REMEMBERED: usize = 4096;
/// Longest note in characters (`events.k8s.io/v1`).
const MAX_NOTE_CHARS: usize = 1024;

/// The reason of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EventReason {
    Injected,
    Skipped,
    Denied,
    NotCalled,
}

/// An Event about a pod for its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InjectionEvent {
    owner: Owner,
    namespace: String,
    reason: EventReason,
    note: String,
    is_warning: bool,
}

impl InjectionEvent {
    /// `note` is cut to the limit of the API server.
    pub(crate) fn new(
        owner: Owner,
        namespace: &str,
        reason: EventReason,
        is_warning: bool,
        note: &str,
    ) -> Self {
        let note = printable(note).chars().take(MAX_NOTE_CHARS).collect();
        Self { owner, namespace: namespace.to_owned(), reason, note, is_warning }
    }

    /// Namespace of the owner.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Event for the API server. `instance` is the name of the injector's pod.
    pub fn into_event(self, instance: &str, now: jiff::Timestamp) -> Event {
        let reason = match self.reason {
            EventReason::Injected => "DaprInjected",
            EventReason::Skipped => "DaprInjectionSkipped",
            EventReason::Denied => "DaprInjectionDenied",
            EventReason::NotCalled => "DaprInjectorNotCalled",
        };
        Event {
            metadata: ObjectMeta {
                generate_name: Some("dapr-injection-".to_owned()),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some("Inject".to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(self.note),
            reason: Some(reason.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(self.owner.api_version),
                kind: Some(self.owner.kind),
                name: Some(self.owner.name),
                namespace: Some(self.namespace),
                uid: Some(self.owner.uid).filter(|uid| !uid.is_empty()),
                ..ObjectReference::default()
            }),
            reporting_controller: Some("dapr.io/sidecar-injector".to_owned()),
            reporting_instance: Some(instance.to_owned()),
            type_: Some(if self.is_warning { "Warning" } else { "Normal" }.to_owned()),
            ..Event::default()
        }
    }
}

/// The Event about the Deployment of the injector if the API server does not call the webhook.
pub(super) fn unreachable(
    count: u64,
    namespace: &str,
    instance: &str,
    now: jiff::Timestamp,
) -> Event {
    let event = InjectionEvent {
        owner: Owner {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            name: names::SERVICE_INJECTOR.to_owned(),
            uid: String::new(),
        },
        namespace: namespace.to_owned(),
        reason: EventReason::NotCalled,
        note: format!(
            "not called by the API server since start, but {count} pods created since then request a sidecar: \
             check that the API server can reach the webhook port (default 4000) of the injector's pods"
        ),
        is_warning: true,
    };
    event.into_event(instance, now)
}

/// Admits one Event per owner and reason in [`QUIET`].
#[derive(Debug, Default)]
pub(crate) struct EventLimiter {
    sent: HashMap<(String, EventReason), Instant>,
}

impl EventLimiter {
    /// Whether the Event can be sent now. If so, it counts as sent.
    pub(super) fn admits(&mut self, event: &InjectionEvent, now: Instant) -> bool {
        if self.sent.len() >= MAX_REMEMBERED {
            self.sent.retain(|_, at| now.duration_since(*at) < QUIET);
        }
        let key = (event.owner.uid.clone(), event.reason);
        let last = self.sent.get(&key);
        if last.is_some_and(|at| now.duration_since(*at) < QUIET)
            || (last.is_none() && self.sent.len() >= MAX_REMEMBERED)
        {
            return false;
        }
        self.sent.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(uid: &str, reason: EventReason) -> InjectionEvent {
        let text = |text: &str| text.to_owned();
        let owner = Owner {
            api_version: text("apps/v1"),
            kind: text("ReplicaSet"),
            name: text("web"),
            uid: text(uid),
        };
        InjectionEvent {
            owner,
            namespace: text("ns"),
            reason,
            note: text("note"),
            is_warning: true,
        }
    }

    #[test]
    fn admits_one_event_per_owner_and_reason_in_ten_minutes() {
        let start = runtime::clock::monotonic();
        let mut limiter = EventLimiter::default();
        let web = event("u1", EventReason::Denied);
        assert!(limiter.admits(&web, start));
        assert!(!limiter.admits(&web, start + Duration::from_mins(9)));
        assert!(limiter.admits(&event("u1", EventReason::Injected), start));
        assert!(limiter.admits(&event("u2", EventReason::Denied), start));
        assert!(limiter.admits(&web, start + Duration::from_mins(10)));
    }

    #[test]
    fn the_number_of_owners_is_bounded() {
        let start = runtime::clock::monotonic();
        let mut limiter = EventLimiter::default();
        let count = (0..MAX_REMEMBERED + 10)
            .filter(|n| limiter.admits(&event(&n.to_string(), EventReason::Injected), start))
            .count();
        assert_eq!(count, MAX_REMEMBERED);
        assert!(limiter.admits(&event("new", EventReason::Injected), start + QUIET));
    }

    #[test]
    fn an_unreachable_webhook_is_an_event_of_the_deployment() {
        let event = unreachable(3, "dapr-system", "pod-1", jiff::Timestamp::UNIX_EPOCH);
        let regarding = event.regarding.unwrap();
        assert_eq!(regarding.name.as_deref(), Some("dapr-sidecar-injector"));
        assert_eq!((regarding.kind.as_deref(), regarding.uid), (Some("Deployment"), None));
        assert_eq!(event.reason.as_deref(), Some("DaprInjectorNotCalled"));
        assert!(event.note.unwrap().starts_with("not called by the API server since start"));
    }

    #[test]
    fn an_event_names_the_owner() {
        let event =
            event("u1", EventReason::Skipped).into_event("pod-1", jiff::Timestamp::UNIX_EPOCH);
        insta::assert_json_snapshot!(event);
    }
}
