//! Keeps the API server's trust in this webhook: the shell around [`crate::ca_bundle`].

use std::sync::Arc;
use std::time::Duration;

use identity::TrustAnchors;
use runtime::ReadyGuard;
use tokio::sync::watch;
use transport::Svid;

use crate::ca_bundle::{self, Seen, Step};
use crate::cluster::Cluster;
use crate::metrics::Metrics;

/// How often everything is looked at again, whatever happened or did not.
const RESYNC: Duration = Duration::from_secs(10);
/// The same until the first success, which readiness waits for.
const FIRST_RESYNC: Duration = Duration::from_secs(1);
/// Target of the log lines.
const LOG: &str = "dapr.injector";

/// The upkeep of the caBundle.
pub struct Keeper {
    cluster: Cluster,
    svid: Svid,
    ready: ReadyGuard,
    metrics: Metrics,
    current: Arc<TrustAnchors>,
    before: Option<Arc<TrustAnchors>>,
    published: Option<String>,
    last_trouble: String,
}

impl Keeper {
    /// `ready` is set after the first success and stays set: a restart would not help later.
    pub fn new(cluster: Cluster, svid: Svid, ready: ReadyGuard, metrics: Metrics) -> Self {
        let current = svid.anchors().borrow().clone();
        Self {
            cluster,
            svid,
            ready,
            metrics,
            current,
            before: None,
            published: None,
            last_trouble: String::new(),
        }
    }

    /// Reconciles when the anchors change, when the object changes, and from time to time.
    pub async fn run(mut self) {
        let (send, mut seen) = watch::channel(Seen::Unknown);
        let watching = self.cluster.clone().follow_webhook(send);
        let keeping = async {
            let mut anchors = self.svid.anchors();
            loop {
                self.turn_to(anchors.borrow_and_update().clone());
                let now_seen = seen.borrow_and_update().clone();
                self.reconcile(&now_seen).await;
                let pause = if self.published.is_some() { RESYNC } else { FIRST_RESYNC };
                tokio::select! {
                    // A sender that is gone means that the process ends.
                    _ = anchors.changed() => {}
                    _ = seen.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        tokio::join!(watching, keeping);
    }

    fn turn_to(&mut self, anchors: Arc<TrustAnchors>) {
        if anchors.pem() != self.current.pem() {
            self.before = Some(std::mem::replace(&mut self.current, anchors));
        }
    }

    async fn reconcile(&mut self, seen: &Seen) {
        let svid = self.svid.current();
        self.metrics.serving_until(svid.chain().not_after());
        let wanted = ca_bundle::wanted(
            &self.current,
            self.before.as_deref(),
            svid.chain(),
            runtime::clock::now(),
        );
        match ca_bundle::plan(seen, &wanted) {
            Step::Keep => self.done(wanted),
            Step::Wait(why) => self.trouble(why.to_owned()),
            Step::Send(patch) => match self.cluster.patch_webhook(patch).await {
                Ok(()) => {
                    if self.published.as_ref() == Some(&wanted) && *seen != Seen::Unknown {
                        self.metrics.ca_bundle_restored();
                        tracing::warn!(target: LOG, "caBundle of the webhook configuration had been changed and was restored");
                    }
                    self.done(wanted);
                }
                Err(error) => {
                    self.trouble(format!("write caBundle: {}", runtime::chain(&error)));
                }
            },
        }
    }

    fn done(&mut self, wanted: String) {
        if self.published.as_ref() != Some(&wanted) {
            tracing::info!(target: LOG, "webhook configuration carries the trust anchors");
            self.published = Some(wanted);
        }
        self.last_trouble.clear();
        self.ready.set_ready();
    }

    fn trouble(&mut self, text: String) {
        if self.last_trouble != text {
            tracing::error!(target: LOG, "{text}; trying again");
            self.last_trouble = text;
        }
    }
}
