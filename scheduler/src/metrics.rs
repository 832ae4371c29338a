//! Every metric of the scheduler.

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Registry,
};
use proto::scheduler::KnownMetadata;
use proto::scheduler::job_target_metadata::Type;
use runtime::metrics::{counter, counters, gauge, gauges, histograms};

use crate::engine::Gauges;
use crate::engine::event::{Observation, TargetKind};
use crate::store::Observer;
use crate::stored::target;

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
// Names of etcd, which dashboards read.
const HAS_LEADER: &str = "etcd_server_has_leader";
const DB_SIZE_IN_USE: &str = "etcd_mvcc_db_total_size_in_use_in_bytes";
const DB_SIZE: &str = "etcd_mvcc_db_total_size_in_bytes";
const LEADER_CHANGES: &str = "etcd_server_leader_changes_seen_total";
const COMMIT_SECONDS: &str = "etcd_disk_backend_commit_duration_seconds";
const SYNC_SECONDS: &str = "etcd_disk_wal_fsync_duration_seconds";
// Ours.
const CORRUPT: &str = "dapr_scheduler_corrupt_records";
const JOBS: &str = "dapr_scheduler_jobs";
const ARMED: &str = "dapr_scheduler_armed_jobs";
const STAGED: &str = "dapr_scheduler_staged_jobs";
const WAITING: &str = "dapr_scheduler_waiting_jobs";
const IN_FLIGHT: &str = "dapr_scheduler_inflight";
const BATCH_SIZE: &str = "dapr_scheduler_commit_batch_size";

/// Upper bounds of [`LATENCY`] in milliseconds (Dapr 1.18).
const LATENCY_BUCKETS: [f64; 5] = [100.0, 500.0, 1_000.0, 5_000.0, 10_000.0];
/// Upper bounds of [`COMMIT_SECONDS`], as etcd's.
const COMMIT_BUCKETS: [f64; 10] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.512, 2.048];
/// Upper bounds of [`BATCH_SIZE`]; the last is the largest batch.
const BATCH_BUCKETS: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 256.0, 512.0];

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
    throttled: IntCounterVec,
    gate_in_flight: IntGaugeVec,
    gate_pending: IntGaugeVec,
    /// Jobs known, armed, staged, waiting, in flight.
    jobs: [IntGauge; 5],
    sidecar_errors: IntCounterVec,
    has_leader: IntGauge,
    leader_changes: IntCounter,
    db_size: IntGauge,
    db_size_in_use: IntGauge,
    commit_seconds: Histogram,
    sync_seconds: Histogram,
    corrupt: IntGauge,
    batch_size: Histogram,
}

/// Why something with a sidecar failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SidecarError {
    /// Its stream broke, or it sent a message against the protocol.
    Receive,
    /// It asked for something that is not its own.
    Unauthorized,
}

impl Metrics {
    /// Registers them.
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
            sidecar_errors: counters(r, SIDECAR_ERRORS, "Failures of sidecars", &["reason"])?,
            has_leader: gauge(r, HAS_LEADER, "1 while the job store serves")?,
            db_size_in_use: gauge(r, DB_SIZE_IN_USE, "Bytes of all stored keys and values")?,
            leader_changes: counter(r, LEADER_CHANGES, "Times that the job store began to serve")?,
            db_size: gauge(r, DB_SIZE, "Bytes of the files of the job store")?,
            sync_seconds: histogram(
                r,
                SYNC_SECONDS,
                "Seconds until a batch is written and synced",
                &COMMIT_BUCKETS,
            )?,
            commit_seconds: histogram(
                r,
                COMMIT_SECONDS,
                "Seconds until a batch is durable",
                &COMMIT_BUCKETS,
            )?,
            corrupt: gauge(r, CORRUPT, "Stored jobs that could not be decoded")?,
            batch_size: histogram(r, BATCH_SIZE, "Transactions of one batch", &BATCH_BUCKETS)?,
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

    /// Something with a sidecar failed.
    pub(crate) fn sidecar_error(&self, error: SidecarError) {
        let reason = match error {
            SidecarError::Receive => "recv_failed",
            SidecarError::Unauthorized => "auth_failed",
        };
        self.sidecar_errors.with_label_values(&[reason]).inc();
    }

    /// A job was scheduled, or not.
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

    /// The store serves, or not.
    pub(crate) fn store_serves(&self, serves: bool) {
        if serves && self.has_leader.get() == 0 {
            self.leader_changes.inc();
        }
        self.has_leader.set(i64::from(serves));
    }

    /// What the engine holds now.
    pub(crate) fn engine_holds(&self, now: &Gauges) {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let counts = [now.jobs, now.armed, now.staged, now.waiting, now.in_flight];
        for (gauge, count) in self.jobs.iter().zip(counts) {
            gauge.set(whole(count));
        }
        // Gates come and go with the sidecars that ask for them.
        self.gate_in_flight.reset();
        self.gate_pending.reset();
        for gate in &now.gates {
            let key = &[gate.concurrency_key.as_str()];
            self.gate_in_flight.with_label_values(key).set(gate.in_flight.into());
            self.gate_pending.with_label_values(key).set(whole(gate.pending));
        }
    }

    /// Something that the engine saw.
    pub(crate) fn observe(&self, observation: &Observation) {
        let ended = |metric: &IntCounterVec, kind: TargetKind, took: Duration| {
            metric.with_label_values(&[label(kind)]).inc();
            let milliseconds = took.as_secs_f64() * 1_000.0;
            self.latency.with_label_values(&[label(kind)]).observe(milliseconds);
        };
        match observation {
            Observation::Succeeded(kind, took) => ended(&self.triggered, *kind, *took),
            Observation::Failed(kind, took) => ended(&self.failed, *kind, *took),
            Observation::Overflowed(kind) => {
                self.failed.with_label_values(&[label(*kind)]).inc();
            }
            Observation::Undelivered(kind) => {
                self.undelivered.with_label_values(&[label(*kind)]).inc();
            }
            Observation::Throttled(gate) => {
                self.throttled.with_label_values(&[&**gate]).inc();
            }
            Observation::UnknownAck(..) => {}
        }
    }
}

impl Observer for Metrics {
    fn committed(&self, transactions: usize, took: Duration, live_bytes: u64) {
        #[expect(clippy::cast_precision_loss, reason = "at most 512")]
        self.batch_size.observe(transactions as f64);
        self.commit_seconds.observe(took.as_secs_f64());
        self.db_size_in_use.set(i64::try_from(live_bytes).unwrap_or(i64::MAX));
    }

    fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    fn on_disk(&self, bytes: u64) {
        self.db_size.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> prometheus::Result<Histogram> {
    let made = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
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
