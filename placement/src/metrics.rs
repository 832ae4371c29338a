//! Every metric of placement.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use runtime::metrics::{counter, counters, gauge, gauges, histograms};

use crate::rounds::event::{Counts, Outcome};

// Source: Dapr 1.18; the two that end in `_total` are gauges there too.
const RUNTIMES: &str = "dapr_placement_runtimes_total";
const ACTOR_RUNTIMES: &str = "dapr_placement_actor_runtimes_total";
const LEADER: &str = "dapr_placement_leader_status";
const RAFT_LEADER: &str = "dapr_placement_raft_leader_status";
// Only here, not in Dapr.
const WAITING: &str = "trilby_placement_waiting_streams";
const ROUNDS: &str = "trilby_placement_rounds_total";
const ROUND_SECONDS: &str = "trilby_placement_round_seconds";
const PUSHES: &str = "trilby_placement_table_pushes_total";
const REMOVED: &str = "trilby_placement_streams_timed_out_total";

const TABLE_FULL: &str = "trilby_placement_table_full_total";

/// Bucket bounds in seconds: three round trips at best, `--disseminate-timeout` at worst.
const BUCKETS: [f64; 10] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0];

/// The metrics of placement. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    runtimes: IntGaugeVec,
    actor_runtimes: IntGaugeVec,
    waiting: IntGaugeVec,
    leader: [IntGauge; 2],
    rounds: IntCounterVec,
    round_seconds: HistogramVec,
    pushes: IntCounter,
    removed: IntCounter,
    table_full: IntCounter,
}

impl Metrics {
    /// Registers all metrics; leadership is 0 until [`Self::leads`].
    ///
    /// # Errors
    /// A name is registered already.
    pub(crate) fn register(r: &Registry) -> prometheus::Result<Self> {
        let namespace = &["host_namespace"];
        let outcome = &["outcome"];
        Ok(Self {
            runtimes: gauges(r, RUNTIMES, "Sidecars connected", namespace)?,
            actor_runtimes: gauges(r, ACTOR_RUNTIMES, "Sidecars that host actors", namespace)?,
            waiting: gauges(r, WAITING, "Sidecars that wait for a round to end", namespace)?,
            leader: [
                gauge(r, LEADER, "1 if this process serves sidecars")?,
                gauge(r, RAFT_LEADER, "1 if this process is the elected leader")?,
            ],
            rounds: counters(r, ROUNDS, "Rounds, by how they ended", outcome)?,
            round_seconds: histograms(r, ROUND_SECONDS, "Length of rounds", outcome, &BUCKETS)?,
            pushes: counter(r, PUSHES, "Tables given to sidecars without actors, outside rounds")?,
            removed: counter(r, REMOVED, "Sidecars removed because they held up a round")?,
            table_full: counter(r, TABLE_FULL, "Reports refused because the table is full")?,
        })
    }

    /// Sets whether this process leads.
    pub(crate) fn leads(&self, leads: bool) {
        self.leader.iter().for_each(|gauge| gauge.set(i64::from(leads)));
    }

    /// Sets the number of streams of a namespace.
    pub(crate) fn streams(&self, namespace: &str, counts: Counts) {
        for (gauge, count) in [
            (&self.runtimes, counts.members),
            (&self.actor_runtimes, counts.hosts),
            (&self.waiting, counts.waiting),
        ] {
            gauge.with_label_values(&[namespace]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Counts a finished round.
    pub(crate) fn round(&self, outcome: Outcome, took: Duration) {
        let label = match outcome {
            Outcome::Complete => "complete",
            Outcome::Superseded => "superseded",
            Outcome::TimedOut => "timeout",
            Outcome::Abandoned => "abandoned",
        };
        self.rounds.with_label_values(&[label]).inc();
        self.round_seconds.with_label_values(&[label]).observe(took.as_secs_f64());
    }

    /// Counts a table that was pushed outside a round.
    pub(crate) fn pushed(&self) {
        self.pushes.inc();
    }

    /// Counts a report that was refused because its namespace's table is full.
    pub(crate) fn table_full(&self) {
        self.table_full.inc();
    }

    /// Counts a sidecar that was removed.
    pub(crate) fn timed_out(&self) {
        self.removed.inc();
    }
}
