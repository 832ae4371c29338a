//! Streams and pools: due jobs wait in their pools and are delivered in turn.

use std::sync::Arc;

use jiff::Timestamp;

use super::event::{AckResult, Effect, Observation, Registration, StreamId};
use super::job::{JobId, Target};
use super::pool::PoolId;
use super::pools::QUANTUM;
use super::stream::{Outstanding, Stream};
use super::table::State;
use super::{Engine, MAX_DELIVERIES_PER_STEP, MAX_WRITING, elapsed};

impl Engine {
    /// Registers a stream with its pools. Its limits are in force before it gets a delivery.
    pub(super) fn open_stream(&mut self, registration: Registration) {
        let Registration { stream, namespace, app_id, mut actor_types, limits } = registration;
        actor_types.sort_unstable();
        actor_types.dedup();
        let targets = app_id
            .map(Target::App)
            .into_iter()
            .chain(actor_types.into_iter().map(Target::ActorType));
        let pools: Vec<PoolId> =
            targets.map(|target| self.pools.acquire(&namespace, target)).collect();
        let mut gates = Vec::new();
        for limit in limits {
            let id = self.pools.acquire(&namespace, Target::ActorType(limit.actor_type));
            if let Some(pool) = self.pools.get_mut(id) {
                pool.limit(limit.name.as_ref(), limit.max_concurrent.max(1), self.share);
            }
            gates.push((id, limit.name));
        }
        for id in &pools {
            let Some(pool) = self.pools.get_mut(*id) else { continue };
            if pool.add_stream(stream) {
                let throttled = pool.throttled(self.share).into_iter();
                let observed =
                    throttled.map(|(gate, jobs)| Observation::Throttled(gate.into(), jobs));
                self.effects.extend(observed.map(Effect::Observe));
            }
        }
        for id in pools.iter().chain(gates.iter().map(|(id, _)| id)) {
            self.pools.list(*id, self.share);
        }
        self.streams.insert(stream, Stream::new(pools, gates));
    }

    /// Removes a stream. Its deliveries without an answer return to their pools, before all others
    /// and in the order of their times; no attempt is counted.
    pub(super) fn close_stream(&mut self, id: StreamId, now: Timestamp) {
        let Some(stream) = self.streams.remove(&id) else { return };
        for pool in &stream.pools {
            if let Some(pool) = self.pools.get_mut(*pool) {
                pool.remove_stream(id);
            }
        }
        let mut returned: Vec<(Timestamp, JobId)> = Vec::new();
        for outstanding in stream.outstanding.into_values() {
            self.effects.push(Effect::Observe(Observation::Undelivered(outstanding.kind)));
            if !self.depart(outstanding.job, None)
                && self.is_delivered(outstanding.job)
                && let Some(planned) = self.planned(outstanding.job)
            {
                returned.push((planned, outstanding.job));
            }
            self.free(&outstanding);
        }
        returned.sort_unstable();
        for (_, job) in returned.into_iter().rev() {
            self.return_to_pool(job, now);
        }
        for (pool, name) in stream.limits {
            if let Some(pool) = self.pools.get_mut(pool) {
                pool.drop_limit(name.as_ref(), self.share);
            }
            self.pools.list(pool, self.share);
            self.pools.release(pool);
        }
        for pool in stream.pools {
            self.pools.release(pool);
        }
    }

    /// The transport of a stream took deliveries.
    pub(super) fn taken(&mut self, id: StreamId, through: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let was_full = !stream.has_room();
        stream.taken(through);
        if was_full {
            self.list_pools_of(id);
        }
    }

    /// Gives the pools of a stream a turn, after the stream got room.
    fn list_pools_of(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get(&id) {
            for pool in &stream.pools {
                self.pools.list(*pool, self.share);
            }
        }
    }

    /// Removes a delivery from its stream and frees its slots.
    pub(super) fn settle(&mut self, id: StreamId, delivery: u64) -> Option<Outstanding> {
        let stream = self.streams.get_mut(&id)?;
        let was_full = !stream.has_room();
        let outstanding = stream.settle(delivery)?;
        if was_full {
            self.list_pools_of(id);
        }
        self.free(&outstanding);
        Some(outstanding)
    }

    fn free(&mut self, outstanding: &Outstanding) {
        if let Some(pool) = self.pools.get_mut(outstanding.pool) {
            pool.release(outstanding.name.as_ref(), self.share);
        }
        self.pools.list(outstanding.pool, self.share);
        self.pools.release(outstanding.pool);
    }

    /// Adds a job whose time has come to its pool.
    pub(super) fn enqueue(&mut self, id: JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let Some(plan) = entry.plan.as_mut() else { return };
        let Some(pool) = self.pools.get_mut(plan.pool) else { return };
        let kind = pool.target.kind();
        if pool.overflows(plan.name.as_ref(), self.share) {
            self.effects.push(Effect::Observe(Observation::Overflowed(kind)));
            self.apply(id, AckResult::Failed);
            return;
        }
        if !pool.has_streams() {
            self.effects.push(Effect::Observe(Observation::Undelivered(kind)));
        } else if let Some(gate) = pool.full_gate(plan.name.as_ref(), self.share) {
            self.effects.push(Effect::Observe(Observation::Throttled(gate.into(), 1)));
        }
        (plan.since, plan.is_repeated) = (now, false);
        plan.order = pool.push_back(id, plan.name.as_ref(), self.share);
        entry.state = State::Waiting;
        self.pools.list(plan.pool, self.share);
    }

    fn return_to_pool(&mut self, id: JobId, now: Timestamp) {
        let Some(entry) = self.jobs.get_mut(id) else { return };
        let Some(plan) = entry.plan.as_mut() else { return };
        let Some(pool) = self.pools.get_mut(plan.pool) else { return };
        (plan.since, plan.is_repeated) = (now, true);
        plan.order = pool.push_front(id, plan.name.as_ref(), self.share);
        entry.state = State::Waiting;
        self.pools.list(plan.pool, self.share);
    }

    /// Delivers waiting jobs, a few of each pool in turn.
    pub(super) fn dispatch(&mut self, now: Timestamp) {
        let mut budget = MAX_DELIVERIES_PER_STEP;
        while !self.paused && self.writing < MAX_WRITING && self.pools.has_turns() {
            if budget == 0 {
                self.behind = true;
                return;
            }
            let Some(pool) = self.pools.next_turn() else { continue };
            let mut quantum = QUANTUM.min(budget);
            while quantum > 0 && self.deliver_one(pool, now) {
                quantum -= 1;
                budget -= 1;
            }
            if quantum == 0 {
                self.pools.list(pool, self.share);
            }
        }
    }

    /// Delivers the next job of a pool; false without a job, a slot or a stream with room.
    fn deliver_one(&mut self, id: PoolId, now: Timestamp) -> bool {
        let Some(pool) = self.pools.get_mut(id).filter(|pool| pool.is_ready(self.share)) else {
            return false;
        };
        let streams = &self.streams;
        let has_room = |id| streams.get(&id).is_some_and(Stream::has_room);
        let Some(stream) = pool.next_stream(has_room) else { return false };
        let Some(job) = pool.pop(self.share) else { return false };
        let kind = pool.target.kind();
        let shard = self.jobs.shard(job);
        let Some(entry) = self.jobs.get_mut(job) else { return false };
        let Some(plan) = entry.plan.as_ref() else { return false };
        let name = plan.name.clone();
        let (planned, is_repeated) = (plan.progress.planned(), plan.is_repeated);
        if planned > now {
            // The clock was set back while the job waited.
            pool.release(name.as_ref(), self.share);
            self.arm(job, planned);
            return true;
        }
        entry.state = State::Delivered;
        let (key, revision) = (Arc::clone(&entry.key), entry.revision);
        let outstanding = Outstanding { job, pool: id, name, kind, since: plan.since };
        self.pools.refer(id);
        let Some(stream_state) = self.streams.get_mut(&stream) else { return false };
        let id = stream_state.deliver(outstanding);
        self.effects.push(Effect::Deliver { stream, id, key, revision, shard });
        if !is_repeated {
            let lag = elapsed(planned, now);
            self.effects.push(Effect::Observe(Observation::Delivered(kind, lag)));
        }
        true
    }
}
