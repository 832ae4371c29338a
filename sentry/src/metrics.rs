//! Every metric of sentry. Source of the names `dapr_sentry_*_total` and of the issuer's expiry:
//! Dapr 1.18; the other gauges are ours.

use identity::{Bundle, CertChain};
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, Registry};
use runtime::metrics::{counter, counters, gauge, real_gauge, real_gauges};

use crate::error::SignError;

/// The metrics, cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    received: IntCounter,
    succeeded: IntCounter,
    failed: IntCounterVec,
    refused: IntCounterVec,
    own_failed: IntCounterVec,
    issuer_changed: IntCounter,
    issuer_expiry: Gauge,
    expiry: GaugeVec,
    bundle_refused: IntGauge,
}

impl Metrics {
    /// Registers all of them.
    ///
    /// # Errors
    /// One is registered already.
    pub fn register(r: &Registry) -> prometheus::Result<Self> {
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
                "The number of requests that got no certificate, by what was wrong.",
                &["reason"],
            )?,
            own_failed: counters(
                r,
                "dapr_sentry_servercert_issue_failed_total",
                "The number of times sentry could not issue its own certificate.",
                &["reason"],
            )?,
            issuer_changed: counter(
                r,
                "dapr_sentry_issuercert_changed_total",
                "The number of times another CA was put in place.",
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
            bundle_refused: gauge(
                r,
                "dapr_sentry_bundle_refused",
                "1 while the stored CA is inconsistent and left alone, else 0.",
            )?,
        })
    }

    /// A request came in.
    pub fn received(&self) {
        self.received.inc();
    }

    /// A certificate went out.
    pub fn issued(&self) {
        self.succeeded.inc();
    }

    /// A request was refused.
    pub fn refused(&self, why: &SignError) {
        self.failed.with_label_values(&["sign"]).inc();
        self.refused.with_label_values(&[why.label()]).inc();
    }

    /// Sentry could not issue its own certificate.
    pub fn own_certificate_failed(&self) {
        self.own_failed.with_label_values(&["ca_error"]).inc();
    }

    /// Sentry has a new certificate of its own.
    pub fn own_certificate(&self, chain: &CertChain) {
        self.expiry.with_label_values(&["own"]).set(chain.not_after().as_duration().as_secs_f64());
    }

    /// A CA was made and stored.
    pub fn ca_generated(&self) {
        self.issuer_changed.inc();
    }

    /// A CA was put in place; `changed` if there was another one before.
    pub fn ca_in_place(&self, bundle: &Bundle, changed: bool) {
        let issuer = bundle.issuer().not_after().as_duration().as_secs_f64();
        self.issuer_expiry.set(issuer);
        self.expiry.with_label_values(&["issuer"]).set(issuer);
        if let Some((_, root)) = bundle.anchors().first_to_end() {
            self.expiry.with_label_values(&["root"]).set(root.as_duration().as_secs_f64());
        }
        if changed {
            self.issuer_changed.inc();
        }
    }

    /// Whether the stored CA is left alone because it is inconsistent.
    pub fn bundle_refused(&self, refused: bool) {
        self.bundle_refused.set(i64::from(refused));
    }
}
