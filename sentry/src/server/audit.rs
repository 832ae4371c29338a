//! The audit log: one line per issued certificate, and a limited number per second and reason of
//! refused requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use identity::IssuedLeaf;
use proto::sentry::SignCertificateRequest;
use tokio::time::Instant;

use crate::authn::{EnabledValidators, Identity, Validator};
use crate::error::SignError;
use crate::metrics::Metrics;

const LOG: &str = "dapr.sentry.audit";

/// Maximum length of requested names in the log, in characters. Unauthenticated clients choose them.
const MAX_LOGGED_NAME: usize = 256;

/// Refusals logged per reason and second. A flood of refusals would otherwise fill the disk and slow
/// the threads that serve requests.
const REFUSALS_PER_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// The requested identity and its origin, as logged.
pub(super) struct Requested {
    id: String,
    namespace: String,
    validator: &'static str,
    peer: String,
}

impl Requested {
    /// Copies what is logged of a request; long names are cut.
    pub(super) fn new(
        raw: &SignCertificateRequest,
        enabled: EnabledValidators,
        peer: Option<SocketAddr>,
    ) -> Self {
        let cut = |text: &str| text.chars().take(MAX_LOGGED_NAME).collect();
        let validator = enabled.choose(raw.token_validator).map_or("none", Validator::label);
        let peer = peer.map(|address| address.to_string()).unwrap_or_default();
        Self { id: cut(&raw.id), namespace: cut(&raw.namespace), validator, peer }
    }
}

/// Writes the audit log.
pub(super) struct AuditLog {
    refusals: Mutex<RefusalLimiter>,
    metrics: Metrics,
}

impl AuditLog {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { refusals: Mutex::default(), metrics }
    }

    pub(super) fn issued(requested: &Requested, identity: &Identity, leaf: &IssuedLeaf) {
        let pod = identity.pod.as_ref();
        let images = identity.container_images.as_ref();
        tracing::info!(target: LOG,
            spiffe_id = leaf.chain.leaf_id().ok().map(|id| id.to_string()),
            validator = requested.validator,
            peer = requested.peer,
            pod = pod.map(|pod| pod.name.as_str()),
            pod_uid = pod.map(|pod| pod.uid.as_str()),
            service_account = pod.map(|pod| pod.service_account.as_str()),
            serial = leaf.serial(),
            sha256 = leaf.sha256(),
            not_after = %leaf.chain.not_after(),
            shortened = leaf.shortened,
            images_truncated = images.map(|images| images.truncated).filter(|truncated| *truncated),
            "certificate issued");
    }

    /// `reason` is `SignError::label`.
    pub(super) fn refused(&self, requested: &Requested, error: &SignError) {
        let reason = error.label();
        let admitted = {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            refusals.admit(reason, Instant::now())
        };
        let Some(suppressed) = admitted else { return self.metrics.log_suppressed(reason) };
        tracing::warn!(target: LOG,
            requested_id = requested.id,
            requested_namespace = requested.namespace,
            validator = requested.validator,
            peer = requested.peer,
            reason,
            suppressed = (suppressed > 0).then_some(suppressed),
            error = runtime::chain(error),
            "certificate refused");
    }
}

/// Limits logged refusals by reason.
#[derive(Debug, Default)]
struct RefusalLimiter {
    /// Bounded by the number of reasons.
    windows: HashMap<&'static str, Window>,
}

#[derive(Debug)]
struct Window {
    started: Instant,
    logged: u32,
    suppressed: u64,
}

impl RefusalLimiter {
    /// Whether to log a refusal now: the number of suppressed ones since the last logged, or `None`.
    fn admit(&mut self, reason: &'static str, now: Instant) -> Option<u64> {
        let new = || Window { started: now, logged: 0, suppressed: 0 };
        let window = self.windows.entry(reason).or_insert_with(new);
        if now.duration_since(window.started) >= SECOND {
            window.started = now;
            window.logged = 0;
        }
        if window.logged >= REFUSALS_PER_SECOND {
            window.suppressed += 1;
            return None;
        }
        window.logged += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn logs_ten_refusals_per_second_and_reason_and_counts_the_others() {
        let mut limiter = RefusalLimiter::default();
        let start = Instant::now();
        for n in 0..REFUSALS_PER_SECOND + 3 {
            let want = (n < REFUSALS_PER_SECOND).then_some(0);
            assert_eq!(limiter.admit("token", start), want, "{n}");
        }
        assert_eq!(limiter.admit("csr", start), Some(0), "another reason");
        let just_before = start + SECOND.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(limiter.admit("token", just_before), None);
        assert_eq!(limiter.admit("token", start + SECOND), Some(4));
        assert_eq!(limiter.admit("token", start + SECOND), Some(0), "reported once");
    }

    #[test]
    fn cuts_long_names() {
        let raw = SignCertificateRequest {
            id: "ä".repeat(MAX_LOGGED_NAME + 1),
            namespace: "n".repeat(MAX_LOGGED_NAME),
            ..SignCertificateRequest::default()
        };
        let requested = Requested::new(&raw, EnabledValidators::Insecure, None);
        assert_eq!(requested.id.chars().count(), MAX_LOGGED_NAME);
        assert_eq!(requested.namespace, raw.namespace);
    }
}
