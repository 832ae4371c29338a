//! The calls to the Kubernetes API, none of them on the way of a request.
//!
//! The official chart grants little: list but not watch for Components, get for one Configuration,
//! patch for the webhook's configuration. What is not granted is replaced by asking now and then.

mod components;
mod namespaces;
mod platform;
mod reach;

use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use json_patch::Patch;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::events::v1::Event as K8sEvent;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, PatchParams, PostParams};
use kube::runtime::watcher;
use kube::{Api, Client};
use resources::names;
use tokio::sync::{mpsc, watch};

use crate::ca_bundle::Seen;
use crate::events::{Limiter, Report};
use crate::live::{Live, mtls_enabled};

/// How often the control plane's Configuration is read. Its one switch is hardly ever turned.
const CONFIGURATION_POLL: Duration = Duration::from_secs(5);
/// Wait after a failed call.
const RETRY: Duration = Duration::from_secs(3);
/// How often the UIDs of allowed accounts are looked up.
const ACCOUNTS_POLL: Duration = Duration::from_mins(10);
/// Limit of one call.
const CALL: Duration = Duration::from_secs(10);
/// Target of the log lines.
const LOG: &str = "dapr.injector";

/// The API server, as the injector sees it.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The API server refused or could not be reached.
    #[error("call the API server")]
    Call(#[source] Box<kube::Error>),
    /// No answer in time.
    #[error("no answer from the API server within 10 seconds")]
    Timeout,
}

impl Cluster {
    /// `namespace` is the control plane's.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// Keeps the mTLS switch of the control plane's Configuration in `live`, until dropped.
    pub async fn follow_configuration(self, live: Live) {
        let mut failing = false;
        loop {
            match self.read_configuration(&live).await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::error!(target: LOG, "Configuration daprsystem cannot be read, mTLS stays as it is: {}", runtime::chain(&error));
                }
                Err(_) => {}
            }
            tokio::time::sleep(CONFIGURATION_POLL).await;
        }
    }

    /// Reads the mTLS switch of the control plane's Configuration once.
    ///
    /// # Errors
    /// [`ClusterError`]; `live` is then as it was. No Configuration is no error.
    pub async fn read_configuration(&self, live: &Live) -> Result<(), ClusterError> {
        let kind = dapr_kind("Configuration", "configurations");
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &kind);
        match call(api.get_opt(names::CONTROL_PLANE_CONFIGURATION)).await {
            Ok(found) => live.set_mtls_enabled(found.is_none_or(|c| mtls_enabled(&c.data))),
            // Without the kind there is no Configuration either.
            Err(error) if is_not_found(&error) => live.set_mtls_enabled(true),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Keeps the UIDs of these accounts (namespace, name) in `live`, until dropped. Names alone
    /// decide already; UIDs only help where a name is not what it seems.
    pub async fn follow_accounts(self, accounts: Vec<(String, String)>, live: Live) {
        loop {
            let mut uids = Vec::new();
            for (namespace, name) in &accounts {
                let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), namespace);
                match call(api.get_metadata_opt(name)).await {
                    Ok(found) => uids.extend(found.and_then(|account| account.metadata.uid)),
                    Err(error) => {
                        tracing::debug!(target: LOG, namespace, name, "allowed account cannot be read: {}", runtime::chain(&error));
                        break;
                    }
                }
            }
            live.set_uids(uids);
            tokio::time::sleep(ACCOUNTS_POLL).await;
        }
    }

    /// Keeps what is seen of the webhook's configuration in `seen`, until dropped. Without the
    /// right to watch it stays unknown.
    pub async fn follow_webhook(self, seen: watch::Sender<Seen>) {
        let name = names::WEBHOOK_CONFIGURATION;
        let events = watcher::watch_object(self.webhooks(), name);
        pin_mut!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(found) => publish(&seen, found.as_ref().map_or(Seen::Missing, Seen::of)),
                Err(error) => {
                    publish(&seen, Seen::Unknown);
                    tracing::debug!(target: LOG, "{name} cannot be watched: {}", runtime::chain(&error));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Sends a patch of the webhook's configuration.
    ///
    /// # Errors
    /// [`ClusterError`]
    pub async fn patch_webhook(&self, patch: Patch) -> Result<(), ClusterError> {
        let patch = kube::api::Patch::<()>::Json(patch);
        let name = names::WEBHOOK_CONFIGURATION;
        call(self.webhooks().patch_metadata(name, &PatchParams::default(), &patch))
            .await
            .map(|_| ())
    }

    /// Sends events about owners of pods, until dropped. Without the right to, it says so once.
    pub async fn send_events(self, mut reports: mpsc::Receiver<Report>) {
        let instance = runtime::environment::hostname();
        let mut limiter = Limiter::default();
        let mut failing = false;
        while let Some(report) = reports.recv().await {
            if !limiter.admits(&report, runtime::clock::monotonic()) {
                continue;
            }
            let api: Api<K8sEvent> = Api::namespaced(self.client.clone(), report.namespace());
            let event = report.into_event(&instance, runtime::clock::now());
            match call(api.create(&PostParams::default(), &event)).await {
                Ok(_) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(target: LOG, "owners of pods are not told by events: {}", runtime::chain(&error));
                }
                Err(_) => {}
            }
        }
    }

    fn webhooks(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }
}

/// Wakes the readers only when something changed.
fn publish(seen: &watch::Sender<Seen>, new: Seen) {
    seen.send_if_modified(|old| {
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

/// What the API server does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denied {
    /// Not even to list.
    List,
    /// To list, but not to watch.
    Watch,
}

fn denied(error: &watcher::Error) -> Option<Denied> {
    let forbidden =
        |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.is_forbidden());
    match error {
        watcher::Error::InitialListFailed(error) if forbidden(error) => Some(Denied::List),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error)
            if forbidden(error) =>
        {
            Some(Denied::Watch)
        }
        watcher::Error::WatchError(status) if status.is_forbidden() => Some(Denied::Watch),
        _ => None,
    }
}
