//! Jobs in the order of the time at which something happens to them.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::job::JobId;

/// An ordered set: the simplest structure with removal.
#[derive(Debug, Default)]
pub(super) struct DueQueue(BTreeSet<(Timestamp, JobId)>);

impl DueQueue {
    pub(super) fn insert(&mut self, at: Timestamp, job: JobId) {
        self.0.insert((at, job));
    }

    pub(super) fn remove(&mut self, at: Timestamp, job: JobId) {
        self.0.remove(&(at, job));
    }

    /// Takes the first job whose time has come.
    pub(super) fn pop(&mut self, now: Timestamp) -> Option<JobId> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first().map(|(_, job)| job)
    }

    pub(super) fn first(&self) -> Option<Timestamp> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The jobs that wait for a time after this one.
    pub(super) fn after(&self, at: Timestamp) -> Vec<JobId> {
        self.0.iter().rev().take_while(|(other, _)| *other > at).map(|(_, job)| *job).collect()
    }
}
