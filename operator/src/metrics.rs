//! The metrics of the operator, except those of the caches.
use std::collections::BTreeMap;
use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use proto::operator::ResourceEventType;
use runtime::metrics::{counter, counters, gauge, gauges, histograms};

const CREATED: &str = "dapr_operator_service_created_total";
const UPDATED: &str = "dapr_operator_service_updated_total";
const DELETED: &str = "dapr_operator_service_deleted_total";
const REQUESTS: &str = "dapr_operator_api_requests_total";
const SECONDS: &str = "dapr_operator_api_request_seconds";
const EVENTS: &str = "dapr_operator_stream_events_total";
const LISTS: &str = "dapr_operator_lists_total";
const WATCH_FAILURES: &str = "dapr_operator_watch_failures_total";
const CRD_CHECKS: &str = "dapr_operator_crd_checks_total";
const BUILD: &str = "dapr_operator_build_info";
const UNDECODABLE: &str = "dapr_operator_undecodable_objects_total";
const SECRETS: &str = "dapr_operator_secret_failures_total";
const FINDINGS: &str = "dapr_operator_component_findings";
const LEADER: &str = "dapr_operator_leader";
const WATCHDOG_DELETED: &str = "dapr_operator_watchdog_deleted_pods_total";
const WATCHDOG_PASSES: &str = "dapr_operator_watchdog_passes_total";
const WATCHDOG_CANDIDATES: &str = "dapr_operator_watchdog_candidates";
const WATCHDOG_GIVEN_UP: &str = "dapr_operator_watchdog_given_up_owners";

/// Upper bounds in seconds. A sidecar waits 5 s for a response (Dapr 1.18).
const BUCKETS: [f64; 8] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0];

/// Outcome of a watchdog pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Every candidate was checked.
    Complete,
    InjectionUnverified,
}

impl Pass {
    pub(crate) fn of(complete: bool) -> Self {
        if complete { Self::Complete } else { Self::InjectionUnverified }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::InjectionUnverified => "unproven",
        }
    }
}

/// Outcome of a check of a CRD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrdCheck {
    UpToDate,
    Patched,
    /// The CRD could not be read or patched.
    Failed,
}

impl CrdCheck {
    fn label(self) -> &'static str {
        match self {
            Self::UpToDate => "right",
            Self::Patched => "patched",
            Self::Failed => "failed",
        }
    }
}

/// The metrics of the operator. The first three are those of Dapr 1.18.
#[derive(Clone)]
pub(crate) struct Metrics {
    created: IntCounterVec,
    updated: IntCounterVec,
    deleted: IntCounterVec,
    requests: IntCounterVec,
    seconds: HistogramVec,
    events: IntCounterVec,
    lists: IntCounterVec,
    watch_failures: IntCounterVec,
    crd_checks: IntCounterVec,
    undecodable: IntCounterVec,
    secrets: IntCounterVec,
    findings: IntGaugeVec,
    leader: IntGauge,
    watchdog_deleted: IntCounter,
    watchdog_passes: IntCounterVec,
    watchdog_candidates: IntGauge,
    watchdog_given_up: IntGauge,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// A name is registered already.
    pub(crate) fn register(r: &Registry) -> prometheus::Result<Self> {
        let build =
            gauges(r, BUILD, "Version of the operator; the value is always 1", &["version"])?;
        build.with_label_values(&[runtime::VERSION]).set(1);
        Ok(Self {
            created: counters(r, CREATED, "Services created for apps", &["app_id"])?,
            updated: counters(r, UPDATED, "Services of apps updated", &["app_id"])?,
            deleted: counters(r, DELETED, "Services of apps deleted", &["app_id"])?,
            requests: counters(
                r,
                REQUESTS,
                "Requests from sidecars by method and gRPC status code",
                &["method", "code"],
            )?,
            seconds: histograms(
                r,
                SECONDS,
                "Duration of unary requests in seconds",
                &["method"],
                &BUCKETS,
            )?,
            events: counters(r, EVENTS, "Events sent on update streams", &["kind", "type"])?,
            lists: counters(r, LISTS, "Lists of a kind started, including relists", &["kind"])?,
            watch_failures: counters(
                r,
                WATCH_FAILURES,
                "Failed lists and watches of a kind",
                &["kind"],
            )?,
            crd_checks: counters(r, CRD_CHECKS, "Checks of CRDs by result", &["crd", "result"])?,
            undecodable: counters(
                r,
                UNDECODABLE,
                "Objects that are not served because they cannot be decoded",
                &["kind"],
            )?,
            secrets: counters(
                r,
                SECRETS,
                "Objects whose Secrets could not be resolved",
                &["kind", "namespace"],
            )?,
            findings: gauges(r, FINDINGS, "Components with findings, by reason", &["reason"])?,
            leader: gauge(r, LEADER, "1 if this replica is the leader, else 0")?,
            watchdog_deleted: counter(
                r,
                WATCHDOG_DELETED,
                "Pods deleted because they had no sidecar",
            )?,
            watchdog_passes: counters(
                r,
                WATCHDOG_PASSES,
                "Watchdog passes by result",
                &["result"],
            )?,
            watchdog_candidates: gauge(r, WATCHDOG_CANDIDATES, "Pods that may lack their sidecar")?,
            watchdog_given_up: gauge(
                r,
                WATCHDOG_GIVEN_UP,
                "Owners whose replacement pods still have no sidecar",
            )?,
        })
    }

    pub(crate) fn service_created(&self, app_id: &str) {
        self.created.with_label_values(&[app_id]).inc();
    }

    pub(crate) fn service_updated(&self, app_id: &str) {
        self.updated.with_label_values(&[app_id]).inc();
    }

    pub(crate) fn service_deleted(&self, app_id: &str) {
        self.deleted.with_label_values(&[app_id]).inc();
    }

    /// Counts a unary request that was answered, or a stream that was accepted or rejected.
    pub(crate) fn answered(&self, method: &'static str, code: tonic::Code) {
        self.requests.with_label_values(&[method, &format!("{code:?}")]).inc();
    }

    /// Records the duration of a unary request.
    pub(crate) fn took(&self, method: &'static str, time: Duration) {
        self.seconds.with_label_values(&[method]).observe(time.as_secs_f64());
    }

    pub(crate) fn sent(&self, kind: &'static str, event: ResourceEventType) {
        self.events.with_label_values(&[kind, event.as_str_name()]).inc();
    }

    /// Counts the start of a list of a kind.
    pub(crate) fn listing(&self, kind: &'static str) {
        self.lists.with_label_values(&[kind]).inc();
    }

    pub(crate) fn watch_failed(&self, kind: &'static str) {
        self.watch_failures.with_label_values(&[kind]).inc();
    }

    pub(crate) fn crd_checked(&self, name: &'static str, result: CrdCheck) {
        self.crd_checks.with_label_values(&[name, result.label()]).inc();
    }

    /// Counts an object that is not served because it cannot be decoded.
    pub(crate) fn undecodable(&self, kind: &'static str) {
        self.undecodable.with_label_values(&[kind]).inc();
    }

    /// Counts an object whose Secrets could not be resolved.
    pub(crate) fn secret_failed(&self, kind: &'static str, namespace: &str) {
        self.secrets.with_label_values(&[kind, namespace]).inc();
    }

    /// Sets the number of Components with findings, by reason.
    pub(crate) fn component_findings(&self, counts: &BTreeMap<&'static str, i64>) {
        self.findings.reset();
        for (reason, count) in counts {
            self.findings.with_label_values(&[reason]).set(*count);
        }
    }

    pub(crate) fn leading(&self, leading: bool) {
        self.leader.set(i64::from(leading));
    }

    pub(crate) fn watchdog_deleted(&self) {
        self.watchdog_deleted.inc();
    }

    pub(crate) fn watchdog_passed(&self, pass: Pass) {
        self.watchdog_passes.with_label_values(&[pass.label()]).inc();
    }

    /// Sets the number of candidates and of owners that were given up.
    pub(crate) fn watchdog_state(&self, candidates: usize, given_up: usize) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.watchdog_candidates.set(count(candidates));
        self.watchdog_given_up.set(count(given_up));
    }
}
