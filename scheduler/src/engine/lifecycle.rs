//! The life cycle of one job: read, armed, answered, written.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::event::{
    AckResult, Effect, LoadOutcome, Observation, Origin, StreamId, TargetKind, Undeliverable,
    WriteOutcome,
};
use super::job::{Counter, Job, JobId, Target};
use super::progress::{Outcome, Progress};
use super::shard::Shard;
use super::table::{Entry, Plan, State};
use super::{
    Engine, IMPORT_PAUSE, LOOK_AHEAD, MAX_DUE_PER_STEP, MAX_LOADING, MAX_UNSAVED_PER_STEP,
    UNDELIVERABLE_PAUSE, UNSAVED_PAUSE, elapsed, later,
};

impl Engine {
    /// Adds a version of a job. A known version changes nothing.
    pub(super) fn put(
        &mut self,
        key: Arc<str>,
        revision: u64,
        job: Job,
        counter: Option<Counter>,
        origin: Origin,
        now: Timestamp,
    ) {
        if let Some(known) = self.jobs.find(&key) {
            let known_at = self.jobs.get(known).map_or(0, |entry| entry.revision);
            // Only a whole read finds a store that was restored from a backup.
            if known_at == revision || (known_at > revision && self.scan.is_none()) {
                self.seen(known);
                return;
            }
            self.delete(&key);
        }
        let entry = Entry { key, revision, state: State::Stale, plan: None };
        let id = self.jobs.insert(entry, Shard::of(job.partition_id));
        self.seen(id);
        if origin == Origin::Member {
            self.load(id);
            return;
        }
        self.adopt(id, job, counter, now);
        if origin == Origin::ClientPort
            && let Some(planned) = self.planned(id).filter(|planned| *planned < now)
            && self.jobs.get(id).is_some_and(|entry| entry.state == State::Armed(planned))
        {
            self.arm(id, later(now, IMPORT_PAUSE));
        }
    }

    /// Resumes a job from its records: arms it, keeps it as a far job, or ends it.
    fn adopt(&mut self, id: JobId, job: Job, counter: Option<Counter>, now: Timestamp) {
        let partition_id = job.partition_id;
        let stale = counter.filter(|counter| counter.job_partition_id != partition_id);
        let Some(progress) = Progress::resume(job.timetable, job.policy, partition_id, counter)
        else {
            self.finish(id);
            return;
        };
        let planned = progress.planned();
        if stale.is_none() && is_far(planned, now) {
            self.park(id, planned);
            return;
        }
        let name = job.concurrency_key.filter(|_| matches!(job.target, Target::ActorType(_)));
        let pool = self.pools.acquire(&job.namespace, job.target);
        let plan = Plan {
            progress,
            pool,
            name,
            order: 0,
            since: now,
            is_repeated: false,
            writes: 0,
            unsaved: false,
        };
        if let Some(entry) = self.jobs.get_mut(id) {
            entry.plan = Some(Box::new(plan));
        }
        if stale.is_some() {
            self.persist(id); // the counter of an older version restarts at zero
        }
        self.arm_or_park(id, planned, now);
    }

    /// Arms a job that is due soon and drops the plan of one that is not.
    fn arm_or_park(&mut self, id: JobId, planned: Timestamp, now: Timestamp) {
        let plan = self.jobs.get(id).and_then(|entry| entry.plan.as_ref());
        // The records do not contain a planned retry.
        let unlike_store =
            plan.is_some_and(|plan| plan.unsaved || plan.writes > 0 || plan.progress.is_retry());
        if unlike_store || !is_far(planned, now) {
            self.arm(id, planned);
            return;
        }
        self.drop_plan(id);
        self.park(id, planned);
    }

    /// Keeps a job without a plan until it is due soon.
    fn park(&mut self, id: JobId, planned: Timestamp) {
        let load_at = planned.saturating_sub(LOOK_AHEAD).unwrap_or(Timestamp::MIN);
        let Some(entry) = self.jobs.get_mut(id) else { return };
        entry.state = State::Far(load_at);
        self.far.insert(load_at, id);
    }

    /// Lets a job with a plan wait for a time.
    pub(super) fn arm(&mut self, id: JobId, at: Timestamp) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        if let State::Armed(before) = entry.state {
            self.armed.remove(before, id);
        }
        entry.state = State::Armed(at);
        self.armed.insert(at, id);
    }

    /// The planned time of a job in memory.
    pub(super) fn planned(&self, id: JobId) -> Option<Timestamp> {
        Some(self.jobs.get(id)?.plan.as_ref()?.progress.planned())
    }

    /// Forgets a job unless a later version is known.
    pub(super) fn delete_at(&mut self, key: &str, revision: u64) {
        let known = self.jobs.find(key).and_then(|id| self.jobs.get(id));
        if known.is_some_and(|entry| entry.revision <= revision) {
            self.delete(key);
        }
    }

    /// Forgets the jobs of these shards.
    pub(super) fn forget(&mut self, shards: &BTreeSet<Shard>) {
        for key in self.jobs.keys_of(shards) {
            self.delete(&key);
        }
    }

    /// Forgets a job. A delivery without an answer keeps its slots until the answer.
    pub(super) fn delete(&mut self, key: &str) {
        if let Some(id) = self.jobs.find(key) {
            self.leave_queues(id);
            self.drop_plan(id);
            self.jobs.remove(id);
        }
    }

    /// Removes a job from what it waits in.
    fn leave_queues(&mut self, id: JobId) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        match entry.state {
            State::Far(at) => self.far.remove(at, id),
            State::Armed(at) => self.armed.remove(at, id),
            State::Loading { .. } => self.loading -= 1,
            State::Writing { .. } => self.writing -= 1,
            State::Leaving => self.leaving -= 1,
            State::Waiting => {
                if let Some(plan) = &entry.plan
                    && let Some(pool) = self.pools.get_mut(plan.pool)
                {
                    pool.remove(plan.order, plan.name.as_ref(), self.share);
                }
            }
            State::Delivered | State::Stale => {}
        }
        entry.state = State::Stale;
    }

    fn drop_plan(&mut self, id: JobId) {
        if let Some(plan) = self.jobs.get_mut(id).and_then(|entry| entry.plan.take()) {
            self.pools.release(plan.pool);
        }
    }

    /// A counter was written from outside: reads it unless a result is being written, whose counter
    /// follows.
    pub(super) fn reload(&mut self, key: &str) {
        let Some(id) = self.jobs.find(key) else { return };
        let Some(entry) = self.jobs.get_mut(id) else { return };
        if let State::Loading { again } = &mut entry.state {
            *again = true; // the load may have read the counter before
        }
        let state = entry.state;
        if matches!(state, State::Far(_) | State::Armed(_) | State::Waiting) {
            self.leave_queues(id);
            self.drop_plan(id);
            self.load(id);
        }
    }

    fn load(&mut self, id: JobId) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        entry.state = State::Loading { again: false };
        self.loading += 1;
        let (key, revision) = (Arc::clone(&entry.key), entry.revision);
        self.effects.push(Effect::Load { job: id, key, revision });
    }

    /// Loads far jobs that are due soon; returns whether all were.
    pub(super) fn load_far(&mut self, now: Timestamp) -> bool {
        for _ in 0..MAX_DUE_PER_STEP {
            if self.loading >= MAX_LOADING {
                return true; // an answer continues
            }
            let Some(id) = self.far.pop(now) else { return true };
            self.load(id);
        }
        false
    }

    /// Applies the outcome of a load.
    pub(super) fn loaded(&mut self, id: JobId, outcome: LoadOutcome, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let State::Loading { again } = entry.state else { return };
        self.loading -= 1;
        entry.state = State::Stale;
        if again {
            self.load(id);
        } else if let LoadOutcome::Found { job, counter } = outcome {
            self.adopt(id, *job, counter, now);
        }
    }

    /// Moves due jobs into their pools; returns whether all were.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> bool {
        for _ in 0..MAX_DUE_PER_STEP {
            let Some(id) = self.armed.pop(now) else { return true };
            self.enqueue(id, now);
        }
        false
    }

    /// Applies a result to a job that waits for it.
    pub(super) fn ack(&mut self, stream: StreamId, id: u64, result: AckResult, now: Timestamp) {
        let Some(outstanding) = self.settle(stream, id) else {
            self.effects.push(Effect::Observe(Observation::UnknownAck(stream, id)));
            return;
        };
        let latency = elapsed(outstanding.since, now);
        self.effects.push(Effect::Observe(match result {
            AckResult::Success => Observation::Succeeded(outstanding.kind, latency),
            AckResult::Failed => Observation::Failed(outstanding.kind, latency),
        }));
        if !self.depart(outstanding.job, Some(result)) && self.is_delivered(outstanding.job) {
            self.apply(outstanding.job, result);
        }
    }

    pub(super) fn is_delivered(&self, id: JobId) -> bool {
        self.jobs.get(id).is_some_and(|entry| entry.state == State::Delivered)
    }

    /// Counts a result and writes what follows.
    pub(super) fn apply(&mut self, id: JobId, result: AckResult) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let Some(plan) = entry.plan.as_mut() else { return };
        match plan.progress.settle(result) {
            Outcome::Finished => self.finish(id),
            Outcome::Continue => {
                entry.state = State::Writing { finish: false };
                self.writing += 1;
                self.persist(id);
            }
        }
    }

    /// Writes the counter of a job with a plan.
    fn persist(&mut self, id: JobId) {
        let shard = self.jobs.shard(id);
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let Some(plan) = entry.plan.as_mut() else { return };
        plan.writes += 1;
        let (key, revision) = (Arc::clone(&entry.key), entry.revision);
        let counter = plan.progress.counter();
        self.effects.push(Effect::Persist { job: id, key, revision, shard, counter });
    }

    /// Deletes the records of a job without further ticks.
    fn finish(&mut self, id: JobId) {
        let shard = self.jobs.shard(id);
        let Some(entry) = self.jobs.get_mut(id) else { return };
        entry.state = State::Writing { finish: true };
        self.writing += 1;
        if let Some(plan) = entry.plan.as_mut() {
            plan.writes += 1;
        }
        let (key, revision) = (Arc::clone(&entry.key), entry.revision);
        self.effects.push(Effect::Finish { job: id, key, revision, shard });
    }

    /// Applies the outcome of a write: the next tick is armed when nothing is being written.
    pub(super) fn persisted(&mut self, id: JobId, outcome: WriteOutcome, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let state = entry.state;
        if outcome == WriteOutcome::Superseded {
            if state != State::Delivered {
                self.leave_queues(id);
                self.drop_plan(id);
            }
            return;
        }
        let key = Arc::clone(&entry.key);
        let Some(plan) = entry.plan.as_mut() else {
            if state == (State::Writing { finish: true }) {
                self.delete(&key);
            }
            return;
        };
        plan.writes = plan.writes.saturating_sub(1);
        if outcome == WriteOutcome::Full && !plan.unsaved {
            plan.unsaved = true;
            self.unsaved.push_back(id);
            self.unsaved_at.get_or_insert(later(now, UNSAVED_PAUSE));
        } else if outcome == WriteOutcome::Stored && plan.writes == 0 {
            plan.unsaved = false;
        }
        if plan.writes > 0 {
            return;
        }
        let planned = plan.progress.planned();
        match state {
            State::Writing { finish: true } => self.delete(&key),
            State::Writing { finish: false } => {
                self.writing -= 1;
                self.arm_or_park(id, planned, now);
            }
            State::Armed(at) if at == planned => {
                self.leave_queues(id);
                self.arm_or_park(id, planned, now);
            }
            _ => {}
        }
    }

    /// Writes counters again that a full store refused; returns whether all were.
    pub(super) fn save_again(&mut self, now: Timestamp) -> bool {
        if self.unsaved_at.is_none_or(|at| at > now) {
            return true;
        }
        for _ in 0..MAX_UNSAVED_PER_STEP {
            let Some(id) = self.unsaved.pop_front() else {
                self.unsaved_at = None;
                return true;
            };
            let plan = self.jobs.get_mut(id).and_then(|entry| entry.plan.as_mut());
            if let Some(plan) = plan.filter(|plan| plan.unsaved) {
                plan.unsaved = false; // until the store refuses again
                if plan.writes == 0 {
                    self.persist(id);
                }
            }
        }
        false
    }

    /// A delivery did not leave the process: no attempt is counted.
    pub(super) fn undeliverable(
        &mut self,
        stream: StreamId,
        id: u64,
        reason: Undeliverable,
        now: Timestamp,
    ) {
        let Some(outstanding) = self.settle(stream, id) else { return };
        if self.depart(outstanding.job, None) || !self.is_delivered(outstanding.job) {
            return;
        }
        match reason {
            Undeliverable::Failed => {
                self.effects.push(Effect::Observe(Observation::Undelivered(outstanding.kind)));
                self.arm(outstanding.job, later(now, UNDELIVERABLE_PAUSE));
            }
            Undeliverable::Superseded => {
                self.leave_queues(outstanding.job);
                self.drop_plan(outstanding.job);
            }
        }
    }

    /// Marks a job as present in the running scan.
    fn seen(&mut self, id: JobId) {
        if let Some(scan) = self.scan.as_mut() {
            scan.insert(id);
        }
    }

    /// Forgets the jobs that the scan did not find.
    pub(super) fn end_scan(&mut self) {
        let Some(seen) = self.scan.take() else { return };
        for key in self.jobs.keys_without(&seen) {
            self.delete(&key);
        }
    }
}

/// Whether a job is kept out of memory until it is due sooner.
fn is_far(planned: Timestamp, now: Timestamp) -> bool {
    planned > later(now, LOOK_AHEAD)
}

impl Target {
    /// The label of metrics.
    pub(super) fn kind(&self) -> TargetKind {
        match self {
            Self::App(_) => TargetKind::Job,
            Self::ActorType(_) => TargetKind::Actor,
        }
    }
}
