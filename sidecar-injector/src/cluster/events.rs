//! Events for the owners of pods. Admission warnings reach only the client that creates the pod,
//! which in most cases is a controller.

use k8s_openapi::api::core::v1::ObjectReference;
use kubernetes::{Event, EventType, Repeat};
use resources::names;

use crate::pod::Owner;

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
    pub(crate) fn new(
        owner: Owner,
        namespace: &str,
        reason: EventReason,
        is_warning: bool,
        note: &str,
    ) -> Self {
        let (namespace, note) = (namespace.to_owned(), note.to_owned());
        Self { owner, namespace, reason, note, is_warning }
    }

    /// The owner, and what is recorded about it.
    pub fn into_event(self) -> (ObjectReference, Event) {
        let owner = ObjectReference {
            api_version: Some(self.owner.api_version),
            kind: Some(self.owner.kind),
            name: Some(self.owner.name),
            namespace: Some(self.namespace),
            uid: Some(self.owner.uid).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        };
        let reason = match self.reason {
            EventReason::Injected => "DaprInjected",
            EventReason::Skipped => "DaprInjectionSkipped",
            EventReason::Denied => "DaprInjectionDenied",
            EventReason::NotCalled => "DaprInjectorNotCalled",
        };
        let type_ = if self.is_warning { EventType::Warning } else { EventType::Normal };
        let (action, note, repeat) = ("Inject", self.note, Repeat::PerReason);
        (owner, Event { type_, reason, action, note, repeat })
    }
}

/// The Event about the Deployment of the injector if the API server does not call the webhook.
pub(super) fn unreachable(count: u64, namespace: &str) -> InjectionEvent {
    InjectionEvent {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_webhook_is_an_event_of_the_deployment() {
        let (regarding, event) = unreachable(3, "dapr-system").into_event();
        assert_eq!(regarding.name.as_deref(), Some("dapr-sidecar-injector"));
        assert_eq!((regarding.kind.as_deref(), regarding.uid), (Some("Deployment"), None));
        assert_eq!((event.reason, event.type_), ("DaprInjectorNotCalled", EventType::Warning));
        assert!(event.note.starts_with("not called by the API server since start"));
    }

    #[test]
    fn an_event_names_the_owner() {
        let text = |text: &str| text.to_owned();
        let owner = Owner {
            api_version: text("apps/v1"),
            kind: text("ReplicaSet"),
            name: text("web"),
            uid: text("u1"),
        };
        let event = InjectionEvent::new(owner, "ns", EventReason::Skipped, true, "note");
        let (regarding, event) = event.into_event();
        let want = ObjectReference {
            api_version: Some(text("apps/v1")),
            kind: Some(text("ReplicaSet")),
            name: Some(text("web")),
            namespace: Some(text("ns")),
            uid: Some(text("u1")),
            ..ObjectReference::default()
        };
        assert_eq!(regarding, want);
        assert_eq!((event.reason, event.action), ("DaprInjectionSkipped", "Inject"));
        assert_eq!((event.note.as_str(), event.repeat), ("note", Repeat::PerReason));
    }
}
