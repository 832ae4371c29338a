//! Sentry's own certificate: signed in process, Ed25519, renewed at half of its life and whenever
//! the CA changes. Source: Dapr 1.18, sentry.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use identity::{Bundle, Csr, KeyKind, PrivateKey, SpiffeId};
use jiff::Timestamp;
use runtime::{ReadyGuard, Scope, clock, random};
use tokio::sync::watch;
use transport::Svid;
use transport::svid::{CertifiedSvid, renewal_time};

use crate::authority::Authority;
use crate::metrics::Metrics;

/// The clock is looked at this often, so that a jump of it is noticed.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(10);

/// Waits for the first CA, issues the first certificate and keeps it fresh for as long as the scope
/// lives. Health target: `security-provider`.
///
/// # Errors
/// The scope ended before there was a CA, or the first certificate cannot be issued.
pub async fn start(
    authority: Authority,
    id: SpiffeId,
    metrics: Metrics,
    scope: &Scope,
) -> anyhow::Result<Option<Svid>> {
    let ready = scope.ready("security-provider");
    let mut bundles = authority.watch();
    let first = scope.token().run_until_cancelled(bundles.wait_for(Option::is_some)).await;
    let Some(bundle) = first.transpose()?.and_then(|bundle| bundle.clone()) else {
        return Ok(None);
    };
    let (anchors, receiver) = watch::channel(Arc::new(bundle.anchors().clone()));
    let keeper = OwnSvid { authority, id, metrics, anchors };
    let (svid, renew_at) = keeper.issue()?;
    let svid = Svid::fixed(svid, receiver);
    ready.set_ready();
    let (handle, token) = (svid.clone(), scope.token().clone());
    scope.spawn("own-certificate", async move {
        token.run_until_cancelled(keeper.renew(bundles, handle, renew_at)).await;
        ReadyGuard::set_not_ready(&ready);
        Ok(())
    });
    Ok(Some(svid))
}

struct OwnSvid {
    authority: Authority,
    id: SpiffeId,
    metrics: Metrics,
    anchors: watch::Sender<Arc<identity::TrustAnchors>>,
}

impl OwnSvid {
    /// A new certificate for a new key, and when to renew it.
    fn issue(&self) -> anyhow::Result<(CertifiedSvid, Timestamp)> {
        let outcome = self.try_issue();
        if outcome.is_err() {
            self.metrics.own_certificate_failed();
        }
        outcome.context("issue sentry's own certificate")
    }

    fn try_issue(&self) -> anyhow::Result<(CertifiedSvid, Timestamp)> {
        let key = PrivateKey::generate(KeyKind::Ed25519)?;
        let csr = Csr::parse_pem(identity::csr_pem(&key)?.as_bytes())?;
        let (bundle, leaf) =
            self.authority.issue(&csr, &self.id, &[], clock::now(), random::fraction())?;
        let chain = leaf.chain;
        self.metrics.own_certificate(&chain);
        let at = renewal_time(chain.not_before(), chain.not_after(), random::fraction());
        self.publish(&bundle);
        Ok((CertifiedSvid::new(chain, &key)?, at))
    }

    fn publish(&self, bundle: &Bundle) {
        self.anchors.send_if_modified(|current| {
            let changed = **current != *bundle.anchors();
            if changed {
                *current = Arc::new(bundle.anchors().clone());
            }
            changed
        });
    }

    async fn renew(
        self,
        mut bundles: watch::Receiver<Option<Arc<Bundle>>>,
        svid: Svid,
        mut at: Timestamp,
    ) {
        loop {
            let left = Duration::try_from(clock::now().duration_until(at)).unwrap_or_default();
            tokio::select! {
                changed = bundles.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {
                    if left > LONGEST_SLEEP {
                        continue;
                    }
                }
            }
            match self.issue() {
                Ok((renewed, next)) => {
                    svid.replace(renewed);
                    at = next;
                }
                Err(e) => {
                    tracing::error!(target: "dapr.runtime.security", "{e:#}; the present certificate stays in use");
                    tokio::time::sleep(random::jittered(RETRY, 0.1)).await;
                }
            }
        }
    }
}
