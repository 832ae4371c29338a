//! Metrics of the webhook configuration and of reachability.

use prometheus::{Gauge, IntCounter, IntGauge, Registry};
use runtime::metrics::{counter, gauge, real_gauge};

const REPAIRS: &str = "dapr_injector_cabundle_repairs_total";
const NOT_SEEN: &str = "dapr_injector_pods_not_seen";
const EXPIRY: &str = "dapr_injector_serving_cert_expiry_timestamp_seconds";

/// Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ClusterMetrics {
    repairs: IntCounter,
    not_seen: IntGauge,
    expiry: Gauge,
}

impl ClusterMetrics {
    /// # Errors
    /// A name is registered already.
    pub(crate) fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            repairs: counter(r, REPAIRS, "Times a changed caBundle was restored")?,
            not_seen: gauge(
                r,
                NOT_SEEN,
                "Pods since the start of the injector that requested a sidecar, while the API server has not called the webhook",
            )?,
            expiry: real_gauge(r, EXPIRY, "Expiry of the serving certificate, Unix time")?,
        })
    }

    pub(crate) fn ca_bundle_restored(&self) {
        self.repairs.inc();
    }

    pub(crate) fn pods_not_seen(&self, count: u64) {
        self.not_seen.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit 52 bits")]
    pub(crate) fn certificate_expires(&self, not_after: jiff::Timestamp) {
        self.expiry.set(not_after.as_second() as f64);
    }
}
