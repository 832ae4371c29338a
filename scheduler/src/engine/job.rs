//! A job as the engine sees it: the checked form of a stored record.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::schedule::Timetable;

/// A job version that the engine keeps. A put of the same key creates a new id, so an answer of
/// the store for an older version never applies to a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct JobId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// A decoded `stored.Job`. It has no payload: the shell reads that when it sends a delivery.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    /// `stored.Job.partition_id`: ties the counter record to this version of the job.
    pub(crate) partition_id: u64,
    /// When the job is due.
    pub(crate) timetable: Timetable,
    /// What follows a failed delivery.
    pub(crate) policy: FailurePolicy,
    /// Namespace of `JobMetadata`.
    pub(crate) namespace: Arc<str>,
    /// Which streams may receive the job.
    pub(crate) target: Target,
    /// `JobMetadata.concurrency_key`, used for actor targets only.
    pub(crate) concurrency_key: Option<Arc<str>>,
}

/// The streams that may receive a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Target {
    /// Streams of this app id that accept jobs.
    App(Arc<str>),
    /// Streams that accept reminders and host this actor type.
    ActorType(Arc<str>),
}

/// `api.FailurePolicy`: what follows a delivery that was answered FAILED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailurePolicy {
    /// The tick is given up.
    Drop,
    /// The tick is delivered again at its previous planned time plus `interval`, at most
    /// `max_retries` times; without a limit when unset.
    Constant { interval: Duration, max_retries: Option<u32> },
}

impl Default for FailurePolicy {
    /// The policy of jobs that were sent without one. Source: Dapr 1.18.
    fn default() -> Self {
        Self::Constant { interval: Duration::from_secs(1), max_retries: Some(3) }
    }
}

/// `stored.Counter`: how far a job has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counter {
    /// The version of the job that is counted.
    pub(crate) job_partition_id: u64,
    /// Finished ticks.
    pub(crate) count: u32,
    /// Scheduled time of the last finished tick.
    pub(crate) last_trigger: Option<Timestamp>,
    /// Failed deliveries of the current tick.
    pub(crate) attempts: u32,
}
