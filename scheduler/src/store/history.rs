//! The last changes of the store, for watches.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};

use super::{Change, Revision};

/// Revisions that are kept. A watcher that falls further behind reads the store again.
const MAX_REVISIONS: usize = 10_000;
/// Bytes of keys and values that are kept: payloads of jobs may have megabytes.
const MAX_BYTES: usize = 16 << 20;

/// All changes of one revision.
pub(crate) type Changes = Arc<[Change]>;

/// The requested changes are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forgotten {
    /// The oldest revision that is kept.
    pub(crate) oldest: Revision,
}

/// Changes by revision, without a gap up to the newest.
#[derive(Debug)]
pub(crate) struct History(RwLock<Kept>);

#[derive(Debug)]
struct Kept {
    changes: VecDeque<Changes>,
    /// The revision of the first of `changes`, or the next one that comes.
    oldest: Revision,
    bytes: usize,
}

impl History {
    /// An empty history; the store is at this revision.
    pub(crate) fn new(current: Revision) -> Self {
        let kept = Kept { changes: VecDeque::new(), oldest: current + 1, bytes: 0 };
        Self(RwLock::new(kept))
    }

    /// Adds the next revision.
    pub(crate) fn push(&self, changes: Changes) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += size(&changes);
        kept.changes.push_back(changes);
        // The newest stays regardless of its size.
        while kept.changes.len() > MAX_REVISIONS || kept.bytes > MAX_BYTES && kept.changes.len() > 1
        {
            kept.drop_oldest();
        }
    }

    /// Forgets everything: changes up to this revision are unknown.
    pub(crate) fn restart(&self, current: Revision) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *kept = Kept { changes: VecDeque::new(), oldest: current + 1, bytes: 0 };
    }

    /// Forgets revisions older than this one.
    pub(crate) fn compact(&self, revision: Revision) {
        let mut kept = self.0.write().unwrap_or_else(PoisonError::into_inner);
        while kept.oldest < revision && !kept.changes.is_empty() {
            kept.drop_oldest();
        }
    }

    /// At most `limit` revisions from this one on; empty when it is in the future.
    pub(crate) fn since(&self, from: Revision, limit: usize) -> Result<Vec<Changes>, Forgotten> {
        let kept = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let Some(skip) = from.checked_sub(kept.oldest) else {
            return Err(Forgotten { oldest: kept.oldest });
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        Ok(kept.changes.iter().skip(skip).take(limit).cloned().collect())
    }
}

impl Kept {
    fn drop_oldest(&mut self) {
        if let Some(dropped) = self.changes.pop_front() {
            self.bytes = self.bytes.saturating_sub(size(&dropped));
            self.oldest += 1;
        }
    }
}

fn size(changes: &[Change]) -> usize {
    let value = |record: &Option<super::Record>| record.as_ref().map_or(0, |r| r.value.len());
    changes.iter().map(|change| change.key.len() + value(&change.new) + value(&change.old)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Record;

    fn changes(revision: Revision, bytes: usize) -> Changes {
        let record = Record {
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: 0,
            value: vec![0; bytes].into(),
        };
        [Change { key: "k".into(), revision, new: Some(record), old: None }].into()
    }

    fn revisions(found: &[Changes]) -> Vec<Revision> {
        found.iter().map(|changes| changes[0].revision).collect()
    }

    #[test]
    fn keeps_a_limited_number_of_revisions() {
        let history = History::new(1);
        assert_eq!(history.since(2, 10), Ok(vec![]));
        let last = 1 + MAX_REVISIONS as u64;
        (2..=last).for_each(|revision| history.push(changes(revision, 1)));
        assert_eq!(revisions(&history.since(2, 2).unwrap()), [2, 3]);
        history.push(changes(last + 1, 1));
        assert_eq!(history.since(2, 2), Err(Forgotten { oldest: 3 }));
        assert_eq!(revisions(&history.since(last + 1, 2).unwrap()), [last + 1]);
        assert_eq!(history.since(last + 5, 2), Ok(vec![]));
    }

    #[test]
    fn keeps_a_limited_number_of_bytes_and_always_the_newest() {
        let history = History::new(1);
        history.push(changes(2, MAX_BYTES - 2));
        assert!(history.since(2, 1).is_ok(), "the key has one byte");
        history.push(changes(3, 0));
        assert_eq!(revisions(&history.since(2, 9).unwrap()), [2, 3], "at the limit");
        history.push(changes(4, 0));
        assert_eq!(history.since(2, 1), Err(Forgotten { oldest: 3 }));
        history.push(changes(5, MAX_BYTES + 1));
        assert_eq!(revisions(&history.since(5, 1).unwrap()), [5]);
    }

    #[test]
    fn a_compaction_and_a_restart_forget() {
        let history = History::new(1);
        (2..6).for_each(|revision| history.push(changes(revision, 0)));
        history.compact(4);
        assert_eq!(history.since(3, 9), Err(Forgotten { oldest: 4 }));
        history.compact(9);
        assert_eq!(history.since(5, 9), Err(Forgotten { oldest: 6 }));
        history.restart(20);
        assert_eq!(history.since(6, 9), Err(Forgotten { oldest: 21 }));
    }
}
