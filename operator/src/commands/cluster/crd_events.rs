//! Events of `apply-crds`. They are on the operator's Deployment, which remains when Helm has
//! removed the hook. A failed record has no further effect.
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{Api, Client};
use kubernetes::{Event, EventType, Recorder, Repeat};

/// The operator's Deployment (Dapr 1.18).
const DEPLOYMENT: &str = "dapr-operator";
/// Reporting controller of the Events.
const CONTROLLER: &str = "dapr-crds";
/// Limit of reading the Deployment.
const READ_LIMIT: Duration = Duration::from_secs(5);

/// Records Warning Events on the operator's Deployment in one namespace.
pub(in crate::commands) struct CrdEvents {
    recorder: Recorder,
    deployments: Api<Deployment>,
    namespace: String,
}

impl CrdEvents {
    pub(in crate::commands) fn new(client: &Client, namespace: &str) -> Self {
        let instance = runtime::environment::hostname();
        Self {
            recorder: Recorder::new(client.clone(), CONTROLLER, instance),
            deployments: Api::namespaced(client.clone(), namespace),
            namespace: namespace.to_owned(),
        }
    }

    /// Records that the definition `name` has `newer`, which this release lacks, and keeps it.
    pub(in crate::commands) async fn kept(&self, name: &str, newer: &str) {
        let note = format!(
            "kept {name}: newer than this release (e.g. {newer}); upgrade the control plane, which \
             knows nothing of it"
        );
        self.record("DefinitionNewer", note).await;
    }

    /// Records that a definition was not applied.
    pub(in crate::commands) async fn failed(
        &self,
        error: &(dyn std::error::Error + Send + Sync + 'static),
    ) {
        self.record("DefinitionNotApplied", runtime::chain(error)).await;
    }

    async fn record(&self, reason: &'static str, note: String) {
        let (type_, action) = (EventType::Warning, "ApplyDefinitions");
        let event = Event { type_, reason, action, note, repeat: Repeat::PerNote };
        self.recorder.record_event(&self.deployment().await, event).await;
    }

    /// Includes the UID if the Deployment can be read: `kubectl describe` selects Events by it.
    async fn deployment(&self) -> ObjectReference {
        let read = self.deployments.get_metadata_opt(DEPLOYMENT);
        let read = tokio::time::timeout(READ_LIMIT, read).await;
        let uid = read.ok().and_then(Result::ok).flatten().and_then(|found| found.metadata.uid);
        ObjectReference {
            api_version: Some("apps/v1".to_owned()),
            kind: Some("Deployment".to_owned()),
            namespace: Some(self.namespace.clone()),
            name: Some(DEPLOYMENT.to_owned()),
            uid,
            ..ObjectReference::default()
        }
    }
}
