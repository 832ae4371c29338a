//! Metrics of admission requests. The first three are those of Dapr 1.18.3.
//!
//! Invariant: `requests = succeeded + failed + skipped`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, Registry};
use runtime::metrics::{counter, counters, histograms};

use super::decision::Outcome;
use super::error::BadRequest;
use crate::pod::Warning;
use crate::sidecar::SkipReason;

const REQUESTS: &str = "dapr_injector_sidecar_injection_requests_total";
const SUCCEEDED: &str = "dapr_injector_sidecar_injection_succeeded_total";
const FAILED: &str = "dapr_injector_sidecar_injection_failed_total";
const SKIPPED: &str = "dapr_injector_skipped_total";
const LEFT_ALONE: &str = "dapr_injector_pods_left_without_sidecar_total";
const WARNINGS: &str = "dapr_injector_warnings_total";
const DURATION: &str = "dapr_injector_admission_duration_seconds";
/// Longest value of the label `app_id`; a valid app id has at most 58 characters.
const MAX_LABEL_CHARS: usize = 63;
/// Different values of the label `app_id`, of which each takes up to three series. Requests can name
/// any app id, so the number must not depend on them.
const MAX_APPS: usize = 4096;
/// Label value for every further app id. Contains spaces, so it is not an app id.
const OTHER_APPS: &str = "other apps";
const BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0, 5.0, 10.0];

/// Metrics of admission requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AdmissionMetrics {
    requests: IntCounter,
    succeeded: IntCounterVec,
    failed: IntCounterVec,
    skipped: IntCounterVec,
    left_alone: IntCounterVec,
    warnings: IntCounterVec,
    duration: HistogramVec,
    apps: Arc<Mutex<HashSet<String>>>,
}

impl AdmissionMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// A name is registered already.
    pub fn register(r: &Registry) -> prometheus::Result<Self> {
        Ok(Self {
            requests: counter(r, REQUESTS, "Requests for sidecar injection")?,
            succeeded: counters(r, SUCCEEDED, "Pods that got a patch", &["app_id"])?,
            failed: counters(r, FAILED, "Pods without a patch", &["app_id", "reason"])?,
            skipped: counters(
                r,
                SKIPPED,
                "Requests that were rejected or needed no change",
                &["reason"],
            )?,
            left_alone: counters(
                r,
                LEFT_ALONE,
                "Pods that requested a sidecar and were admitted without one",
                &["reason"],
            )?,
            warnings: counters(r, WARNINGS, "Admission warnings by subject", &["key"])?,
            duration: histograms(
                r,
                DURATION,
                "Duration of admission requests in seconds",
                &[],
                &BUCKETS,
            )?,
            apps: Arc::default(),
        })
    }

    pub(super) fn answered(&self, took: Duration) {
        self.duration.with_label_values::<&str>(&[]).observe(took.as_secs_f64());
    }

    pub(super) fn bad_request(&self, error: BadRequest) {
        self.requests.inc();
        self.skipped.with_label_values(&[error.reason()]).inc();
    }

    pub(super) fn panicked(&self) {
        self.requests.inc();
        self.failed.with_label_values(&["", "panic"]).inc();
    }

    pub(super) fn decided(&self, app: &str, outcome: &Outcome, warnings: &[Warning]) {
        self.requests.inc();
        let app = || self.app_label(app);
        match outcome {
            Outcome::Injected { .. } => self.succeeded.with_label_values(&[&app()]).inc(),
            Outcome::Refused(_) => self.failed.with_label_values(&[app().as_str(), "patch"]).inc(),
            Outcome::NotAllowed { .. } | Outcome::WrongKind { .. } => {
                self.failed.with_label_values(&[app().as_str(), "pod_patch"]).inc();
            }
            Outcome::Skipped(reason) => self.skipped.with_label_values(&[label(*reason)]).inc(),
        }
        if let Some(reason) = left_alone(outcome) {
            self.left_alone.with_label_values(&[reason]).inc();
        }
        for warning in warnings {
            self.warnings.with_label_values(&[warning.about]).inc();
        }
    }

    /// The label value of an app id: the id itself for the first [`MAX_APPS`] ids.
    fn app_label(&self, app: &str) -> String {
        let app: String = app.chars().take(MAX_LABEL_CHARS).collect();
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        if app.is_empty() || apps.contains(&app) {
            return app;
        }
        if apps.len() >= MAX_APPS {
            return OTHER_APPS.to_owned();
        }
        apps.insert(app.clone());
        app
    }
}

/// Why a pod that requested a sidecar was admitted without one.
fn left_alone(outcome: &Outcome) -> Option<&'static str> {
    match outcome {
        Outcome::NotAllowed { .. } => Some("creator_not_allowed"),
        Outcome::Skipped(SkipReason::NamespaceDisabled) => Some("namespace_disabled"),
        Outcome::Injected { .. }
        | Outcome::Refused(_)
        | Outcome::WrongKind { .. }
        | Outcome::Skipped(SkipReason::NotEnabled | SkipReason::AlreadyPresent) => None,
    }
}

fn label(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::NotEnabled => "not_enabled",
        SkipReason::NamespaceDisabled => "namespace_disabled",
        SkipReason::AlreadyPresent => "already_present",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_app_ids_in_labels_is_bounded() {
        let registry = Registry::new();
        let metrics = AdmissionMetrics::register(&registry).unwrap();
        let injected = Outcome::Injected { defaults: None };
        for n in 0..=MAX_APPS {
            metrics.decided(&format!("app-{n}"), &injected, &[]);
            metrics.decided("app-0", &injected, &[]);
        }
        let families = registry.gather();
        let family = families.iter().find(|family| family.name() == SUCCEEDED).unwrap();
        let value = |app: &str| {
            let series = family.get_metric().iter().find(|m| m.get_label()[0].value() == app);
            series.map(|m| m.get_counter().get_value())
        };
        assert_eq!(family.get_metric().len(), MAX_APPS + 1);
        assert_eq!(value(OTHER_APPS), Some(1.0));
        assert_eq!(value(&format!("app-{}", MAX_APPS - 1)), Some(1.0));
        assert_eq!(value(&format!("app-{MAX_APPS}")), None);
    }
}
