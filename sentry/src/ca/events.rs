//! Kubernetes Events about the CA, on the Secret that holds it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use kubernetes::api_text;
use runtime::clock;
use sha2::{Digest as _, Sha256};

use super::record::NAME;

const COMPONENT: &str = "dapr-sentry";
/// Timeout of recording an Event, which is best effort.
const TIMEOUT: Duration = Duration::from_secs(5);

const ALREADY_EXISTS: u16 = 409;

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

    fn kind(self) -> &'static str {
        match self {
            Self::Generated | Self::Updated | Self::Rotation => "Normal",
            Self::UpdateSkipped | Self::Expiring | Self::RotationRefused => "Warning",
        }
    }
}

/// Records Events. Disabled in standalone mode, where the log has the same messages.
#[derive(Clone)]
pub(crate) struct Events {
    api: Option<Api<Event>>,
    namespace: String,
}

impl Events {
    /// Records nothing.
    pub(crate) fn disabled() -> Self {
        Self { api: None, namespace: String::new() }
    }

    pub(crate) fn new(client: &Client, namespace: &str) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self { api: Some(api), namespace: namespace.to_owned() }
    }

    /// Records an Event. Its name is derived from reason and message, so that several replicas
    /// record one Event. A failure is logged and not retried.
    pub(crate) async fn record(&self, reason: Reason, message: &str) {
        let Some(api) = &self.api else { return };
        let event = event(reason, message, &self.namespace);
        let params = PostParams::default();
        let failure = match tokio::time::timeout(TIMEOUT, api.create(&params, &event)).await {
            Ok(Ok(_)) => return,
            Ok(Err(kube::Error::Api(status))) if status.code == ALREADY_EXISTS => return,
            Ok(Err(e)) => api_text(&e),
            Err(_) => "timed out".to_owned(),
        };
        tracing::warn!(target: "dapr.sentry.ca", reason = reason.label(), error = failure, "cannot record an Event");
    }
}

fn event(reason: Reason, message: &str, namespace: &str) -> Event {
    let digest = Sha256::digest(format!("{}\n{message}", reason.label()));
    // 64 bits are unique among the Events of one Secret.
    let digest = u64::from_be_bytes(*digest.first_chunk().unwrap_or(&[0; 8]));
    let now = Time(clock::now());
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{NAME}.{digest:016x}")),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            ..ObjectReference::default()
        },
        reason: Some(reason.label().to_owned()),
        message: Some(message.to_owned()),
        type_: Some(reason.kind().to_owned()),
        source: Some(EventSource { component: Some(COMPONENT.to_owned()), host: None }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_messages_have_one_event() {
        let name = |reason, text| event(reason, text, "n").metadata.name;
        assert_eq!(name(Reason::Expiring, "a"), name(Reason::Expiring, "a"));
        assert_ne!(name(Reason::Expiring, "a"), name(Reason::Expiring, "b"));
        assert_ne!(name(Reason::Expiring, "a"), name(Reason::Updated, "a"));
    }
}
