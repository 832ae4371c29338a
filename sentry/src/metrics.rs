//! Every metric of sentry. Source of the names `dapr_sentry_*_total` and of the issuer's expiry:
//! Dapr 1.18; the other gauges are ours.

use identity::{Bundle, CertChain};
use jiff::Timestamp;
use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use runtime::metrics::{counter, counters, gauge, gauges, real_gauge, real_gauges};

use crate::error::SignError;
use crate::rotation::{Followers, Stage};

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
    expiry_warning: IntGaugeVec,
    bundle_refused: IntGauge,
    rotation_stage: IntGauge,
    without_new_root: IntGauge,
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
            expiry_warning: gauges(
                r,
                "dapr_sentry_certificate_expiry_warning",
                "The percentage (30, 15 or 5) that the life left of a certificate has fallen below, by kind; 0 while there is plenty.",
                &["kind"],
            )?,
            rotation_stage: gauge(
                r,
                "dapr_sentry_ca_rotation_stage",
                "The stage of a rotation of the CA: 0 none, 1 both roots are published, 2 the new issuer signs.",
            )?,
            without_new_root: gauge(
                r,
                "dapr_sentry_ca_rotation_sidecars_without_new_root",
                "During a rotation, the number of running sidecars that do not know the new root and must be created anew before the old one ends; -1 if nobody knows.",
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
    pub fn ca_in_place(&self, bundle: &Bundle, now: Timestamp, changed: bool) {
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

    /// How near its end a certificate is.
    pub fn expiry_warning(&self, kind: &str, percent: Option<u8>) {
        self.expiry_warning.with_label_values(&[kind]).set(percent.unwrap_or_default().into());
    }

    /// Where a rotation stands, and who lags behind.
    pub fn rotation(&self, stage: Option<Stage>, followers: Followers) {
        self.rotation_stage.set(match stage {
            None => 0,
            Some(Stage::Distribute) => 1,
            Some(Stage::Sign) => 2,
        });
        let lagging = match (stage, followers) {
            (None, _) => 0,
            (_, Followers::Unknown) => -1,
            (_, Followers::Without(count)) => i64::try_from(count).unwrap_or(i64::MAX),
        };
        self.without_new_root.set(lagging);
    }

    /// Whether the stored CA is left alone because it is inconsistent.
    pub fn bundle_refused(&self, refused: bool) {
        self.bundle_refused.set(i64::from(refused));
    }
}
