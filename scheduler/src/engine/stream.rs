//! A live stream: its unanswered deliveries, and how many of them the transport has taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::event::TargetKind;
use super::job::JobId;
use super::pool::PoolId;

/// Deliveries that the transport has not taken. A stream with this many gets no more until its peer
/// reads; deliveries without an answer are not limited, since activities may run for hours.
pub(super) const WINDOW: u64 = 1024;

/// A registered stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) pools: Vec<PoolId>,
    /// Gates that the stream gave a limit, by pool and name.
    pub(super) limits: Vec<(PoolId, Option<Arc<str>>)>,
    pub(super) outstanding: BTreeMap<u64, Outstanding>,
    last_id: u64,
    taken: u64,
}

/// A delivery without an answer.
#[derive(Debug, Clone)]
pub(super) struct Outstanding {
    pub(super) job: JobId,
    pub(super) pool: PoolId,
    pub(super) name: Option<Arc<str>>,
    pub(super) kind: TargetKind,
    /// When the job became due and was handed to its pool.
    pub(super) since: Timestamp,
}

impl Stream {
    pub(super) fn new(pools: Vec<PoolId>, limits: Vec<(PoolId, Option<Arc<str>>)>) -> Self {
        Self { pools, limits, outstanding: BTreeMap::new(), last_id: 0, taken: 0 }
    }

    pub(super) fn has_room(&self) -> bool {
        self.last_id - self.taken < WINDOW
    }

    /// Adds a delivery; returns its id.
    pub(super) fn deliver(&mut self, outstanding: Outstanding) -> u64 {
        self.last_id += 1;
        self.outstanding.insert(self.last_id, outstanding);
        self.last_id
    }

    /// The transport took all deliveries up to this id.
    pub(super) fn taken(&mut self, through: u64) {
        self.taken = self.taken.max(through.min(self.last_id));
    }

    /// Removes a delivery that was answered or dropped. Its peer has read all before it.
    pub(super) fn settle(&mut self, id: u64) -> Option<Outstanding> {
        let outstanding = self.outstanding.remove(&id)?;
        self.taken(id);
        Some(outstanding)
    }
}
