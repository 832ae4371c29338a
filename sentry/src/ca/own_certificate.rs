//! Sentry's own certificate: signed in process, Ed25519, renewed at half of its lifetime and whenever
//! the CA changes. Source: Dapr 1.18, sentry.

use std::sync::Arc;
use std::time::Duration;

use identity::{Bundle, Csr, CsrError, KeyError, KeyKind, PrivateKey, SpiffeId};
use jiff::Timestamp;
use runtime::{ReadyGuard, Scope, clock, random};
use tokio::sync::watch;
use transport::Svid;
use transport::svid::{CertifiedSvid, renewal_time};

use super::authority::{Authority, IssueFailure, LeafSpec};
use crate::metrics::Metrics;

/// The clock is checked at least this often, so that a jump is noticed.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// Delay before a retry.
const RETRY: Duration = Duration::from_secs(10);

const LOG: &str = "dapr.runtime.security";

/// Why sentry has no certificate of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnCertificateError {
    /// A key or a signing request could not be generated.
    #[error("generate a key")]
    Key(#[from] KeyError),
    /// The generated signing request does not parse.
    #[error("parse the signing request")]
    Csr(#[from] CsrError),
    /// The CA did not sign it.
    #[error("issue sentry's own certificate")]
    Issue(#[from] IssueFailure),
    /// The certificate cannot be used for TLS.
    #[error("use sentry's own certificate: {0}")]
    Unusable(String),
}

/// Waits for the first CA, issues the first certificate and renews it until the scope is cancelled.
/// Returns `None` if the scope is cancelled first. A CA that cannot sign is retried.
///
/// Health target: `security-provider`, ready while the certificate is valid.
pub(crate) async fn start(
    authority: Authority,
    id: SpiffeId,
    metrics: Metrics,
    scope: &Scope,
) -> Option<Svid> {
    let ready = scope.ready("security-provider");
    let token = scope.token().clone();
    let mut bundles = authority.watch();
    let first = token.run_until_cancelled(bundles.wait_for(Option::is_some)).await?;
    let bundle = first.ok().and_then(|bundle| bundle.clone())?;
    let (anchors, receiver) = watch::channel(Arc::new(bundle.anchors().clone()));
    let own = OwnCertificate { authority, id, metrics, anchors };
    let (svid, renew_at) = token.run_until_cancelled(own.issue_first(&mut bundles)).await?;
    let svid = Svid::fixed(svid, receiver);
    ready.set_ready();
    let handle = svid.clone();
    scope.spawn("own-certificate", async move {
        token.run_until_cancelled(own.renew(bundles, &handle, renew_at, &ready)).await;
        ready.set_not_ready();
        Ok(())
    });
    Some(svid)
}

struct OwnCertificate {
    authority: Authority,
    id: SpiffeId,
    metrics: Metrics,
    anchors: watch::Sender<Arc<identity::TrustAnchors>>,
}

impl OwnCertificate {
    /// Issues a certificate for a new key; returns it with its renewal time.
    fn issue(&self) -> Result<(CertifiedSvid, Timestamp), OwnCertificateError> {
        let outcome = self.try_issue();
        if outcome.is_err() {
            self.metrics.own_certificate_failed();
        }
        outcome
    }

    fn try_issue(&self) -> Result<(CertifiedSvid, Timestamp), OwnCertificateError> {
        let key = PrivateKey::generate(KeyKind::Ed25519)?;
        let csr = Csr::parse_pem(identity::csr_pem(&key)?.as_bytes())?;
        let leaf = LeafSpec { id: &self.id, dns_names: &[], container_images: None };
        let (bundle, leaf) = self.authority.issue(&csr, leaf, clock::now(), random::fraction())?;
        let chain = leaf.chain;
        self.metrics.own_certificate(&chain);
        let at = renewal_time(chain.not_before(), chain.not_after(), random::fraction());
        self.publish(&bundle);
        let certified = CertifiedSvid::new(chain, &key)
            .map_err(|e| OwnCertificateError::Unusable(runtime::chain(&e)))?;
        Ok((certified, at))
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

    async fn issue_first(
        &self,
        bundles: &mut watch::Receiver<Option<Arc<Bundle>>>,
    ) -> (CertifiedSvid, Timestamp) {
        loop {
            match self.issue() {
                Ok(issued) => return issued,
                Err(e) => {
                    tracing::error!(target: LOG, "{}; sentry is not ready", runtime::chain(&e));
                }
            }
            // Ends early when the CA is replaced.
            let _ = tokio::time::timeout(RETRY, bundles.changed()).await;
        }
    }

    async fn renew(
        self,
        mut bundles: watch::Receiver<Option<Arc<Bundle>>>,
        svid: &Svid,
        mut at: Timestamp,
        ready: &ReadyGuard,
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
                    ready.set_ready();
                }
                Err(e) => {
                    if svid.current().chain().not_after() <= clock::now() {
                        ready.set_not_ready();
                    }
                    tracing::error!(target: LOG, "{}; the current certificate stays in use", runtime::chain(&e));
                    tokio::time::sleep(random::jittered(RETRY, 0.1)).await;
                }
            }
        }
    }
}
