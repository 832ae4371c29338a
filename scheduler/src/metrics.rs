//! Every metric of the scheduler; those of its own store are in [`store`].

mod store;

use std::time::Duration;

use jiff::Timestamp;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use proto::scheduler::KnownMetadata;
use proto::scheduler::job_target_metadata::Type;
use runtime::clock;
use runtime::metrics::{counter, counters, gauge, gauges, histograms};

pub(crate) use self::store::{StoreMetrics, register_batch_size};

use crate::engine::Gauges;
use crate::engine::event::{Observation, TargetKind};
use crate::stored::names::target;

// Dapr 1.18.
const CONNECTED: &str = "dapr_scheduler_sidecars_connected";
const CREATED: &str = "dapr_scheduler_jobs_created_total";
const CREATE_FAILED: &str = "dapr_scheduler_jobs_created_failed_total";
const DELETED: &str = "dapr_scheduler_jobs_deleted_total";
const BULK_DELETED: &str = "dapr_scheduler_jobs_bulk_deleted_total";
const TRIGGERED: &str = "dapr_scheduler_jobs_triggered_total";
const FAILED: &str = "dapr_scheduler_jobs_failed_total";
const UNDELIVERED: &str = "dapr_scheduler_jobs_undelivered_total";
const LATENCY: &str = "dapr_scheduler_trigger_latency";
const GATE_IN_FLIGHT: &str = "dapr_scheduler_concurrency_inflight";
const GATE_PENDING: &str = "dapr_scheduler_concurrency_pending";
const THROTTLED: &str = "dapr_scheduler_concurrency_throttled_total";
const SIDECAR_ERRORS: &str = "dapr_scheduler_sidecar_errors_total";
// Ours.
const STORE: &str = "dapr_scheduler_store";
const STORE_SERVES: &str = "dapr_scheduler_store_serves";
const CORRUPT: &str = "dapr_scheduler_corrupt_records";
const JOBS: &str = "dapr_scheduler_jobs";
const ARMED: &str = "dapr_scheduler_armed_jobs";
const STAGED: &str = "dapr_scheduler_staged_jobs";
const WAITING: &str = "dapr_scheduler_waiting_jobs";
const IN_FLIGHT: &str = "dapr_scheduler_inflight";
const DUE_LAG: &str = "dapr_scheduler_due_lag_ms";
const RESYNCS: &str = "dapr_scheduler_watch_resync_total";
const REBALANCES: &str = "dapr_scheduler_rebalance_total";
const NEXT_DUE: &str = "dapr_scheduler_next_due_timestamp_seconds";
const LAST_ANSWER: &str = "dapr_scheduler_last_answer_timestamp_seconds";

/// Upper bounds of [`LATENCY`] in milliseconds (Dapr 1.18).
const LATENCY_BUCKETS: [f64; 5] = [100.0, 500.0, 1_000.0, 5_000.0, 10_000.0];
/// Upper bounds of [`DUE_LAG`] in milliseconds.
const LAG_BUCKETS: [f64; 10] =
    [1.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 60_000.0];

/// The metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    connected: IntGauge,
    created: IntCounterVec,
    create_failed: IntCounterVec,
    deleted: IntCounterVec,
    bulk_deleted: IntCounter,
    triggered: IntCounterVec,
    failed: IntCounterVec,
    undelivered: IntCounterVec,
    latency: HistogramVec,
    due_lag: HistogramVec,
    throttled: IntCounterVec,
    gate_in_flight: IntGaugeVec,
    gate_pending: IntGaugeVec,
    /// Jobs known, armed, staged, waiting, in flight.
    jobs: [IntGauge; 5],
    next_due: IntGauge,
    last_answer: IntGaugeVec,
    sidecar_errors: IntCounterVec,
    store_serves: IntGauge,
    corrupt: IntGauge,
    resyncs: IntCounter,
}

/// Where jobs are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    /// In files of this process.
    Embedded,
    /// In an etcd that this process runs.
    Etcd,
    /// In an external etcd.
    External,
}

/// Registers where jobs are stored, which `operator check-scheduler` reads.
///
/// # Errors
/// The name is taken.
pub(crate) fn register_store(r: &Registry, kind: StoreKind) -> prometheus::Result<()> {
    let engine = match kind {
        StoreKind::Embedded => "embedded",
        StoreKind::Etcd => "etcd",
        StoreKind::External => "external",
    };
    let store = gauges(r, STORE, "1, with the engine that stores jobs", &["engine"])?;
    store.with_label_values(&[engine]).set(1);
    Ok(())
}

/// Registers how often the jobs of one of several members have changed.
///
/// # Errors
/// The name is taken.
pub(crate) fn register_rebalances(r: &Registry) -> prometheus::Result<IntCounter> {
    counter(r, REBALANCES, "Times that other jobs became this scheduler's, or some another's")
}

/// The kind of a failure of a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SidecarError {
    /// Its stream ended before it took all of its triggers.
    Send,
    /// Its stream broke, or it sent a message against the protocol.
    Receive,
    /// Its request was not authorised.
    Unauthorized,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn register(r: &Registry) -> prometheus::Result<Self> {
        let (kind, gate) = (&["type"], &["concurrency_key"]);
        let by_type = |name, help| counters(r, name, help, kind);
        Ok(Self {
            connected: gauge(r, CONNECTED, "Open streams of sidecars")?,
            created: by_type(CREATED, "Jobs scheduled")?,
            create_failed: by_type(CREATE_FAILED, "Jobs that could not be scheduled")?,
            deleted: by_type(DELETED, "Jobs deleted by name")?,
            bulk_deleted: counter(r, BULK_DELETED, "Calls that delete jobs by prefix")?,
            triggered: by_type(TRIGGERED, "Triggers answered with success")?,
            failed: by_type(FAILED, "Triggers answered with a failure")?,
            undelivered: by_type(UNDELIVERED, "Triggers without a sidecar")?,
            latency: histograms(
                r,
                LATENCY,
                "Milliseconds from the due time to the answer",
                kind,
                &LATENCY_BUCKETS,
            )?,
            due_lag: histograms(
                r,
                DUE_LAG,
                "Milliseconds from the due time to the first delivery",
                kind,
                &LAG_BUCKETS,
            )?,
            throttled: counters(r, THROTTLED, "Triggers that waited for a limit", gate)?,
            gate_in_flight: gauges(r, GATE_IN_FLIGHT, "Triggers without an answer", gate)?,
            gate_pending: gauges(r, GATE_PENDING, "Triggers that wait for a limit", gate)?,
            jobs: [
                gauge(r, JOBS, "Jobs stored and known")?,
                gauge(r, ARMED, "Jobs that wait for their time")?,
                gauge(r, STAGED, "Due jobs without a sidecar")?,
                gauge(r, WAITING, "Due jobs that wait for a limit or for a sidecar that reads")?,
                gauge(r, IN_FLIGHT, "Triggers without an answer, of all sidecars")?,
            ],
            next_due: gauge(
                r,
                NEXT_DUE,
                "Seconds since 1970 of the next due job; 0 if none waits",
            )?,
            last_answer: gauges(
                r,
                LAST_ANSWER,
                "Seconds since 1970 of the last answered trigger",
                kind,
            )?,
            sidecar_errors: counters(r, SIDECAR_ERRORS, "Failures of sidecars", &["reason"])?,
            store_serves: gauge(r, STORE_SERVES, "1 while the job store, of any kind, serves")?,
            corrupt: gauge(r, CORRUPT, "Stored jobs that could not be decoded")?,
            resyncs: counter(r, RESYNCS, "Times that all jobs were read again after lost changes")?,
        })
    }

    /// A stream was opened.
    pub(crate) fn sidecar_connected(&self) {
        self.connected.inc();
    }

    /// A stream ended.
    pub(crate) fn sidecar_disconnected(&self) {
        self.connected.dec();
    }

    /// Counts a failure of a sidecar.
    pub(crate) fn sidecar_error(&self, error: SidecarError) {
        let reason = match error {
            SidecarError::Send => "send_failed",
            SidecarError::Receive => "recv_failed",
            SidecarError::Unauthorized => "auth_failed",
        };
        self.sidecar_errors.with_label_values(&[reason]).inc();
    }

    /// Counts a call that schedules a job, by its result.
    pub(crate) fn scheduled(&self, of: &KnownMetadata, done: bool) {
        let metric = if done { &self.created } else { &self.create_failed };
        metric.with_label_values(&[kind_of(of)]).inc();
    }

    /// A job was deleted by name.
    pub(crate) fn deleted(&self, of: &KnownMetadata) {
        self.deleted.with_label_values(&[kind_of(of)]).inc();
    }

    /// Jobs were deleted by prefix.
    pub(crate) fn bulk_deleted(&self) {
        self.bulk_deleted.inc();
    }

    /// A stored job cannot be decoded.
    pub(crate) fn corrupt_record(&self) {
        self.corrupt.inc();
    }

    /// All jobs are read again, because changes of the store were lost.
    pub(crate) fn resync(&self) {
        self.resyncs.inc();
    }

    /// Records whether the store serves.
    pub(crate) fn store_serves(&self, serves: bool) {
        self.store_serves.set(i64::from(serves));
    }

    /// Sets the gauges of the engine.
    pub(crate) fn engine_holds(&self, now: &Gauges) {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let counts = [now.jobs, now.armed, now.staged, now.waiting, now.in_flight];
        for (gauge, count) in self.jobs.iter().zip(counts) {
            gauge.set(whole(count));
        }
        self.next_due.set(now.next_due.map_or(0, Timestamp::as_second));
        // Gates exist as long as the sidecars that set them.
        self.gate_in_flight.reset();
        self.gate_pending.reset();
        for gate in &now.gates {
            let key = &[gate.concurrency_key.as_str()];
            self.gate_in_flight.with_label_values(key).set(gate.in_flight.into());
            self.gate_pending.with_label_values(key).set(whole(gate.pending));
        }
    }

    /// Counts an observation of the engine.
    pub(crate) fn observe(&self, observation: &Observation) {
        let milliseconds = |took: Duration| took.as_secs_f64() * 1_000.0;
        let ended = |metric: &IntCounterVec, kind: TargetKind, took: Duration| {
            metric.with_label_values(&[label(kind)]).inc();
            self.latency.with_label_values(&[label(kind)]).observe(milliseconds(took));
            self.last_answer.with_label_values(&[label(kind)]).set(clock::now().as_second());
        };
        match observation {
            Observation::Delivered(kind, lag) => {
                self.due_lag.with_label_values(&[label(*kind)]).observe(milliseconds(*lag));
            }
            Observation::Succeeded(kind, took) => ended(&self.triggered, *kind, *took),
            Observation::Failed(kind, took) => ended(&self.failed, *kind, *took),
            Observation::Overflowed(kind) => {
                self.failed.with_label_values(&[label(*kind)]).inc();
            }
            Observation::Undelivered(kind) => {
                self.undelivered.with_label_values(&[label(*kind)]).inc();
            }
            Observation::Throttled(gate, jobs) => {
                let jobs = u64::try_from(*jobs).unwrap_or(u64::MAX);
                self.throttled.with_label_values(&[&**gate]).inc_by(jobs);
            }
            Observation::UnknownAck(..) => {}
        }
    }
}

fn kind_of(metadata: &KnownMetadata) -> &'static str {
    match target(metadata) {
        Some(Type::Job(_)) => label(TargetKind::Job),
        Some(Type::Actor(_)) => label(TargetKind::Actor),
        None => "unknown",
    }
}

fn label(kind: TargetKind) -> &'static str {
    match kind {
        TargetKind::Job => "job",
        TargetKind::Actor => "actor",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_etcd_come_with_the_store_that_they_are_about() {
        let registry = Registry::new();
        let of_etcd = || {
            let families = registry.gather();
            families.iter().filter(|family| family.name().starts_with("etcd_")).count()
        };
        Metrics::register(&registry).unwrap();
        assert_eq!(of_etcd(), 0, "an external etcd has its own");
        StoreMetrics::register(&registry, None).unwrap();
        assert_eq!(of_etcd(), 7);
    }
}
