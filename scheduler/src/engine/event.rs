//! Inputs and outputs of the engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::job::{Counter, Job, JobId};
use super::shard::Shard;

/// A live `WatchJobs` stream. The shell chooses a new number for every stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamId(pub(crate) u64);

/// An input. Events about one key arrive in the order of the store's revisions.
#[derive(Debug)]
pub(crate) enum Event {
    /// A job was written, or was read from the store. Except between [`Event::ScanBegun`] and
    /// [`Event::ScanEnded`], a version before the known one changes nothing.
    JobPut {
        /// Key without `dapr/jobs/`.
        key: Arc<str>,
        /// `mod_revision` of the job record.
        revision: u64,
        /// The record.
        job: Job,
        /// The counter record of the key, of any version of the job.
        counter: Option<Counter>,
        /// How the record came into the store.
        origin: Origin,
    },
    /// Jobs were read from the store: each as a [`Event::JobPut`] with [`Origin::Scan`].
    JobsFound(Vec<Found>),
    /// A job key was deleted, but not by the engine, or is another member's. An unknown key is
    /// ignored.
    JobDeleted {
        /// Key without `dapr/jobs/`.
        key: Arc<str>,
        /// When. A later version stays.
        revision: u64,
    },
    /// The jobs of these shards will be another member's: none is delivered any more, and they are
    /// forgotten, each with the answer to its delivery. Answers still count. No [`Event::JobPut`] of
    /// them follows before [`Event::ShardsLost`].
    ShardsLeaving(BTreeSet<Shard>),
    /// The jobs of these shards are another member's from now on: they are forgotten, and answers to
    /// their deliveries apply to nothing.
    ShardsLost(BTreeSet<Shard>),
    /// A counter record was written over the client port, not by the engine.
    CounterPut {
        /// Key without `dapr/counters/`.
        key: Arc<str>,
    },
    /// The first message of a stream was authorised and checked.
    StreamOpened(Registration),
    /// A stream ended, for any reason. Idempotent.
    StreamClosed { stream: StreamId },
    /// The transport took all deliveries of a stream up to and including this id.
    Taken {
        stream: StreamId,
        /// The highest id that left the process.
        through: u64,
    },
    /// A stream answered a delivery.
    Ack {
        stream: StreamId,
        /// `WatchJobsRequestResult.id`.
        id: u64,
        /// `WatchJobsRequestResult.status`.
        result: AckResult,
    },
    /// A delivery did not leave the process.
    Undeliverable {
        stream: StreamId,
        /// The id of the delivery.
        id: u64,
        /// Why.
        reason: Undeliverable,
    },
    /// The store answered [`Effect::Persist`] or [`Effect::Finish`].
    Persisted {
        /// The job of the effect.
        job: JobId,
        /// The outcome of the write.
        outcome: WriteOutcome,
    },
    /// The store answered [`Effect::Load`].
    Loaded {
        /// The job of the effect.
        job: JobId,
        /// The outcome of the read.
        outcome: LoadOutcome,
    },
    /// The store is about to be read as a whole: at start, or after its feed was lost.
    ScanBegun,
    /// Every job of the store was in an [`Event::JobsFound`] since [`Event::ScanBegun`]. Jobs without
    /// one are gone.
    ScanEnded,
    /// The replicas among which concurrency limits are shared have changed.
    Share(Share),
    /// No delivery starts until [`Event::Resume`]: the store or the lease is lost, or the process
    /// stops. Results are still processed.
    Pause,
    /// Deliveries start again.
    Resume,
    /// [`super::Engine::wake_at`] has passed, or the wall clock was set.
    Tick,
}

/// A job of the store.
#[derive(Debug)]
pub(crate) struct Found {
    /// Key without `dapr/jobs/`.
    pub(crate) key: Arc<str>,
    /// `mod_revision` of the job record.
    pub(crate) revision: u64,
    /// The record.
    pub(crate) job: Job,
    /// The counter record of the key, of any version of the job.
    pub(crate) counter: Option<Counter>,
}

/// How a job record came into the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// `ScheduleJob`.
    Api,
    /// A put over the client port. An overdue job waits for a second, so that a counter that is
    /// imported after it still counts.
    ClientPort,
    /// Another member of a store that several have. Its counter is read before the job is armed.
    Member,
    /// The scan of the store at start, or after its watch was lost.
    Scan,
}

/// `WatchJobsRequestInitial`, checked.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub(crate) stream: StreamId,
    /// Namespace of the sidecar.
    pub(crate) namespace: Arc<str>,
    /// App id of the sidecar, when the stream accepts jobs.
    pub(crate) app_id: Option<Arc<str>>,
    /// Actor types of the sidecar, empty unless the stream accepts reminders.
    pub(crate) actor_types: Vec<Arc<str>>,
    /// Limits with a value above zero and an actor target.
    pub(crate) limits: Vec<ConcurrencyLimit>,
}

/// `ConcurrencyLimit` of an actor target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConcurrencyLimit {
    /// Actor type.
    pub(crate) actor_type: Arc<str>,
    /// `JobMetadata.concurrency_key` that is limited; the whole type when unset.
    pub(crate) name: Option<Arc<str>>,
    /// Deliveries without an answer, over all replicas; at least 1.
    pub(crate) max_concurrent: u32,
}

/// The part of each concurrency limit that this replica may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Position of this replica among the sorted broadcast addresses.
    pub(crate) index: u32,
    /// Number of replicas; 0 counts as 1.
    pub(crate) total: u32,
}

/// `WatchJobsRequestResultStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckResult {
    /// SUCCESS.
    Success,
    /// FAILED.
    Failed,
}

/// Why a delivery did not leave the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Undeliverable {
    /// The job key is gone or has another revision. The event that says so follows or has arrived.
    Superseded,
    /// The stream cannot take it, or the store cannot be read. The engine delivers the job again.
    Failed,
}

/// The outcome of a conditional write. The shell retries while the store cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteOutcome {
    /// It is durable.
    Stored,
    /// The job key has another revision or is gone. The event that says so follows or has arrived.
    Superseded,
    /// The store is full and refuses puts. The job continues from memory, and the counter is
    /// written again after a back-off.
    Full,
}

/// The outcome of a load.
#[derive(Debug)]
pub(crate) enum LoadOutcome {
    /// The record with the revision of the effect.
    Found {
        /// The record.
        job: Box<Job>,
        /// The counter record of the key, of any version of the job.
        counter: Option<Counter>,
    },
    /// The key is gone or has another revision. The event that says so follows or has arrived.
    Superseded,
    /// The record cannot be decoded. The engine forgets the job; the record stays stored.
    Corrupt,
}

/// An output, which the shell applies in order.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Send a delivery.
    Deliver {
        /// To this stream.
        stream: StreamId,
        /// `WatchJobsResponse.id`: 1, 2, 3 … for each stream.
        id: u64,
        /// Key of the job, without prefix. The shell reads the payload when the transport takes the
        /// delivery.
        key: Arc<str>,
        /// `mod_revision` of the job record.
        revision: u64,
        /// Of the job.
        shard: Shard,
    },
    /// Put the counter record if the job key still has this revision. The shell answers with
    /// [`Event::Persisted`].
    Persist {
        job: JobId,
        /// Key without prefix.
        key: Arc<str>,
        /// `mod_revision` of the job record.
        revision: u64,
        /// Of the job.
        shard: Shard,
        /// The record.
        counter: Counter,
    },
    /// The job is finished: delete the job record and the counter record if the job key still has
    /// this revision, else nothing. The shell answers with [`Event::Persisted`].
    Finish {
        job: JobId,
        /// Key without prefix.
        key: Arc<str>,
        /// `mod_revision` of the job record.
        revision: u64,
        /// Of the job.
        shard: Shard,
    },
    /// Read the job record and its counter record, shortly before the job is due. The shell answers
    /// with [`Event::Loaded`].
    Load {
        job: JobId,
        /// Key without prefix.
        key: Arc<str>,
        /// `mod_revision` of the job record.
        revision: u64,
    },
    /// Record a metric or a log line.
    Observe(Observation),
}

/// An observation for metrics and logs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Observation {
    /// The first delivery of a due job began so long after its time: `due_lag_ms`.
    Delivered(TargetKind, Duration),
    /// A delivery was answered SUCCESS: `jobs_triggered_total`, `trigger_latency`.
    Succeeded(TargetKind, Duration),
    /// A delivery was answered FAILED: `jobs_failed_total`, `trigger_latency`.
    Failed(TargetKind, Duration),
    /// The queue of a concurrency gate was full, which counts as a failed delivery:
    /// `jobs_failed_total`.
    Overflowed(TargetKind),
    /// A due job found no stream, or its stream ended before the answer:
    /// `jobs_undelivered_total`.
    Undelivered(TargetKind),
    /// So many deliveries wait for a slot of this gate: `concurrency_throttled_total`.
    Throttled(Arc<str>, usize),
    /// An answer with an id that the stream does not wait for. It is dropped.
    UnknownAck(StreamId, u64),
}

/// Label `type` of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetKind {
    /// `job`.
    Job,
    /// `actor`.
    Actor,
}
