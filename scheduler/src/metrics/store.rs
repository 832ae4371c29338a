//! Metrics of the embedded store, and the sizes of batches of any store. Those with names of etcd are
//! read by dashboards; an external etcd has its own.

use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry};
use runtime::metrics::{counter, gauge};

use crate::store::Observer;

// Names of etcd.
const HAS_LEADER: &str = "etcd_server_has_leader";
const DB_SIZE_IN_USE: &str = "etcd_mvcc_db_total_size_in_use_in_bytes";
const DB_SIZE: &str = "etcd_mvcc_db_total_size_in_bytes";
const LEADER_CHANGES: &str = "etcd_server_leader_changes_seen_total";
const QUOTA: &str = "etcd_server_quota_backend_bytes";
const COMMIT_SECONDS: &str = "etcd_disk_backend_commit_duration_seconds";
const SYNC_SECONDS: &str = "etcd_disk_wal_fsync_duration_seconds";
// Ours.
const BATCH_SIZE: &str = "dapr_scheduler_commit_batch_size";

/// Upper bounds of [`COMMIT_SECONDS`], as etcd's.
const COMMIT_BUCKETS: [f64; 10] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.512, 2.048];
/// Upper bounds of [`BATCH_SIZE`].
const BATCH_BUCKETS: [f64; 6] = [1.0, 4.0, 16.0, 64.0, 256.0, 512.0];

/// The metrics. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    has_leader: IntGauge,
    leader_changes: IntCounter,
    db_size: IntGauge,
    db_size_in_use: IntGauge,
    quota: IntGauge,
    commit_seconds: Histogram,
    sync_seconds: Histogram,
    batch_size: Histogram,
}

impl StoreMetrics {
    /// Registers the metrics, for a store with this quota.
    ///
    /// # Errors
    /// A name is taken.
    pub(crate) fn register(r: &Registry, quota_bytes: Option<u64>) -> prometheus::Result<Self> {
        let metrics = Self {
            has_leader: gauge(r, HAS_LEADER, "1 while the job store serves")?,
            leader_changes: counter(r, LEADER_CHANGES, "Times that the job store began to serve")?,
            db_size: gauge(r, DB_SIZE, "Bytes of the files of the job store")?,
            db_size_in_use: gauge(r, DB_SIZE_IN_USE, "Bytes of all stored keys and values")?,
            quota: gauge(r, QUOTA, "Bytes of keys and values above which puts are refused")?,
            commit_seconds: histogram(
                r,
                COMMIT_SECONDS,
                "Seconds until a batch is durable",
                &COMMIT_BUCKETS,
            )?,
            sync_seconds: histogram(
                r,
                SYNC_SECONDS,
                "Seconds until a batch is written and synced",
                &COMMIT_BUCKETS,
            )?,
            batch_size: register_batch_size(r)?,
        };
        metrics.quota.set(quota_bytes.map_or(i64::MAX, whole));
        Ok(metrics)
    }

    /// Records whether the store serves.
    pub(crate) fn store_serves(&self, serves: bool) {
        if serves && self.has_leader.get() == 0 {
            self.leader_changes.inc();
        }
        self.has_leader.set(i64::from(serves));
    }
}

impl Observer for StoreMetrics {
    fn committed(&self, transactions: usize, took: Duration, live_bytes: u64) {
        #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
        self.batch_size.observe(transactions as f64);
        self.commit_seconds.observe(took.as_secs_f64());
        self.db_size_in_use.set(whole(live_bytes));
    }

    fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    fn on_disk(&self, bytes: u64) {
        self.db_size.set(whole(bytes));
    }
}

/// Registers the sizes of batches.
///
/// # Errors
/// The name is taken.
pub(crate) fn register_batch_size(r: &Registry) -> prometheus::Result<Histogram> {
    histogram(r, BATCH_SIZE, "Transactions of one batch", &BATCH_BUCKETS)
}

fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
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
