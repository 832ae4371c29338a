//! Keeps the conversion settings of the Subscription CRD pointing at this webhook.
use std::sync::Arc;
use std::time::Duration;

use futures::future;
use identity::TrustAnchors;
use kubernetes::{WatchEvent, api_text};
use runtime::{ReadyGuard, random};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use crate::cluster::Cluster;
use crate::cluster::watch::handle_events;
use crate::definitions::subscriptions::crd_patch::{self, NoWebhook};
use crate::metrics::{CrdCheck, Metrics};

/// Interval between checks of the CRD without a watch event, for an account that may not watch it.
/// `kubectl apply` of the upstream file, and an upgrade by the CLI, reset the conversion settings.
const RESYNC: Duration = Duration::from_secs(30);
/// Pause after a failure, and the shortest pause between two checks: a client that keeps writing the
/// CRD must not cause as many writes here.
const RETRY: Duration = Duration::from_secs(2);

/// Why the CRD was not checked.
#[derive(Debug, thiserror::Error)]
enum CrdError {
    #[error("{}", api_text(.0))]
    Api(#[from] kube::Error),
    #[error(transparent)]
    NoWebhook(#[from] NoWebhook),
}

/// Reconciles the CRD of Subscriptions.
pub(crate) struct CrdController {
    pub(crate) cluster: Cluster,
    pub(crate) metrics: Metrics,
    /// Namespace of the control plane, where the webhook's Service is.
    pub(crate) namespace: String,
}

impl CrdController {
    /// Reconciles until it is dropped. Cancel safe. `ready` is set after the first successful
    /// check.
    pub(crate) async fn run(self, anchors: watch::Receiver<Arc<TrustAnchors>>, ready: ReadyGuard) {
        let changed = Notify::new();
        let events = self.cluster.watch_crd(crd_patch::CRD);
        let watch = handle_events("CustomResourceDefinition", &self.metrics, events, |event| {
            if let WatchEvent::Apply(_) | WatchEvent::InitApply(_) = event {
                changed.notify_one();
            }
        });
        let work = self.reconcile_forever(anchors, ready, &changed);
        future::join(watch, work).await;
    }

    async fn reconcile_forever(
        &self,
        mut anchors: watch::Receiver<Arc<TrustAnchors>>,
        ready: ReadyGuard,
        changed: &Notify,
    ) {
        loop {
            let earliest = Instant::now() + RETRY;
            let trusted = anchors.borrow_and_update().clone();
            let outcome = self.reconcile(trusted.pem()).await;
            let result = *outcome.as_ref().unwrap_or(&CrdCheck::Failed);
            self.metrics.crd_checked(crd_patch::CRD, result);
            let pause = match outcome {
                Ok(_) => {
                    ready.set_ready();
                    RESYNC
                }
                Err(error) => {
                    tracing::error!(target: "dapr.operator", "failed to reconcile CRD {}: {error}", crd_patch::CRD);
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(random::jittered(pause, 0.1)) => {}
                () = changed.notified() => sleep_until(earliest).await,
                rotated = anchors.changed() => if rotated.is_err() { break },
            }
        }
        std::future::pending::<()>().await; // the scope is ending
    }

    async fn reconcile(&self, anchors: &str) -> Result<CrdCheck, CrdError> {
        let name = crd_patch::CRD;
        let crd = self.cluster.crd(name).await?;
        let operations = crd_patch::patch(&crd, &self.namespace, anchors)?;
        if operations.is_empty() {
            tracing::debug!(target: "dapr.operator", "Conversion webhook for \"{name}\" is up to date");
            return Ok(CrdCheck::UpToDate);
        }
        self.cluster.patch_crd(name, operations).await?;
        tracing::info!(target: "dapr.operator", "Successfully patched webhook in CRD \"{name}\"");
        Ok(CrdCheck::Patched)
    }
}
