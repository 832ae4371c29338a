//! The X.509-SVID of this process: requested from sentry, renewed at half of its lifetime, readable
//! at any time.

mod sentry;

use std::time::Duration;

use identity::{KeyKind, SpiffeError, TrustDomain};
use jiff::Timestamp;
use runtime::{BoxError, ReadyGuard, Scope, chain, clock, random};

use crate::anchors::{self, AnchorSource, AnchorSourceError};
use crate::tls::TlsError;

pub use crate::certified::{CertifiedSvid, CertifiedSvidError, Svid};
use sentry::SentryClient;

/// Maximum sleep of the renewal loop, so that it notices a jump of the wall clock.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// Pause after a rejected or failed renewal.
const RETRY: Duration = Duration::from_secs(10);
/// Pause after a rejected or failed first request: the service cannot start without it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// New trust anchors make every service renew; the renewals are spread over this time.
const NEW_ANCHORS_SPREAD: Duration = Duration::from_secs(2);
/// Renewals are spread by this share of the half life, so that services that started together do
/// not renew together.
const SPREAD: f64 = 0.1;

/// How the process runs; determines how it authenticates to sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In a pod: the projected service account token.
    Kubernetes,
    /// A plain process: a token file, or no token.
    Standalone,
}

/// The identity of this process, and the address of sentry.
#[derive(Debug, Clone)]
pub struct Options {
    /// App id, for example `dapr-operator`.
    pub app_id: String,
    /// Namespace of this process.
    pub namespace: String,
    /// Trust domain of the control plane.
    pub trust_domain: TrustDomain,
    /// Namespace of the control plane, in which sentry runs.
    pub control_plane_namespace: String,
    /// `host:port` of sentry.
    pub sentry_address: String,
    /// Source of the trust anchors.
    pub anchors: AnchorSource,
    /// Kind of the generated key: RSA for services that the API server calls, Ed25519 otherwise.
    pub key_kind: KeyKind,
    /// How the process runs.
    pub mode: Mode,
}

/// Why there is no SVID.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The trust anchors cannot be read.
    #[error(transparent)]
    Anchors(#[from] AnchorSourceError),
    /// Trust domain and namespace of the control plane do not form a SPIFFE id.
    #[error("name sentry's SPIFFE id")]
    SentryId(#[source] SpiffeError),
    /// There is no TLS configuration for sentry.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Waits for the trust anchors, requests the first SVID from sentry and renews it for as long as
/// the scope lives. Health target: `security-provider`, ready while the SVID is valid.
///
/// Has no time limit: sentry may start later. Cancel safe.
///
/// # Errors
/// [`StartError`]: the options contradict each other or given anchors are invalid. A sentry that does not answer or
/// rejects the request is logged and retried.
pub async fn start(options: Options, scope: &Scope) -> Result<Svid, StartError> {
    let ready = scope.ready("security-provider");
    let anchors = anchors::watch_anchors(options.anchors.clone(), scope).await?;
    let client = SentryClient::new(options, anchors.clone())?;
    tracing::info!(target: "dapr.runtime.security", "Fetching initial identity");
    let first = loop {
        match client.request().await {
            Ok(svid) => break svid,
            Err(e) => {
                tracing::error!(target: "dapr.runtime.security", "no identity from sentry: {}; retrying", chain(&e));
                tokio::time::sleep(random::jittered(FIRST_RETRY, SPREAD)).await;
            }
        }
    };
    let svid = Svid::fixed(first, anchors);
    tracing::info!(target: "dapr.runtime.security", spiffe_id = %svid.current().id(), "Security is initialized successfully");
    ready.set_ready();
    scope.spawn("security-provider", renew(client, svid.clone(), ready, scope.clone()));
    Ok(svid)
}

/// When to renew: the middle of the lifetime, moved by at most a tenth of its half. `draw` is a
/// random number in `[0, 1)`. Source of the middle: Dapr 1.18, security module.
pub fn renewal_time(not_before: Timestamp, not_after: Timestamp, draw: f64) -> Timestamp {
    let life = not_before.duration_until(not_after).max(jiff::SignedDuration::ZERO);
    let half = life.mul_f64(0.5 * (1.0 + SPREAD * (2.0 * draw - 1.0)));
    not_before.checked_add(half).unwrap_or(not_after)
}

async fn renew(
    client: SentryClient,
    svid: Svid,
    ready: ReadyGuard,
    scope: Scope,
) -> Result<(), BoxError> {
    let due = |svid: &Svid| {
        let current = svid.current();
        renewal_time(current.chain().not_before(), current.chain().not_after(), random::fraction())
    };
    let mut at = due(&svid);
    let mut anchors = svid.anchors();
    anchors.mark_unchanged();
    let work = async {
        loop {
            let left = clock::now().duration_until(at);
            if let Ok(wait) = Duration::try_from(left) {
                tokio::select! {
                    () = tokio::time::sleep(wait.min(LONGEST_SLEEP)) => {}
                    // Peers that trust only the new root must be able to verify us.
                    Ok(()) = anchors.changed() => {
                        at = clock::now();
                        tokio::time::sleep(NEW_ANCHORS_SPREAD.mul_f64(random::fraction())).await;
                    }
                }
                if clock::now() < at {
                    continue;
                }
            }
            tracing::info!(target: "dapr.runtime.security",
                "Renewing workload identity; cert expires on: {}", svid.current().chain().not_after());
            match client.request().await {
                Ok(renewed) => {
                    svid.replace(renewed);
                    at = due(&svid);
                    ready.set_ready();
                }
                Err(e) => {
                    if svid.current().chain().not_after() <= clock::now() {
                        ready.set_not_ready();
                    }
                    tracing::error!(target: "dapr.runtime.security", "renewal failed: {}; the current certificate stays in use", chain(&e));
                    tokio::time::sleep(random::jittered(RETRY, SPREAD)).await;
                }
            }
        }
    };
    scope.token().run_until_cancelled(work).await;
    ready.set_not_ready();
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::middle(0.5, 45_000)]
    #[case::earliest(0.0, 40_500)]
    fn renews_near_the_middle_of_the_life(#[case] draw: f64, #[case] want: i64) {
        let start = Timestamp::UNIX_EPOCH;
        let end = Timestamp::from_second(90_000).unwrap();
        assert_eq!(renewal_time(start, end, draw), Timestamp::from_second(want).unwrap());
    }

    proptest::proptest! {
        #[test]
        fn the_renewal_lies_within_the_life(life in 0_i64..100_000_000, draw in 0.0..1.0_f64) {
            let start = Timestamp::UNIX_EPOCH;
            let end = Timestamp::from_second(life).unwrap();
            let at = renewal_time(start, end, draw);
            proptest::prop_assert!(start <= at && at <= end);
        }
    }
}
