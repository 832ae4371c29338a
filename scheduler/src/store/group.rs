//! Transactions of one group commit, evaluated in order. Pure but for reads of the backend.
//!
//! Each transaction sees what the earlier ones of its group wrote and has a revision of its own;
//! the backend gets the outcome of all of them as one batch.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::writer::{Backend, BackendError, Page, View as _};
use super::{
    Change, Committed, Condition, Filter, Op, Record, Revision, Source, StoreError, Txn, keys,
};

/// What one key costs besides its bytes, as etcd counts it.
const PUT_COST: u64 = 256;
/// Keys that one page of a deletion by prefix reads.
const DELETE_PAGE: usize = 1_000;

/// Numbers that are stored with every group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) revision: Revision,
    /// Bytes of all keys and values.
    pub(super) live_bytes: u64,
}

/// What puts may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// `None`: no quota.
    pub(super) quota_bytes: Option<u64>,
    /// The file system has no room: every put is refused.
    pub(super) disk_full: bool,
}

/// The transactions of one batch.
pub(super) struct Group<'a, B> {
    backend: &'a B,
    room: Room,
    totals: Totals,
    overlay: BTreeMap<Bytes, Option<Record>>,
    changes: Vec<(Source, Vec<Change>)>,
}

/// What the backend has to write.
pub(super) struct Batch {
    pub(super) writes: BTreeMap<Bytes, Option<Record>>,
    pub(super) totals: Totals,
    /// One list for each revision.
    pub(super) changes: Vec<(Source, Vec<Change>)>,
}

impl<'a, B: Backend> Group<'a, B> {
    pub(super) fn new(backend: &'a B, room: Room, totals: Totals) -> Self {
        Self { backend, room, totals, overlay: BTreeMap::new(), changes: Vec::new() }
    }

    /// Evaluates one transaction. On an error of any kind nothing of it remains.
    pub(super) fn run(&mut self, txn: &Txn) -> Result<Result<Committed, StoreError>, BackendError> {
        let mut succeeded = true;
        for condition in &txn.conditions {
            succeeded = succeeded && self.holds(condition)?;
        }
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        if !self.has_room(ops) {
            return Ok(Err(StoreError::NoSpace));
        }
        let mut step = Step { revision: self.totals.revision + 1, changes: Vec::new(), deleted: 0 };
        for op in ops {
            match op {
                Op::Put { key, value } => self.put(key, value, &mut step)?,
                Op::Delete { key } => self.delete(key, &mut step)?,
                Op::DeleteJobs { prefix, filter } => {
                    self.delete_jobs(prefix, filter.as_ref(), &mut step)?;
                }
            }
        }
        if !step.changes.is_empty() {
            self.totals.revision = step.revision;
            self.changes.push((txn.source, step.changes));
        }
        Ok(Ok(Committed { succeeded, revision: self.totals.revision, deleted: step.deleted }))
    }

    pub(super) fn finish(self) -> Batch {
        Batch { writes: self.overlay, totals: self.totals, changes: self.changes }
    }

    fn holds(&self, condition: &Condition) -> Result<bool, BackendError> {
        Ok(match condition {
            Condition::Absent(key) => self.get(key)?.is_none(),
            Condition::Unchanged { key, mod_revision } => {
                self.get(key)?.is_some_and(|record| record.mod_revision == *mod_revision)
            }
        })
    }

    fn has_room(&self, ops: &[Op]) -> bool {
        let cost = |op: &Op| match op {
            Op::Put { key, value } => Some(PUT_COST + bytes_of(key, value)),
            Op::Delete { .. } | Op::DeleteJobs { .. } => None,
        };
        let mut puts = ops.iter().filter_map(cost).peekable();
        if puts.peek().is_none() {
            return true;
        }
        let needed = self.totals.live_bytes.saturating_add(puts.sum());
        !self.room.disk_full && self.room.quota_bytes.is_none_or(|quota| needed < quota)
    }

    fn get(&self, key: &Bytes) -> Result<Option<Record>, BackendError> {
        match self.overlay.get(key) {
            Some(written) => Ok(written.clone()),
            // A record that cannot be read is as good as absent: a put replaces it.
            None => Ok(self.backend.get(key)?.and_then(Record::decode)),
        }
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, step: &mut Step) -> Result<(), BackendError> {
        let old = self.get(key)?;
        let record = Record {
            create_revision: old.as_ref().map_or(step.revision, |old| old.create_revision),
            mod_revision: step.revision,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            lease: 0,
            value: value.clone(),
        };
        let freed = old.map_or(0, |old| PUT_COST + bytes_of(key, &old.value));
        let used = PUT_COST + bytes_of(key, value);
        self.totals.live_bytes = (self.totals.live_bytes + used).saturating_sub(freed);
        step.note(key, Some(value.clone()));
        self.overlay.insert(key.clone(), Some(record));
        Ok(())
    }

    fn delete(&mut self, key: &Bytes, step: &mut Step) -> Result<(), BackendError> {
        let stored = match self.overlay.get(key) {
            Some(written) => written.as_ref().map(|record| record.value.len()),
            None => self.backend.get(key)?.map(|bytes| bytes.len()),
        };
        if let Some(value_bytes) = stored {
            let freed = PUT_COST + key.len() as u64 + value_bytes as u64;
            self.totals.live_bytes = self.totals.live_bytes.saturating_sub(freed);
            step.note(key, None);
            step.deleted += 1;
            self.overlay.insert(key.clone(), None);
        }
        Ok(())
    }

    fn delete_jobs(
        &mut self,
        prefix: &Bytes,
        filter: Option<&Filter>,
        step: &mut Step,
    ) -> Result<(), BackendError> {
        for key in self.matching(&keys::job(prefix), filter)? {
            self.delete(&key, step)?;
            if let Some(name) = keys::job_name(&key) {
                self.delete(&keys::counter(&name), step)?;
            }
        }
        if filter.is_none() {
            for key in self.matching(&keys::counter(prefix), None)? {
                self.delete(&key, step)?;
            }
        }
        Ok(())
    }

    fn matching(
        &self,
        prefix: &Bytes,
        filter: Option<&Filter>,
    ) -> Result<Vec<Bytes>, BackendError> {
        let passes = |key: &Bytes, value: &[u8]| filter.is_none_or(|filter| filter(key, value));
        let mut found = Vec::new();
        let mut after = None;
        let view = self.backend.view()?;
        loop {
            let page = view.page(&Page { prefix, after: after.as_ref(), limit: DELETE_PAGE })?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, bytes) in page {
                let value = Record::decode(bytes).map_or_else(Bytes::new, |record| record.value);
                if !self.overlay.contains_key(&key) && passes(&key, &value) {
                    found.push(key);
                }
            }
        }
        let written = self.overlay.range::<Bytes, _>(prefix..);
        for (key, record) in written.take_while(|(key, _)| key.starts_with(prefix)) {
            if record.as_ref().is_some_and(|record| passes(key, &record.value)) {
                found.push(key.clone());
            }
        }
        Ok(found)
    }
}

/// One transaction under way.
struct Step {
    revision: Revision,
    changes: Vec<Change>,
    deleted: u64,
}

impl Step {
    fn note(&mut self, key: &Bytes, value: Option<Bytes>) {
        self.changes.push(Change { key: key.clone(), revision: self.revision, value });
    }
}

fn bytes_of(key: &Bytes, value: &Bytes) -> u64 {
    key.len() as u64 + value.len() as u64
}
