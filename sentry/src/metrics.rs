//! The metrics of sentry. Source of the names `dapr_sentry_*_total` and of the issuer's expiry:
//! Dapr 1.18; the other metrics are ours.

use identity::{Bundle, CertChain};
use jiff::Timestamp;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use runtime::metrics::{counter, counters, gauge, gauges, real_gauge, real_gauges};

#[derive(Debug, Clone, Copy)]
pub(crate) struct RotationGauges {
    /// 0 without a rotation, 1 distribute, 2 sign.
    pub(crate) stage: i64,
    /// Sidecars that do not trust the new root; -1 if unknown.
    pub(crate) stale: i64,
}

/// The metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    received: IntCounter,
    succeeded: IntCounter,
    failed: IntCounterVec,
    refused: IntCounterVec,
    own_failed: IntCounterVec,
    issuer_changed: IntCounter,
    issuer_expiry: Gauge,
    expiry: GaugeVec,
    expiry_warning: IntGaugeVec,
    bundle_rejected: IntGauge,
    rotation_stage: IntGauge,
    stale_sidecars: IntGauge,
    suppressed_logs: IntCounterVec,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// One of them is already registered.
    pub(crate) fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            received: counter(
                r,
                "dapr_sentry_cert_sign_request_received_total",
                "The number of CSRs received.",
            )?,
            succeeded: counter(
                r,
                "dapr_sentry_cert_sign_success_total",
                "The number of certificates issued.",
            )?,
            failed: counters(
                r,
                "dapr_sentry_cert_sign_failure_total",
                "The number of requests that got no certificate.",
                &["reason"],
            )?,
            refused: counters(
                r,
                "dapr_sentry_cert_sign_refused_total",
                "The number of requests that got no certificate, by reason.",
                &["reason"],
            )?,
            own_failed: counters(
                r,
                "dapr_sentry_servercert_issue_failed_total",
                "The number of failures to issue sentry's own certificate.",
                &["reason"],
            )?,
            issuer_changed: counter(
                r,
                "dapr_sentry_issuercert_changed_total",
                "The number of times the CA was created or replaced.",
            )?,
            issuer_expiry: real_gauge(
                r,
                "dapr_sentry_issuercert_expiry_timestamp",
                "The unix timestamp, in seconds, when the issuer certificate expires.",
            )?,
            expiry: real_gauges(
                r,
                "dapr_sentry_certificate_expiry_timestamp",
                "The unix timestamp, in seconds, when a certificate expires, by kind: root, issuer, own.",
                &["kind"],
            )?,
            expiry_warning: gauges(
                r,
                "dapr_sentry_certificate_expiry_warning",
                "The lowest threshold (30, 15 or 5 percent) that the remaining lifetime of a certificate is below, by kind; 0 above all thresholds.",
                &["kind"],
            )?,
            rotation_stage: gauge(
                r,
                "dapr_sentry_ca_rotation_stage",
                "The stage of the CA rotation: 0 none, 1 both roots are published, 2 the new issuer signs.",
            )?,
            stale_sidecars: gauge(
                r,
                "dapr_sentry_ca_rotation_sidecars_without_new_root",
                "During a CA rotation, the number of running sidecars that do not trust the new root and must be recreated before the old one expires; -1 if unknown.",
            )?,
            bundle_rejected: gauge(
                r,
                "dapr_sentry_bundle_refused",
                "1 while the stored CA is rejected as inconsistent, else 0.",
            )?,
            suppressed_logs: counters(
                r,
                "dapr_sentry_refusal_logs_suppressed_total",
                "The number of refused requests that were not logged because of the rate limit, by reason.",
                &["reason"],
            )?,
        })
    }

    /// Counts a received request.
    pub(crate) fn received(&self) {
        self.received.inc();
    }

    /// Counts an issued certificate.
    pub(crate) fn issued(&self) {
        self.succeeded.inc();
    }

    /// Counts a refused request; `reason` is `SignError::label`.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.failed.with_label_values(&["sign"]).inc();
        self.refused.with_label_values(&[reason]).inc();
    }

    /// Counts a failure to issue sentry's own certificate.
    pub(crate) fn own_certificate_failed(&self) {
        self.own_failed.with_label_values(&["ca_error"]).inc();
    }

    /// Records the expiry of sentry's own certificate.
    pub(crate) fn own_certificate(&self, chain: &CertChain) {
        self.expiry.with_label_values(&["own"]).set(chain.not_after().as_duration().as_secs_f64());
    }

    /// Counts a CA that sentry created.
    pub(crate) fn ca_generated(&self) {
        self.issuer_changed.inc();
    }

    /// Records the CA that signs; `changed` if it replaces another one.
    pub(crate) fn ca_installed(&self, bundle: &Bundle, now: Timestamp, changed: bool) {
        let issuer = bundle.issuer().not_after().as_duration().as_secs_f64();
        self.issuer_expiry.set(issuer);
        self.expiry.with_label_values(&["issuer"]).set(issuer);
        if let Some((_, root)) = bundle.root(now) {
            self.expiry.with_label_values(&["root"]).set(root.as_duration().as_secs_f64());
        }
        if changed {
            self.issuer_changed.inc();
        }
    }

    /// Records the threshold that the remaining lifetime of a certificate is below.
    pub(crate) fn expiry_warning(&self, kind: &str, percent: Option<u8>) {
        self.expiry_warning.with_label_values(&[kind]).set(percent.unwrap_or_default().into());
    }

    /// Records the state of the rotation.
    pub(crate) fn rotation(&self, gauges: RotationGauges) {
        self.rotation_stage.set(gauges.stage);
        self.stale_sidecars.set(gauges.stale);
    }

    /// Records whether the stored CA is rejected.
    pub(crate) fn bundle_rejected(&self, rejected: bool) {
        self.bundle_rejected.set(i64::from(rejected));
    }

    /// Counts a refused request that was not logged.
    pub(crate) fn log_suppressed(&self, reason: &'static str) {
        self.suppressed_logs.with_label_values(&[reason]).inc();
    }
}
