//! The state of the cluster: watches, polls, the webhook configuration, Events.
//!
//! Start at [`ClusterSnapshot`], which requests read; [`Cluster`] has the calls to the API server
//! that keep it up to date. No request waits for such a call.
//!
//! The official chart grants few rights: list but not watch for Components, get for one
//! Configuration, patch for the webhook configuration. Without the right to watch, the injector
//! polls.

mod ca_bundle;
mod ca_bundle_controller;
mod components;
mod events;
mod metrics;
mod namespaces;
mod reachability;
mod snapshot;
mod versions;

pub(crate) use ca_bundle_controller::CaBundleController;
pub(crate) use events::EventReason;
pub use events::InjectionEvent;
pub(crate) use metrics::ClusterMetrics;
pub use snapshot::ClusterSnapshot;

use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use json_patch::Patch;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PatchParams};
use kube::{Api, Client};
use kubernetes::{FailureKind, Recorder, Store, WatchEvent, WatchOptions, Watcher};
use resources::names;
use runtime::environment;
use tokio::sync::{mpsc, watch};

use crate::sidecar::mtls_enabled;
use ca_bundle::ObservedWebhook;

/// Interval of reads of the control plane's Configuration, which rarely changes.
const CONFIGURATION_POLL: Duration = Duration::from_secs(5);
/// Pause after a failed call.
const RETRY: Duration = Duration::from_secs(3);
/// Interval of reads of the UIDs of allowed accounts.
const ACCOUNTS_POLL: Duration = Duration::from_mins(10);
/// Timeout of a call.
const CALL: Duration = Duration::from_secs(10);
/// Controller that records Events.
const CONTROLLER: &str = "dapr.io/sidecar-injector";
/// Target of the log lines.
const LOG: &str = "dapr.injector";

/// Client of the API server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
    recorder: Recorder,
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("call the API server")]
    Call(#[source] Box<kube::Error>),
    #[error("no answer from the API server within 10 seconds")]
    Timeout,
}

impl Cluster {
    /// `namespace` is that of the control plane.
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        let recorder = Recorder::new(client.clone(), CONTROLLER, environment::hostname());
        Self { client, namespace: namespace.to_owned(), recorder }
    }

    /// Reads the trust anchors from the ConfigMap of the trust bundle.
    pub(crate) fn trust_bundle(&self) -> kubernetes::BundleReader {
        kubernetes::trust_bundle(self.client.clone(), &self.namespace)
    }

    /// Polls the mTLS setting of the control plane's Configuration.
    pub(crate) async fn poll_configuration(self, snapshot: ClusterSnapshot) {
        let mut failing = false;
        loop {
            match self.read_configuration(&snapshot).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(target: LOG, "cannot read Configuration daprsystem, the mTLS setting does not change; retrying: {}", runtime::chain(&error));
                }
                Err(_) => {}
            }
            tokio::time::sleep(CONFIGURATION_POLL).await;
        }
    }

    /// Reads the mTLS setting of the control plane's Configuration. Without a Configuration it has its
    /// default.
    ///
    /// # Errors
    /// [`ClusterError`]; the snapshot does not change.
    pub(crate) async fn read_configuration(
        &self,
        snapshot: &ClusterSnapshot,
    ) -> Result<(), ClusterError> {
        let kind = dapr_kind("Configuration", "configurations");
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
        match call(api.get_opt(names::CONTROL_PLANE_CONFIGURATION)).await {
            Ok(found) => snapshot.set_mtls_enabled(found.is_none_or(|c| mtls_enabled(&c.data))),
            // The custom resource definition is not installed.
            Err(error) if is_not_found(&error) => snapshot.set_mtls_enabled(true),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Polls the UIDs of these accounts (namespace, name). The name of an account is sufficient to
    /// allow it; the UID also allows requests with another user name.
    pub(crate) async fn poll_accounts(
        self,
        accounts: Vec<(String, String)>,
        snapshot: ClusterSnapshot,
    ) {
        loop {
            let mut uids = Vec::new();
            for (namespace, name) in &accounts {
                let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
                match call(api.get_metadata_opt(name)).await {
                    Ok(found) => uids.extend(found.and_then(|account| account.metadata.uid)),
                    Err(error) => {
                        tracing::debug!(target: LOG, namespace, name, "cannot read allowed service account: {}", runtime::chain(&error));
                        break;
                    }
                }
            }
            snapshot.set_uids(uids);
            tokio::time::sleep(ACCOUNTS_POLL).await;
        }
    }

    /// Watches the webhook configuration. Without the right to watch, it stays unknown.
    async fn watch_webhook(self, observed: watch::Sender<ObservedWebhook>) {
        let options =
            WatchOptions::new("MutatingWebhookConfiguration").name(names::WEBHOOK_CONFIGURATION);
        let events = self.watcher().watch::<MutatingWebhookConfiguration, _>(options, Api::all);
        pin_mut!(events);
        let mut store = Store::default();
        while let Some(event) = events.next().await {
            if matches!(&event, WatchEvent::Failed(failure) if is_forbidden(failure.kind)) {
                publish(&observed, ObservedWebhook::Unknown);
                continue;
            }
            let changed = store.apply(event.map(|found| ((), Some(ObservedWebhook::of(&found)))));
            if changed {
                let found = store.objects().get(&()).cloned();
                publish(&observed, found.unwrap_or(ObservedWebhook::Missing));
            }
        }
    }

    /// Patches the webhook configuration.
    async fn patch_webhook(&self, patch: Patch) -> Result<(), ClusterError> {
        let patch = kube::api::Patch::<()>::Json(patch);
        let name = names::WEBHOOK_CONFIGURATION;
        call(self.webhooks().patch_metadata(name, &PatchParams::default(), &patch))
            .await
            .map(|_| ())
    }

    /// Records Events about owners of pods.
    pub(crate) async fn record_events(self, mut events: mpsc::Receiver<InjectionEvent>) {
        while let Some(event) = events.recv().await {
            let (owner, event) = event.into_event();
            self.recorder.record_event(&owner, event).await;
        }
    }

    /// The injector may have the right to list without that to watch, so lists come in pages.
    fn watcher(&self) -> Watcher {
        Watcher::paged(self.client.clone())
    }

    fn webhooks(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }
}

/// Notifies the receivers if the value differs.
fn publish(observed: &watch::Sender<ObservedWebhook>, new: ObservedWebhook) {
    observed.send_if_modified(|old| {
        let changed = *old != new;
        *old = new;
        changed
    });
}

fn dapr_kind(kind: &str, plural: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("dapr.io", "v1alpha1", kind);
    ApiResource::from_gvk_with_plural(&kind, plural)
}

async fn call<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ClusterError> {
    match tokio::time::timeout(CALL, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ClusterError::Call(Box::new(error))),
        Err(_) => Err(ClusterError::Timeout),
    }
}

fn is_not_found(error: &ClusterError) -> bool {
    matches!(error, ClusterError::Call(error) if matches!(&**error, kube::Error::Api(status) if status.is_not_found()))
}

fn is_forbidden(failure: FailureKind) -> bool {
    matches!(failure, FailureKind::Forbidden(_))
}
