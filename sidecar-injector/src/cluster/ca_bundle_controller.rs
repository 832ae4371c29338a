//! Reconciles the `caBundle` of the webhook configuration; see [`super::ca_bundle`].

use std::sync::Arc;
use std::time::Duration;

use identity::TrustAnchors;
use runtime::ReadyGuard;
use tokio::sync::watch;
use transport::Svid;

use super::ca_bundle::{self, ObservedWebhook, Plan};
use super::metrics::ClusterMetrics;
use super::{Cluster, LOG};

/// Interval between two reconciliations without a change.
const RESYNC: Duration = Duration::from_secs(10);
/// The same until the first success, which readiness waits for.
const FIRST_RESYNC: Duration = Duration::from_secs(1);

/// Keeps the trust anchors in the webhook configuration.
pub(crate) struct CaBundleController {
    cluster: Cluster,
    svid: Svid,
    ready: ReadyGuard,
    metrics: ClusterMetrics,
    current: Arc<TrustAnchors>,
    previous: Option<Arc<TrustAnchors>>,
    published: Option<String>,
    last_error: String,
}

impl CaBundleController {
    /// `ready` is set after the first success. Later failures do not reset it, because a restart
    /// would not resolve them.
    pub(crate) fn new(
        cluster: Cluster,
        svid: Svid,
        ready: ReadyGuard,
        metrics: ClusterMetrics,
    ) -> Self {
        let current = svid.anchors().borrow().clone();
        Self {
            cluster,
            svid,
            ready,
            metrics,
            current,
            previous: None,
            published: None,
            last_error: String::new(),
        }
    }

    /// Reconciles when the trust anchors or the configuration change, and every [`RESYNC`].
    pub(crate) async fn run(mut self) {
        let (send, mut observed) = watch::channel(ObservedWebhook::Unknown);
        let watching = self.cluster.clone().watch_webhook(send);
        let reconciling = async {
            let mut anchors = self.svid.anchors();
            loop {
                self.set_anchors(anchors.borrow_and_update().clone());
                let webhook = observed.borrow_and_update().clone();
                self.reconcile(&webhook).await;
                let pause = if self.published.is_some() { RESYNC } else { FIRST_RESYNC };
                tokio::select! {
                    // A closed channel means that the process stops.
                    _ = anchors.changed() => {}
                    _ = observed.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        tokio::join!(watching, reconciling);
    }

    fn set_anchors(&mut self, anchors: Arc<TrustAnchors>) {
        if anchors.pem() != self.current.pem() {
            self.previous = Some(std::mem::replace(&mut self.current, anchors));
        }
    }

    async fn reconcile(&mut self, observed: &ObservedWebhook) {
        let svid = self.svid.current();
        self.metrics.certificate_expires(svid.chain().not_after());
        let desired = ca_bundle::desired(
            &self.current,
            self.previous.as_deref(),
            svid.chain(),
            runtime::clock::now(),
        );
        match ca_bundle::plan(observed, &desired) {
            Plan::Keep => self.succeeded(desired),
            Plan::Wait(reason) => self.failed(reason.to_owned()),
            Plan::Apply(patch) => match self.cluster.patch_webhook(patch).await {
                Ok(()) => {
                    let restored = self.published.as_ref() == Some(&desired)
                        && *observed != ObservedWebhook::Unknown;
                    if restored {
                        self.metrics.ca_bundle_restored();
                        tracing::warn!(target: LOG, "restored the caBundle of the webhook configuration, which another client changed");
                    }
                    self.succeeded(desired);
                }
                Err(error) => self.failed(format!("write caBundle: {}", runtime::chain(&error))),
            },
        }
    }

    fn succeeded(&mut self, bundle: String) {
        if self.published.as_ref() != Some(&bundle) {
            tracing::info!(target: LOG, "published the trust anchors in the webhook configuration");
            self.published = Some(bundle);
        }
        self.last_error.clear();
        self.ready.set_ready();
    }

    fn failed(&mut self, error: String) {
        if self.last_error != error {
            tracing::error!(target: LOG, "{error}; retrying");
            self.last_error = error;
        }
    }
}
