//! Every metric of the injector. The first three are those of Dapr 1.18.3.
//!
//! `requests = succeeded + failed + skipped`, at any time.

use std::time::Duration;

use prometheus::{Gauge, HistogramVec, IntCounter, IntCounterVec, Registry};
use runtime::metrics::{counter, counters, histograms, real_gauge};

use crate::mutate::Skip;
use crate::review::Ending;

const REQUESTS: &str = "dapr_injector_sidecar_injection_requests_total";
const SUCCEEDED: &str = "dapr_injector_sidecar_injection_succeeded_total";
const FAILED: &str = "dapr_injector_sidecar_injection_failed_total";
const SKIPPED: &str = "dapr_injector_skipped_total";
const WARNINGS: &str = "dapr_injector_warnings_total";
const DURATION: &str = "dapr_injector_admission_duration_seconds";
const REPAIRS: &str = "dapr_injector_cabundle_repairs_total";
const EXPIRY: &str = "dapr_injector_serving_cert_expiry_timestamp_seconds";
/// Longest value of the label `app_id`; a legal id has 58 characters.
const MAX_LABEL_CHARS: usize = 63;
const BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, 5.0, 10.0];

/// The injector's metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: IntCounter,
    succeeded: IntCounterVec,
    failed: IntCounterVec,
    skipped: IntCounterVec,
    warnings: IntCounter,
    duration: HistogramVec,
    repairs: IntCounter,
    expiry: Gauge,
}

/// Why a request was skipped without a pod being looked at.
const BAD_REQUEST: &str = "bad_request";

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// A name is taken.
    pub fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            requests: counter(r, REQUESTS, "Requests for sidecar injection")?,
            succeeded: counters(r, SUCCEEDED, "Pods that got a patch", &["app_id"])?,
            failed: counters(r, FAILED, "Pods that got none", &["app_id", "reason"])?,
            skipped: counters(r, SKIPPED, "Requests with nothing to do", &["reason"])?,
            warnings: counter(r, WARNINGS, "Admission warnings sent to users")?,
            duration: histograms(
                r,
                DURATION,
                "Time to answer an admission request",
                &[],
                &BUCKETS,
            )?,
            repairs: counter(r, REPAIRS, "Times the caBundle was found changed and restored")?,
            expiry: real_gauge(r, EXPIRY, "End of the serving certificate, Unix time")?,
        })
    }

    /// A request was answered, after this time.
    pub fn answered(&self, took: Duration) {
        self.duration.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    /// A request that is no review: wrong content, too large, undecodable.
    pub fn bad_request(&self) {
        self.requests.inc();
        self.skipped.with_label_values(&[BAD_REQUEST]).inc();
    }

    /// A review was decided.
    pub fn decided(&self, app: &str, ending: &Ending, warnings: usize) {
        let app: String = app.chars().take(MAX_LABEL_CHARS).collect();
        self.requests.inc();
        match ending {
            Ending::Injected => self.succeeded.with_label_values(&[&app]).inc(),
            Ending::Refused(_) => self.failed.with_label_values(&[app.as_str(), "patch"]).inc(),
            Ending::NotAllowed { .. } | Ending::WrongKind { .. } => {
                self.failed.with_label_values(&[app.as_str(), "pod_patch"]).inc();
            }
            Ending::Skipped(skip) => self.skipped.with_label_values(&[label(*skip)]).inc(),
        }
        self.warnings.inc_by(u64::try_from(warnings).unwrap_or_default());
    }

    /// The caBundle had been changed by somebody else and was restored.
    pub fn ca_bundle_restored(&self) {
        self.repairs.inc();
    }

    /// The certificate that is served ends at this time.
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit 52 bits")]
    pub fn serving_until(&self, not_after: jiff::Timestamp) {
        self.expiry.set(not_after.as_second() as f64);
    }
}

fn label(skip: Skip) -> &'static str {
    match skip {
        Skip::NotEnabled => "not_enabled",
        Skip::AlreadyPresent => "already_present",
    }
}
