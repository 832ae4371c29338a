//! Records of jobs that were put or read shortly before, so that a delivery need not read them.
//!
//! A record is here while the watch of all jobs is open and has shown no later change of its key. It
//! is as new as what the engine knows, which learns of changes from the same watch.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::store::{Op, Revision, Txn, keys};

/// Limit of records, and of those that are gone and still have a place in their order.
const MAX_RECORDS: usize = 8_192;
/// Limit of the bytes of all records.
const MAX_BYTES: usize = 4 << 20;
/// Larger records are read when they are delivered.
const MAX_RECORD_BYTES: usize = 4 << 10;

/// The records.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Records>);

#[derive(Debug, Default)]
struct Records {
    /// The watch is open.
    open: bool,
    /// What was read before this revision may be outdated.
    known: Revision,
    by_key: HashMap<Bytes, (Revision, Bytes)>,
    /// Oldest first.
    order: VecDeque<(Bytes, Revision)>,
    bytes: usize,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The watch is open, and has shown every change up to a revision.
    pub(super) fn resume(&self, known: Revision) {
        let mut records = self.lock();
        (records.open, records.known) = (true, records.known.max(known));
    }

    /// The watch is closed.
    pub(super) fn pause(&self) {
        self.lock().open = false;
    }

    /// Changes of the watch were lost.
    pub(super) fn clear(&self) {
        *self.lock() = Records::default();
    }

    /// Adds the record of a job, which was the latest of its key at the revision `at`.
    pub(super) fn insert(&self, key: &Bytes, revision: Revision, value: &[u8], at: Revision) {
        if value.len() > MAX_RECORD_BYTES || keys::job_name(key).is_none() {
            return;
        }
        let mut records = self.lock();
        let is_newer = records.by_key.get(key).is_none_or(|(found, _)| *found < revision);
        if records.open && at >= records.known && is_newer {
            records.remove(key, revision);
            records.insert(Bytes::copy_from_slice(key), revision, Bytes::copy_from_slice(value));
        }
    }

    /// The record of a key, if it is of this revision.
    pub(super) fn find(&self, key: &Bytes, revision: Revision) -> Option<Bytes> {
        let records = self.lock();
        let (found, value) = records.by_key.get(key).filter(|_| records.open)?;
        (*found == revision).then(|| value.clone())
    }

    /// A key was changed at a revision.
    pub(super) fn changed(&self, key: &Bytes, revision: Revision) {
        let mut records = self.lock();
        records.remove(key, revision);
        records.known = records.known.max(revision);
    }

    /// A transaction was applied at a revision.
    pub(super) fn applied(&self, txn: &Txn, revision: Revision) {
        for op in &txn.then {
            match op {
                Op::Delete { key } => self.changed(key, revision),
                Op::Put { key, value } => self.insert(key, revision, value, revision),
                // The watch shows them.
                Op::DeleteJobs { .. } => {}
            }
        }
    }
}

impl Records {
    fn insert(&mut self, key: Bytes, revision: Revision, value: Bytes) {
        self.bytes += value.len();
        self.order.push_back((key.clone(), revision));
        self.by_key.insert(key, (revision, value));
        while self.bytes > MAX_BYTES || self.order.len() > MAX_RECORDS {
            let Some((key, revision)) = self.order.pop_front() else { return };
            self.remove_if(&key, |found| found == revision);
        }
    }

    /// Removes a record that is older than a revision.
    fn remove(&mut self, key: &Bytes, revision: Revision) {
        self.remove_if(key, |found| found < revision);
    }

    fn remove_if(&mut self, key: &Bytes, is_so: impl Fn(Revision) -> bool) {
        if self.by_key.get(key).is_some_and(|(found, _)| is_so(*found))
            && let Some((_, value)) = self.by_key.remove(key)
        {
            self.bytes -= value.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::store::Source;

    fn key(number: usize) -> Bytes {
        keys::job(number.to_string().as_bytes())
    }

    fn open() -> Recent {
        let recent = Recent::default();
        recent.resume(10);
        recent
    }

    #[test]
    fn a_record_is_found_until_its_key_changes() {
        let recent = open();
        recent.insert(&key(1), 5, b"v", 10);
        assert_eq!(recent.find(&key(1), 5).unwrap(), "v");
        assert!(recent.find(&key(1), 4).is_none() && recent.find(&key(2), 5).is_none());
        recent.changed(&key(1), 5); // its own put
        assert!(recent.find(&key(1), 5).is_some());
        recent.changed(&key(1), 11);
        assert!(recent.find(&key(1), 5).is_none());
    }

    #[test]
    fn what_was_read_before_a_change_is_not_added() {
        let recent = open();
        recent.insert(&key(1), 5, b"v", 9);
        assert!(recent.find(&key(1), 5).is_none());
        recent.changed(&key(1), 12);
        recent.insert(&key(1), 5, b"v", 11);
        assert!(recent.find(&key(1), 5).is_none());
        recent.insert(&key(1), 12, b"w", 12);
        assert_eq!(recent.find(&key(1), 12).unwrap(), "w");
    }

    #[test]
    fn nothing_is_found_while_the_watch_is_closed() {
        let recent = open();
        recent.insert(&key(1), 5, b"v", 10);
        recent.pause();
        assert!(recent.find(&key(1), 5).is_none());
        recent.insert(&key(2), 6, b"v", 11);
        recent.resume(10);
        assert!(recent.find(&key(1), 5).is_some() && recent.find(&key(2), 6).is_none());
        recent.clear();
        recent.resume(10);
        assert!(recent.find(&key(1), 5).is_none());
    }

    #[test]
    fn a_finished_job_is_gone_before_the_watch_shows_it() {
        let recent = open();
        let put = |value: &'static str| Op::Put { key: key(1), value: value.into() };
        let txn = |op| Txn { source: Source::Engine, then: vec![op], ..Txn::default() };
        recent.applied(&txn(put("v")), 11);
        assert_eq!(recent.find(&key(1), 11).unwrap(), "v");
        recent.applied(&txn(Op::Delete { key: key(1) }), 12);
        assert!(recent.find(&key(1), 11).is_none());
        recent.insert(&key(1), 11, b"v", 11); // a read from before
        assert!(recent.find(&key(1), 11).is_none());
    }

    #[rstest]
    #[case::record(MAX_RECORD_BYTES, 1, 1)]
    #[case::larger_record(MAX_RECORD_BYTES + 1, 1, 0)]
    #[case::records(1, MAX_RECORDS, MAX_RECORDS)]
    #[case::more_records(1, MAX_RECORDS + 1, MAX_RECORDS)]
    #[case::bytes(MAX_RECORD_BYTES, MAX_BYTES / MAX_RECORD_BYTES, MAX_BYTES / MAX_RECORD_BYTES)]
    #[case::more_bytes(MAX_RECORD_BYTES, MAX_BYTES / MAX_RECORD_BYTES + 1, MAX_BYTES / MAX_RECORD_BYTES)]
    fn so_many_records_and_bytes(#[case] bytes: usize, #[case] count: usize, #[case] want: usize) {
        let recent = open();
        for number in 0..count {
            recent.insert(&key(number), 5, &vec![0; bytes], 10);
        }
        let found = (0..count).filter(|number| recent.find(&key(*number), 5).is_some()).count();
        assert_eq!(found, want);
        if want > 0 {
            assert!(recent.find(&key(count - 1), 5).is_some(), "the newest stays");
        }
        for number in 0..count {
            recent.changed(&key(number), 20);
        }
        assert_eq!(recent.lock().bytes, 0);
    }
}
