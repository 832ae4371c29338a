//! Transactions of one group commit, evaluated in order. Pure except for reads of the backend.
//!
//! Each transaction sees the writes of the earlier ones of its group and has its own revision; the
//! backend gets the writes of all of them as one batch.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

use bytes::Bytes;

use super::lease::{Attachment, Leases};
use super::totals::Totals;
use crate::store::backend::{Backend, BackendError, Page, View as _};
use crate::store::range::KeyRange;
use crate::store::record::HEADER_BYTES;
use crate::store::{
    Change, Committed, Condition, Entry, Filter, Op, Record, Revision, Source, StoreError, Txn,
    keys,
};

/// Cost of a key besides its bytes, as etcd counts it.
pub(super) const PUT_COST: u64 = 256;
/// Keys that one page of a range reads.
const RANGE_PAGE: usize = 1_000;

/// Room for puts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// `None` for no quota.
    pub(super) quota_bytes: Option<u64>,
    /// The file system has no room: every put is refused.
    pub(super) disk_full: bool,
}

/// The transactions of one batch.
pub(super) struct Group<'a, B> {
    backend: &'a B,
    room: Room,
    /// The leases before the group, which changes none.
    pub(super) leases: &'a Leases,
    pub(super) totals: Totals,
    overlay: BTreeMap<Bytes, Option<Record>>,
    changes: Vec<(Source, Vec<Change>)>,
    attachments: Vec<Attachment>,
}

/// The writes for the backend.
pub(super) struct Batch {
    pub(super) writes: BTreeMap<Bytes, Option<Record>>,
    pub(super) totals: Totals,
    /// One list for each revision.
    pub(super) changes: Vec<(Source, Vec<Change>)>,
    /// Keys that were attached to a lease or detached from it, in order.
    pub(super) attachments: Vec<Attachment>,
}

impl<'a, B: Backend> Group<'a, B> {
    pub(super) fn new(backend: &'a B, room: Room, leases: &'a Leases, totals: Totals) -> Self {
        let (overlay, changes, attachments) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { backend, room, leases, totals, overlay, changes, attachments }
    }

    /// Evaluates one transaction. On any error it changes nothing.
    pub(super) fn run(&mut self, txn: &Txn) -> Result<Result<Committed, StoreError>, BackendError> {
        let mut succeeded = true;
        for condition in &txn.conditions {
            succeeded = succeeded && self.holds(condition)?;
        }
        let ops = if succeeded { &txn.then } else { &txn.otherwise };
        let cost = |op: &Op| match op {
            Op::Put { key, value } => PUT_COST + bytes_of(key, value),
            Op::Delete { .. } | Op::DeleteJobs { .. } => 0,
        };
        if !self.has_room(ops.iter().map(cost).sum()) {
            return Ok(Err(StoreError::NoSpace));
        }
        let mut step = self.step();
        for op in ops {
            match op {
                Op::Put { key, value } => self.put(key, value, 0, &mut step)?,
                Op::Delete { key } => drop(self.delete(key, &mut step)?),
                Op::DeleteJobs { prefix, filter } => {
                    self.delete_jobs(prefix, filter.as_ref(), &mut step)?;
                }
            }
        }
        let deleted = step.deleted;
        let revision = self.end(txn.source, step);
        Ok(Ok(Committed { succeeded, revision, deleted }))
    }

    /// Begins a transaction.
    pub(super) fn step(&self) -> Step {
        Step {
            revision: self.totals.revision + 1,
            changes: Vec::new(),
            before: BTreeMap::new(),
            deleted: 0,
        }
    }

    /// Ends a transaction; returns its revision, or the current one when it changed nothing.
    pub(super) fn end(&mut self, source: Source, step: Step) -> Revision {
        if !step.changes.is_empty() {
            self.totals.revision = step.revision;
            self.changes.push((source, step.changes));
        }
        self.totals.revision
    }

    pub(super) fn finish(self) -> Batch {
        let Self { overlay: writes, totals, changes, attachments, .. } = self;
        Batch { writes, totals, changes, attachments }
    }

    fn holds(&self, condition: &Condition) -> Result<bool, BackendError> {
        Ok(match condition {
            Condition::Absent(key) => self.get(key)?.is_none(),
            Condition::Unchanged { key, mod_revision } => {
                self.get(key)?.is_some_and(|record| record.mod_revision == *mod_revision)
            }
        })
    }

    /// Whether puts of this cost fit; a refusal for the quota raises the alarm.
    pub(super) fn has_room(&mut self, cost: u64) -> bool {
        if cost == 0 {
            return true;
        }
        if self.room.disk_full || self.totals.no_space {
            return false;
        }
        let needed = self.totals.live_bytes.saturating_add(cost);
        self.totals.no_space = self.room.quota_bytes.is_some_and(|quota| needed >= quota);
        !self.totals.no_space
    }

    pub(super) fn get(&self, key: &Bytes) -> Result<Option<Record>, BackendError> {
        match self.overlay.get(key) {
            Some(written) => Ok(written.clone()),
            // An unreadable record counts as absent: a put replaces it.
            None => Ok(self.backend.get(key)?.and_then(Record::decode)),
        }
    }

    pub(super) fn put(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        lease: i64,
        step: &mut Step,
    ) -> Result<(), BackendError> {
        let old = self.get(key)?;
        let record = Record {
            create_revision: old.as_ref().map_or(step.revision, |old| old.create_revision),
            mod_revision: step.revision,
            version: old.as_ref().map_or(1, |old| old.version + 1),
            lease: lease.cast_unsigned(),
            value: value.clone(),
        };
        let freed = old.as_ref().map_or(0, |old| PUT_COST + bytes_of(key, &old.value));
        let used = PUT_COST + bytes_of(key, value);
        self.totals.live_bytes = (self.totals.live_bytes + used).saturating_sub(freed);
        self.change(key, Some(record), old, step);
        Ok(())
    }

    /// Deletes a key; what it was.
    pub(super) fn delete(
        &mut self,
        key: &Bytes,
        step: &mut Step,
    ) -> Result<Option<Record>, BackendError> {
        let (old, value_bytes) = match self.overlay.get(key) {
            Some(Some(record)) => (Some(record.clone()), record.value.len()),
            Some(None) => return Ok(None),
            None => match self.backend.get(key)? {
                // A damaged record can be deleted.
                Some(bytes) => {
                    let stored = bytes.len().saturating_sub(HEADER_BYTES);
                    (Record::decode(bytes), stored)
                }
                None => return Ok(None),
            },
        };
        let freed = PUT_COST + key.len() as u64 + value_bytes as u64;
        self.totals.live_bytes = self.totals.live_bytes.saturating_sub(freed);
        step.deleted += 1;
        self.change(key, None, old.clone(), step);
        Ok(old)
    }

    /// Replaces a record, and moves its key between leases.
    fn change(&mut self, key: &Bytes, new: Option<Record>, old: Option<Record>, step: &mut Step) {
        let lease = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.lease);
        let (left, joined) = (lease(&old).cast_signed(), lease(&new).cast_signed());
        if left != joined {
            for (lease, attached) in [(left, false), (joined, true)] {
                if lease != 0 {
                    self.attachments.push(Attachment { key: key.clone(), lease, attached });
                }
            }
        }
        self.overlay.insert(key.clone(), new.clone());
        if let Slot::Vacant(first) = step.before.entry(key.clone()) {
            first.insert(old.clone());
        }
        step.changes.push(Change { key: key.clone(), revision: step.revision, new, old });
    }

    /// Passes every key of a range to `found`, in order, with its current value.
    pub(super) fn range(
        &self,
        range: &KeyRange,
        mut found: impl FnMut(Entry),
    ) -> Result<(), BackendError> {
        if let KeyRange::One(key) = range {
            if let Some(record) = self.get(key)? {
                found(Entry { key: key.clone(), record });
            }
            return Ok(());
        }
        let mut written = self.overlay.range::<[u8], _>(range.bounds()).peekable();
        let mut give = |key: &Bytes, record: Option<Record>| {
            if let Some(record) = record {
                found(Entry { key: key.clone(), record });
            }
        };
        let view = self.backend.view()?;
        let mut after = None;
        loop {
            let page = view.page(&Page { range, after: after.as_ref(), limit: RANGE_PAGE })?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, bytes) in page {
                while let Some((earlier, record)) = written.next_if(|(other, _)| **other < key) {
                    give(earlier, record.clone());
                }
                match written.next_if(|(other, _)| **other == key) {
                    Some((_, record)) => give(&key, record.clone()),
                    None => give(&key, Record::decode(bytes)),
                }
            }
        }
        written.for_each(|(key, record)| give(key, record.clone()));
        Ok(())
    }

    fn delete_jobs(
        &mut self,
        prefix: &Bytes,
        filter: Option<&Filter>,
        step: &mut Step,
    ) -> Result<(), BackendError> {
        for key in self.matching(keys::job(prefix), filter)? {
            self.delete(&key, step)?;
            if let Some(name) = keys::job_name(&key) {
                self.delete(&keys::counter(&name), step)?;
            }
        }
        if filter.is_none() {
            for key in self.matching(keys::counter(prefix), None)? {
                self.delete(&key, step)?;
            }
        }
        Ok(())
    }

    fn matching(&self, prefix: Bytes, filter: Option<&Filter>) -> Result<Vec<Bytes>, BackendError> {
        let mut found = Vec::new();
        self.range(&KeyRange::prefix(prefix), |entry| {
            if filter.is_none_or(|filter| filter(&entry.key, &entry.record.value)) {
                found.push(entry.key);
            }
        })?;
        Ok(found)
    }
}

/// One transaction in progress.
pub(super) struct Step {
    pub(super) revision: Revision,
    changes: Vec<Change>,
    /// The record of each changed key before the transaction.
    pub(super) before: BTreeMap<Bytes, Option<Record>>,
    deleted: u64,
}

pub(super) fn bytes_of(key: &Bytes, value: &Bytes) -> u64 {
    key.len() as u64 + value.len() as u64
}
