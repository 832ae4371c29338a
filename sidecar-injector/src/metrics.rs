//! Every metric of the injector. The first three are those of Dapr 1.18.3.
//!
//! `requests = succeeded + failed + skipped`, at any time.

use std::time::Duration;

use prometheus::{Gauge, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};
use runtime::metrics::{counter, counters, gauge, histograms, real_gauge};

use crate::mutate::Skip;
use crate::review::Ending;
use crate::warnings::Warning;

const REQUESTS: &str = "dapr_injector_sidecar_injection_requests_total";
const SUCCEEDED: &str = "dapr_injector_sidecar_injection_succeeded_total";
const FAILED: &str = "dapr_injector_sidecar_injection_failed_total";
const SKIPPED: &str = "dapr_injector_skipped_total";
const LEFT_ALONE: &str = "dapr_injector_pods_left_without_sidecar_total";
const WARNINGS: &str = "dapr_injector_warnings_total";
const DURATION: &str = "dapr_injector_admission_duration_seconds";
const REPAIRS: &str = "dapr_injector_cabundle_repairs_total";
const NOT_SEEN: &str = "dapr_injector_pods_not_seen";
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
    left_alone: IntCounterVec,
    warnings: IntCounterVec,
    duration: HistogramVec,
    repairs: IntCounter,
    expiry: Gauge,
    not_seen: IntGauge,
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
            left_alone: counters(
                r,
                LEFT_ALONE,
                "Pods that asked for a sidecar and were admitted without one",
                &["reason"],
            )?,
            warnings: counters(
                r,
                WARNINGS,
                "Admission warnings, by what they are about",
                &["key"],
            )?,
            duration: histograms(
                r,
                DURATION,
                "Time to answer an admission request",
                &[],
                &BUCKETS,
            )?,
            repairs: counter(r, REPAIRS, "Times the caBundle was found changed and restored")?,
            not_seen: gauge(
                r,
                NOT_SEEN,
                "Pods since start that asked for a sidecar while the API server has never called the webhook",
            )?,
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

    /// A review that our own code could not be trusted with: it panicked.
    pub fn panicked(&self) {
        self.requests.inc();
        self.failed.with_label_values(&["", "panic"]).inc();
    }

    /// A review was decided.
    pub fn decided(&self, app: &str, ending: &Ending, warnings: &[Warning]) {
        let app: String = app.chars().take(MAX_LABEL_CHARS).collect();
        self.requests.inc();
        match ending {
            Ending::Injected { .. } => self.succeeded.with_label_values(&[&app]).inc(),
            Ending::Refused(_) => self.failed.with_label_values(&[app.as_str(), "patch"]).inc(),
            Ending::NotAllowed { .. } | Ending::WrongKind { .. } => {
                self.failed.with_label_values(&[app.as_str(), "pod_patch"]).inc();
            }
            Ending::Skipped(skip) => self.skipped.with_label_values(&[label(*skip)]).inc(),
        }
        if let Some(reason) = left_alone(ending) {
            self.left_alone.with_label_values(&[reason]).inc();
        }
        for warning in warnings {
            self.warnings.with_label_values(&[warning.about]).inc();
        }
    }

    /// The caBundle had been changed by somebody else and was restored.
    pub fn ca_bundle_restored(&self) {
        self.repairs.inc();
    }

    /// So many pods asked for a sidecar while nobody called the webhook.
    pub fn pods_not_seen(&self, count: u64) {
        self.not_seen.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// The certificate that is served ends at this time.
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit 52 bits")]
    pub fn serving_until(&self, not_after: jiff::Timestamp) {
        self.expiry.set(not_after.as_second() as f64);
    }
}

/// Why a pod that asked for a sidecar was let in without one, if so.
fn left_alone(ending: &Ending) -> Option<&'static str> {
    match ending {
        Ending::NotAllowed { .. } => Some("creator_not_allowed"),
        Ending::Skipped(Skip::NamespaceDisabled) => Some("namespace_disabled"),
        Ending::Injected { .. }
        | Ending::Refused(_)
        | Ending::WrongKind { .. }
        | Ending::Skipped(Skip::NotEnabled | Skip::AlreadyPresent) => None,
    }
}

fn label(skip: Skip) -> &'static str {
    match skip {
        Skip::NotEnabled => "not_enabled",
        Skip::NamespaceDisabled => "namespace_disabled",
        Skip::AlreadyPresent => "already_present",
    }
}
