//! Kubernetes Events about the CA, on the Secret that holds it.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kubernetes::{Event, EventType, Recorder, Repeat};
use runtime::environment;

use crate::ca::record::NAME;

const CONTROLLER: &str = "dapr-sentry";

/// The reason of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// Sentry created the first CA.
    Generated,
    /// A different CA is in use.
    Updated,
    /// The stored CA was rejected.
    UpdateSkipped,
    /// The issuer or the root expires soon.
    Expiring,
    /// A rotation entered a stage or finished.
    Rotation,
    /// A rotation is not possible.
    RotationRefused,
}

impl Reason {
    fn label(self) -> &'static str {
        match self {
            Self::Generated => "IssuerGenerated",
            Self::Updated => "IssuerUpdated",
            Self::UpdateSkipped => "IssuerUpdateSkipped",
            Self::Expiring => "IssuerExpiring",
            Self::Rotation => "IssuerRotation",
            Self::RotationRefused => "IssuerRotationRefused",
        }
    }

    fn type_(self) -> EventType {
        match self {
            Self::Generated | Self::Updated | Self::Rotation => EventType::Normal,
            Self::UpdateSkipped | Self::Expiring | Self::RotationRefused => EventType::Warning,
        }
    }
}

/// Records Events. Disabled in standalone mode, where the log has the same messages.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Option<(Recorder, ObjectReference)>,
}

impl Events {
    /// Records nothing.
    pub(crate) fn disabled() -> Self {
        Self { recorder: None }
    }

    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        let recorder = Recorder::new(client, CONTROLLER, environment::hostname());
        let secret = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        };
        Self { recorder: Some((recorder, secret)) }
    }

    /// Records an Event. Its name is derived from reason and message, so that several replicas
    /// record one Event. A failure is logged and not retried.
    pub(crate) async fn record(&self, reason: Reason, message: &str) {
        let Some((recorder, secret)) = &self.recorder else { return };
        let event = Event {
            type_: reason.type_(),
            reason: reason.label(),
            action: "ManageCA",
            note: message.to_owned(),
            repeat: Repeat::PerNote,
        };
        recorder.record_event(secret, event).await;
    }
}
