//! Shards that go to another member: answers that are under way still count, so that the next owner
//! does not repeat what was done, and nothing else of them is delivered.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Engine;
use super::event::AckResult;
use super::job::JobId;
use super::shard::Shard;
use super::table::State;

impl Engine {
    /// Forgets the jobs of these shards. One that has a delivery without an answer is forgotten with
    /// the answer.
    pub(super) fn leave(&mut self, shards: &BTreeSet<Shard>) {
        for key in self.jobs.keys_of(shards) {
            let Some(id) = self.jobs.find(&key) else { continue };
            match self.jobs.get_mut(id) {
                Some(entry) if entry.state == State::Delivered => {
                    entry.state = State::Leaving;
                    self.leaving += 1;
                }
                _ => self.delete(&key),
            }
        }
    }

    /// A delivery ended: with a result, which is written, or without. False when the job's shard
    /// does not leave.
    pub(super) fn depart(&mut self, id: JobId, result: Option<AckResult>) -> bool {
        let entry = self.jobs.get_mut(id).filter(|entry| entry.state == State::Leaving);
        let Some(entry) = entry else { return false };
        let key = Arc::clone(&entry.key);
        if let Some(result) = result {
            entry.state = State::Delivered;
            self.leaving -= 1;
            self.apply(id, result);
        }
        self.delete(&key);
        true
    }

    /// Jobs of shards that leave whose delivery has no answer.
    pub(crate) fn leaving(&self) -> usize {
        self.leaving
    }
}
