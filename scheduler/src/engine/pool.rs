//! A pool: the streams that may receive the jobs of one app or actor type, the due jobs that wait
//! for them, and the concurrency gates that they pass.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::event::{Share, StreamId};
use super::job::{JobId, Target};

/// Jobs that wait at one gate. A job that becomes due while this many wait counts as failed.
/// Source: Dapr 1.18.
pub(super) const MAX_WAITING_AT_GATE: usize = 100_000;

/// Index of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PoolId(pub(super) u32);

/// The streams and waiting jobs of one target.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) namespace: Arc<str>,
    pub(super) target: Target,
    /// Plans, streams and deliveries that refer to the pool.
    pub(super) references: usize,
    /// Waits in the rotation for its turn.
    pub(super) listed: bool,
    streams: Vec<StreamId>,
    /// Position of the next stream.
    turn: usize,
    /// The gate of the whole pool.
    gate: Gate,
    /// Waiting jobs by concurrency key, each with a gate of its own.
    lanes: HashMap<Option<Arc<str>>, Lane>,
    /// The first job of each lane whose gate is open.
    fronts: BTreeMap<i64, Option<Arc<str>>>,
    waiting: usize,
    /// The next positions at both ends of the queue.
    next_back: i64,
    next_front: i64,
}

/// A limit on deliveries without an answer.
#[derive(Debug, Default)]
struct Gate {
    limit: Option<u32>,
    /// Streams that gave the limit.
    references: usize,
    in_flight: u32,
}

#[derive(Debug, Default)]
struct Lane {
    gate: Gate,
    waiting: BTreeMap<i64, JobId>,
    /// Position under which the lane is in `fronts`.
    front: Option<i64>,
}

/// The occupancy of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GateGauge {
    /// `<actor type>` or `<actor type>:<name>`.
    pub(crate) concurrency_key: String,
    /// Deliveries without an answer.
    pub(crate) in_flight: u32,
    /// Due jobs that wait.
    pub(crate) pending: usize,
}

impl Gate {
    fn is_full(&self, share: Share) -> bool {
        self.free(share) == Some(0)
    }

    /// Free slots; `None` without a limit.
    fn free(&self, share: Share) -> Option<u32> {
        self.limit.map(|limit| share.of(limit).saturating_sub(self.in_flight))
    }
}

impl Share {
    /// The part of a limit that this replica may use, at least one.
    fn of(self, limit: u32) -> u32 {
        let total = self.total.max(1);
        (limit / total + u32::from(self.index < limit % total)).max(1)
    }
}

impl Pool {
    pub(super) fn new(namespace: Arc<str>, target: Target) -> Self {
        Self {
            namespace,
            target,
            references: 0,
            listed: false,
            streams: Vec::new(),
            turn: 0,
            gate: Gate::default(),
            lanes: HashMap::new(),
            fronts: BTreeMap::new(),
            waiting: 0,
            next_back: 0,
            next_front: -1,
        }
    }

    pub(super) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether a job can be taken, provided that a stream has room.
    pub(super) fn is_ready(&self, share: Share) -> bool {
        self.has_streams() && !self.fronts.is_empty() && !self.gate.is_full(share)
    }

    /// Adds a stream; returns whether it is the first, for which jobs may have waited.
    pub(super) fn add_stream(&mut self, stream: StreamId) -> bool {
        self.streams.push(stream);
        self.streams.len() == 1
    }

    /// The waiting jobs beyond the free slots of each gate, and the gate. A job that waits at both
    /// of its gates counts at that of its name.
    pub(super) fn throttled(&self, share: Share) -> Vec<(String, usize)> {
        let Target::ActorType(actor_type) = &self.target else { return Vec::new() };
        let beyond = |waiting: usize, free: u32| waiting.saturating_sub(free as usize);
        let names = self.lanes.iter().filter_map(|(name, lane)| {
            let over = beyond(lane.waiting.len(), lane.gate.free(share)?);
            Some((format!("{actor_type}:{}", name.as_ref()?), over))
        });
        let mut found: Vec<_> = names.collect();
        let left = self.waiting - found.iter().map(|(_, over)| over).sum::<usize>();
        if let Some(free) = self.gate.free(share) {
            found.push((actor_type.to_string(), beyond(left, free)));
        }
        found.retain(|(_, over)| *over > 0);
        found
    }

    pub(super) fn remove_stream(&mut self, stream: StreamId) {
        self.streams.retain(|other| *other != stream);
    }

    /// The next stream with room, in turn.
    pub(super) fn next_stream(&mut self, has_room: impl Fn(StreamId) -> bool) -> Option<StreamId> {
        let count = self.streams.len();
        let at = (0..count)
            .map(|step| (self.turn + step) % count)
            .find(|at| self.streams.get(*at).is_some_and(|stream| has_room(*stream)))?;
        self.turn = at + 1;
        self.streams.get(at).copied()
    }

    /// Whether a job of this name has to wait for a slot, and the gate that decides.
    pub(super) fn full_gate(&self, name: Option<&Arc<str>>, share: Share) -> Option<String> {
        let Target::ActorType(actor_type) = &self.target else { return None };
        if self.gate.is_full(share) {
            return Some(actor_type.to_string());
        }
        let name = name?;
        let lane = self.lanes.get(&Some(Arc::clone(name)))?;
        lane.gate.is_full(share).then(|| format!("{actor_type}:{name}"))
    }

    /// Whether the queue of the first gate of this name has no place left.
    pub(super) fn overflows(&self, name: Option<&Arc<str>>, share: Share) -> bool {
        if !self.has_streams() || self.full_gate(name, share).is_none() {
            return false;
        }
        let waiting = if self.gate.limit.is_some() {
            self.waiting
        } else {
            self.lanes.get(&name.cloned()).map_or(0, |lane| lane.waiting.len())
        };
        waiting >= MAX_WAITING_AT_GATE
    }

    /// Adds a due job behind all others; returns its position.
    pub(super) fn push_back(&mut self, job: JobId, name: Option<&Arc<str>>, share: Share) -> i64 {
        let order = self.next_back;
        self.next_back += 1;
        self.insert(order, job, name, share)
    }

    /// Adds a due job before all others; returns its position.
    pub(super) fn push_front(&mut self, job: JobId, name: Option<&Arc<str>>, share: Share) -> i64 {
        let order = self.next_front;
        self.next_front -= 1;
        self.insert(order, job, name, share)
    }

    fn insert(&mut self, order: i64, job: JobId, name: Option<&Arc<str>>, share: Share) -> i64 {
        self.waiting += 1;
        self.lanes.entry(name.cloned()).or_default().waiting.insert(order, job);
        self.refresh(name, share);
        order
    }

    /// Removes a waiting job.
    pub(super) fn remove(&mut self, order: i64, name: Option<&Arc<str>>, share: Share) {
        if let Some(lane) = self.lanes.get_mut(&name.cloned())
            && lane.waiting.remove(&order).is_some()
        {
            self.waiting -= 1;
            self.refresh(name, share);
        }
    }

    /// Takes the oldest job that gets a slot at all of its gates.
    pub(super) fn pop(&mut self, share: Share) -> Option<JobId> {
        let (&order, name) = self.fronts.first_key_value()?;
        let name = name.clone();
        let lane = self.lanes.get_mut(&name)?;
        let job = lane.waiting.remove(&order)?;
        lane.gate.in_flight += 1;
        self.gate.in_flight += 1;
        self.waiting -= 1;
        self.refresh(name.as_ref(), share);
        Some(job)
    }

    /// Frees the slots of a delivery that ended in any way.
    pub(super) fn release(&mut self, name: Option<&Arc<str>>, share: Share) {
        self.gate.in_flight = self.gate.in_flight.saturating_sub(1);
        if let Some(lane) = self.lanes.get_mut(&name.cloned()) {
            lane.gate.in_flight = lane.gate.in_flight.saturating_sub(1);
            self.refresh(name, share);
        }
    }

    /// Sets a limit that a stream gave: the last one wins.
    pub(super) fn limit(&mut self, name: Option<&Arc<str>>, limit: u32, share: Share) {
        let gate = match name {
            None => &mut self.gate,
            Some(name) => &mut self.lanes.entry(Some(Arc::clone(name))).or_default().gate,
        };
        gate.limit = Some(limit);
        gate.references += 1;
        self.refresh(name, share);
    }

    /// A stream that gave a limit ended. The gate goes with the last one.
    pub(super) fn drop_limit(&mut self, name: Option<&Arc<str>>, share: Share) {
        let gate = match name {
            None => Some(&mut self.gate),
            Some(name) => self.lanes.get_mut(&Some(Arc::clone(name))).map(|lane| &mut lane.gate),
        };
        let Some(gate) = gate else { return };
        gate.references = gate.references.saturating_sub(1);
        if gate.references == 0 {
            gate.limit = None;
        }
        self.refresh(name, share);
    }

    /// Applies another share of the limits.
    pub(super) fn share_changed(&mut self, share: Share) {
        let names: Vec<_> = self.lanes.keys().cloned().collect();
        for name in names {
            self.refresh(name.as_ref(), share);
        }
    }

    /// Updates the entry of a lane in `fronts`, and removes an empty lane.
    fn refresh(&mut self, name: Option<&Arc<str>>, share: Share) {
        let name = name.cloned();
        let Some(lane) = self.lanes.get_mut(&name) else { return };
        let first = lane.waiting.first_key_value().map(|(order, _)| *order);
        let front = first.filter(|_| !lane.gate.is_full(share));
        if front != lane.front {
            if let Some(old) = lane.front {
                self.fronts.remove(&old);
            }
            if let Some(new) = front {
                self.fronts.insert(new, name.clone());
            }
            lane.front = front;
        }
        if lane.waiting.is_empty() && lane.gate.in_flight == 0 && lane.gate.limit.is_none() {
            self.lanes.remove(&name);
        }
    }

    /// The occupancy of all gates with a limit.
    pub(super) fn gates(&self) -> Vec<GateGauge> {
        let Target::ActorType(actor_type) = &self.target else { return Vec::new() };
        let whole = self.gate.limit.map(|_| GateGauge {
            concurrency_key: actor_type.to_string(),
            in_flight: self.gate.in_flight,
            pending: self.waiting,
        });
        let names = self.lanes.iter().filter_map(|(name, lane)| {
            Some(GateGauge {
                concurrency_key: format!("{actor_type}:{}", name.as_ref()?),
                in_flight: lane.gate.limit.map(|_| lane.gate.in_flight)?,
                pending: lane.waiting.len(),
            })
        });
        whole.into_iter().chain(names).collect()
    }
}
