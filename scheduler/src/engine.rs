//! The engine decides which job is delivered to which stream and when, and what is written to the
//! store for each result. It performs no I/O and reads no clock.
//!
//! ```text
//!  JobPut ─► Far ─► Loading ─► Armed ─► Waiting ─► Delivered ─► Writing ─► Armed …, or the end
//!            (due in 30 s)     (due)    (slot and stream)  (answer)   (stored)
//! ```
//! Start at [`Engine::step`]; [`event`] has the inputs and outputs. `lifecycle` moves single jobs,
//! `dispatch` fills streams, `progress` counts ticks and applies failure policies, `pool` holds the
//! jobs that wait for streams and gates, `due` those that wait for a time, `leaving` those that go to
//! another member.
//!
//! Invariants: a version of a job has at most one delivery without an answer; no delivery starts
//! before its time by the wall clock; the next tick is armed when the counter of the last one is
//! stored. A far job holds no schedule and no payload in memory.

mod dispatch;
mod due;
pub(crate) mod event;
pub(crate) mod job;
mod leaving;
mod lifecycle;
mod pool;
mod pools;
mod progress;
pub(crate) mod shard;
#[cfg(test)]
mod simulation;
mod stream;
pub(crate) mod summary;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use self::due::DueQueue;
use self::event::{Effect, Event, Found, Origin, Share, StreamId};
use self::job::JobId;
pub(crate) use self::pool::GateGauge;
use self::pools::Pools;
use self::stream::Stream;
use self::table::{JobTable, Marks};

/// A job that is due later than this is not kept in memory, except for its key and time.
const LOOK_AHEAD: SignedDuration = SignedDuration::from_secs(30);

/// Due jobs that one step moves, so that other events do not wait for many jobs due at once.
const MAX_DUE_PER_STEP: usize = 1024;

/// Deliveries that one step starts.
const MAX_DELIVERIES_PER_STEP: usize = 1024;

/// Records that are being read at a time.
const MAX_LOADING: usize = 4096;

/// Results that are being written at a time. While there are more, no delivery starts: each one
/// would add a result.
const MAX_WRITING: usize = 100_000;

/// The pause before a delivery that could not leave the process is repeated.
const UNDELIVERABLE_PAUSE: SignedDuration = SignedDuration::from_millis(20);

/// How long an overdue job from the client port waits for a counter that is imported after it.
const IMPORT_PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// The pause before counters that a full store refused are written again.
const UNSAVED_PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// Counters that are written again in one step.
const MAX_UNSAVED_PER_STEP: usize = 256;

/// The state of all jobs, streams and gates of this replica.
#[derive(Debug)]
pub(crate) struct Engine {
    jobs: JobTable,
    /// Jobs in memory, by the time of their next delivery.
    armed: DueQueue,
    /// Jobs out of memory, by the time at which they are loaded.
    far: DueQueue,
    streams: HashMap<StreamId, Stream>,
    pools: Pools,
    share: Share,
    paused: bool,
    loading: usize,
    writing: usize,
    leaving: usize,
    /// Jobs whose counter a full store refused.
    unsaved: VecDeque<JobId>,
    unsaved_at: Option<Timestamp>,
    /// The running scan: jobs without a put since it began are deleted.
    scan: Option<Marks>,
    last_now: Timestamp,
    /// The last step stopped at one of its limits.
    behind: bool,
    effects: Vec<Effect>,
}

/// Values of gauges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gauges {
    /// Jobs known.
    pub(crate) jobs: usize,
    /// Jobs that wait for their time.
    pub(crate) armed: usize,
    /// Due jobs without a stream.
    pub(crate) staged: usize,
    /// Due jobs that wait for a slot or for a stream that reads.
    pub(crate) waiting: usize,
    /// Deliveries without an answer.
    pub(crate) in_flight: usize,
    /// When the next delivery is due; `None` if no job waits for its time.
    pub(crate) next_due: Option<Timestamp>,
    /// Gates with a limit.
    pub(crate) gates: Vec<GateGauge>,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            jobs: JobTable::default(),
            armed: DueQueue::default(),
            far: DueQueue::default(),
            streams: HashMap::new(),
            pools: Pools::default(),
            share: Share { index: 0, total: 1 },
            paused: false,
            loading: 0,
            writing: 0,
            leaving: 0,
            unsaved: VecDeque::new(),
            unsaved_at: None,
            scan: None,
            last_now: Timestamp::MIN,
            behind: false,
            effects: Vec::new(),
        }
    }
}

impl Engine {
    /// Applies an event and starts what is due. `now` is the wall clock, which may be set back: a
    /// job is never delivered before its time by the clock of the delivery.
    pub(crate) fn step(&mut self, event: Event, now: Timestamp) -> Vec<Effect> {
        if now < self.last_now {
            self.clock_set_back(now);
        }
        self.last_now = now;
        match event {
            Event::JobPut { key, revision, job, counter, origin } => {
                self.put(key, revision, job, counter, origin, now);
            }
            Event::JobsFound(found) => {
                for Found { key, revision, job, counter } in found {
                    self.put(key, revision, job, counter, Origin::Scan, now);
                }
            }
            Event::JobDeleted { key, revision } => self.delete_at(&key, revision),
            Event::ShardsLeaving(shards) => self.leave(&shards),
            Event::ShardsLost(shards) => self.forget(&shards),
            Event::CounterPut { key } => self.reload(&key),
            Event::StreamOpened(registration) => self.open_stream(registration),
            Event::StreamClosed { stream } => self.close_stream(stream, now),
            Event::Taken { stream, through } => self.taken(stream, through),
            Event::Ack { stream, id, result } => self.ack(stream, id, result, now),
            Event::Undeliverable { stream, id, reason } => {
                self.undeliverable(stream, id, reason, now);
            }
            Event::Persisted { job, outcome } => self.persisted(job, outcome, now),
            Event::Loaded { job, outcome } => self.loaded(job, outcome, now),
            Event::ScanBegun => self.scan = Some(Marks::default()),
            Event::ScanEnded => self.end_scan(),
            Event::Share(share) => {
                self.share = share;
                self.pools.share_changed(share);
            }
            Event::Pause => self.paused = true,
            Event::Resume => self.paused = false,
            Event::Tick => {}
        }
        self.behind = !self.load_far(now) | !self.pop_due(now) | !self.save_again(now);
        self.dispatch(now);
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is needed next. A time in the past means at once, after the events that
    /// have arrived meanwhile.
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        if self.behind {
            return Some(Timestamp::MIN);
        }
        let far = self.far.first().filter(|_| self.loading < MAX_LOADING);
        [self.armed.first(), far, self.unsaved_at].into_iter().flatten().min()
    }

    /// Whether a delivery has no answer. Looks at streams until it finds one.
    pub(crate) fn awaits_answers(&self) -> bool {
        self.streams.values().any(|stream| !stream.outstanding.is_empty())
    }

    /// Numbers for metrics, counted on demand.
    pub(crate) fn gauges(&self) -> Gauges {
        let waiting = |staged: bool| {
            let pools = self.pools.iter().filter(|pool| pool.has_streams() != staged);
            pools.map(pool::Pool::waiting).sum()
        };
        Gauges {
            jobs: self.jobs.len(),
            armed: self.armed.len() + self.far.len(),
            staged: waiting(true),
            waiting: waiting(false),
            in_flight: self.streams.values().map(|stream| stream.outstanding.len()).sum(),
            next_due: {
                let far = self.far.first().map(|load_at| later(load_at, LOOK_AHEAD));
                [self.armed.first(), far].into_iter().flatten().min()
            },
            gates: self.pools.iter().flat_map(pool::Pool::gates).collect(),
        }
    }

    /// Pauses that the engine itself added end at most as long after the new time as they were.
    fn clock_set_back(&mut self, now: Timestamp) {
        for job in self.armed.after(later(now, IMPORT_PAUSE)) {
            if let Some(planned) = self.planned(job) {
                self.arm(job, planned.max(now));
            }
        }
        let latest = later(now, UNSAVED_PAUSE);
        self.unsaved_at = self.unsaved_at.map(|at| at.min(latest));
    }
}

/// A time stamp moved ahead, at most to the last one that exists.
fn later(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// The time between two instants, zero when the clock was set back between them.
fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}
