//! Whether this member may still deliver jobs; checked before each delivery leaves the process.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::epoch::Epoch;
use super::ownership::Part;
use super::shards::Claims;
use crate::engine::shard::{SHARDS, Shard};

const NONE: Epoch = 0;

/// Shared by the membership, which sets it, and by deliveries. An epoch lasts until it ends or the
/// lease of the member expires, by the monotonic clock: a process that resumes after a long pause
/// finds it closed.
#[derive(Debug)]
pub(crate) struct Fence {
    start: Instant,
    /// Jobs are delivered at all.
    open: AtomicBool,
    /// The epoch of each shard.
    epochs: Box<[AtomicU64]>,
    /// Number of members that share the jobs by number, and the part of this one.
    total: AtomicU64,
    index: AtomicU64,
    /// Milliseconds after `start` until which the lease is valid.
    until: AtomicU64,
}

impl Fence {
    /// No epoch, and no lease.
    pub(crate) fn closed(start: Instant) -> Self {
        Self::new(start, NONE, 0)
    }

    /// One epoch without end, for a single member.
    pub(crate) fn open(start: Instant) -> Self {
        Self::new(start, 1, u64::MAX)
    }

    fn new(start: Instant, epoch: Epoch, until: u64) -> Self {
        let [total, index, until] = [1, 0, until].map(AtomicU64::new);
        let epochs = Shard::all().map(|_| AtomicU64::new(epoch)).collect();
        Self { start, open: AtomicBool::new(epoch != NONE), epochs, total, index, until }
    }

    /// Whether jobs may be delivered at a time.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        let held = self.since_start(now) < self.until.load(Ordering::Acquire);
        held && self.open.load(Ordering::Acquire)
    }

    /// Whether this is the epoch of a shard.
    pub(crate) fn admits(&self, shard: Shard, epoch: Epoch) -> bool {
        epoch != NONE && self.of(shard).is_some_and(|of| of.load(Ordering::Acquire) == epoch)
    }

    /// Starts an epoch, in which jobs with this remainder modulo the number of members are this
    /// member's.
    pub(crate) fn begin(&self, part: &Part) {
        self.total.store(part.total.max(1), Ordering::Relaxed);
        self.index.store(part.index, Ordering::Relaxed);
        for shard in &self.epochs {
            shard.store(part.epoch, Ordering::Release);
        }
        self.open.store(true, Ordering::Release);
    }

    /// Starts the epochs of shards.
    pub(crate) fn claim(&self, claims: &Claims) {
        for (shard, epoch) in claims {
            self.set(*shard, *epoch);
        }
        self.open.store(true, Ordering::Release);
    }

    /// Ends the epochs of shards.
    pub(crate) fn release<'a>(&self, shards: impl IntoIterator<Item = &'a Shard>) {
        for shard in shards {
            self.set(*shard, NONE);
        }
    }

    /// Ends all epochs: no job is this member's.
    pub(crate) fn end(&self) {
        self.open.store(false, Ordering::Release);
        for shard in &self.epochs {
            shard.store(NONE, Ordering::Release);
        }
        self.total.store(1, Ordering::Relaxed);
        self.index.store(0, Ordering::Relaxed);
    }

    /// A partition id for a new job, by which it most likely is this member's: it then need not
    /// learn of the job from another one. Sidecars call all members in turn.
    pub(crate) fn partition_id(&self, random: u64) -> u64 {
        let total = self.total.load(Ordering::Relaxed);
        let index = self.index.load(Ordering::Relaxed);
        let id = (random - random % total).checked_add(index).unwrap_or(index);
        let drawn = Shard::of(id);
        // The next shard that this member has.
        let (before, from) = self.epochs.split_at(drawn.number().into());
        let has = |of: &AtomicU64| of.load(Ordering::Relaxed) != NONE;
        let further = from.iter().chain(before).position(has).unwrap_or_default() as u64;
        let drawn = u64::from(drawn.number());
        id - drawn + (drawn + further) % u64::from(SHARDS)
    }

    /// The lease was renewed, and is valid for this time after the request was sent.
    pub(crate) fn renew(&self, sent: Instant, valid: Duration) {
        self.until.store(self.since_start(sent + valid), Ordering::Release);
    }

    fn of(&self, shard: Shard) -> Option<&AtomicU64> {
        self.epochs.get(usize::from(shard.number()))
    }

    fn set(&self, shard: Shard, epoch: Epoch) {
        if let Some(of) = self.of(shard) {
            of.store(epoch, Ordering::Release);
        }
    }

    fn since_start(&self, at: Instant) -> u64 {
        let passed = at.saturating_duration_since(self.start).as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(index: u64, total: u64) -> Part {
        Part { key: "k".into(), epoch: 7, index, total }
    }

    fn shard(number: u64) -> Shard {
        Shard::of(number)
    }

    #[test]
    fn an_epoch_holds_while_the_lease_is_renewed() {
        let start = runtime::clock::monotonic();
        let after = |seconds| start + Duration::from_secs(seconds);
        let valid = Duration::from_secs(10);
        let fence = Fence::closed(start);
        fence.renew(start, valid);
        assert!(!fence.is_open(after(1)), "none has begun");
        fence.begin(&part(0, 1));
        assert!(fence.is_open(after(9)) && !fence.is_open(after(10)));
        fence.renew(after(9), valid);
        assert!(fence.is_open(after(18)) && !fence.is_open(after(19)));
        assert!(fence.admits(shard(3), 7) && !fence.admits(shard(3), 6));
        fence.end();
        assert!(!fence.is_open(after(10)) && !fence.admits(shard(3), 7));
    }

    #[test]
    fn each_shard_has_its_epoch() {
        let fence = Fence::closed(runtime::clock::monotonic());
        fence.claim(&[(shard(1), 5), (shard(2), 6)].into());
        assert!(fence.admits(shard(1), 5) && fence.admits(shard(2), 6));
        assert!(!fence.admits(shard(1), 6) && !fence.admits(shard(3), NONE));
        fence.release([&shard(1)]);
        assert!(!fence.admits(shard(1), 5) && fence.admits(shard(2), 6));
    }

    #[test]
    fn new_jobs_are_the_members_own() {
        let fence = Fence::closed(runtime::clock::monotonic());
        assert_eq!(fence.partition_id(u64::MAX), u64::MAX);
        fence.begin(&part(2, 3));
        for random in [0, 1, 2, 3, 1_000, u64::MAX - 1, u64::MAX] {
            assert_eq!(fence.partition_id(random) % 3, 2, "{random}");
        }
        assert_ne!(fence.partition_id(1_000), fence.partition_id(2_000));
        fence.end();
        fence.claim(&[(shard(5), 1), (shard(1_000), 1)].into());
        for (random, want) in [(0, 5), (5, 5), (6, 1_000), (1_001, 5), (u64::MAX, 5)] {
            let id = fence.partition_id(random);
            assert_eq!((Shard::of(id), id / 1_024), (shard(want), random / 1_024), "{random}");
        }
    }

    #[test]
    fn a_single_member_needs_no_lease() {
        let start = runtime::clock::monotonic();
        let fence = Fence::open(start);
        assert!(fence.is_open(start + Duration::from_hours(24 * 365)));
        assert!(fence.admits(shard(1_023), 1));
        assert_eq!(fence.partition_id(12_345), 12_345);
    }
}
