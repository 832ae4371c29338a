//! The records of the scheduler, behind one trait. Start reading at [`Store`].
//!
//! ```text
//!  api, engine ──Txn──► Embedded::commit ──► writer thread ──one batch, one fsync──► Backend
//!                                                 │
//!                                                 └──Vec<Change> of each revision──► engine
//! ```
//! [`embedded`] is the store of one member, [`etcd`] that of several. The first evaluates
//! transactions in groups, against the backend and what the same group has written before. A
//! [`backend`] stores bytes and decides nothing: [`disk`] is fjall, `memory` injects faults in
//! tests. [`kv`] is the etcd API of such a store, [`history`] has its last changes. [`reserve`]
//! keeps room for deletions on a full disk, [`format`] says whose directory it is.

pub(crate) mod backend;
pub(crate) mod disk;
mod embedded;
pub(crate) mod etcd;
pub(crate) mod format;
pub(crate) mod history;
pub(crate) mod keys;
pub(crate) mod kv;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod query;
pub(crate) mod range;
mod record;
pub(crate) mod reserve;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};

pub(crate) use embedded::shared::{Observer, State, StoreEvent};
pub(crate) use embedded::{Embedded, MAX_TTL, Options};
pub(crate) use record::Record;

/// Duration of one write or one round of a loop after which the process counts as stuck. A disk
/// that does not answer for so long does not recover by waiting.
pub(crate) const STUCK: Duration = Duration::from_mins(1);

/// Number of a change of the store. An empty store is at 1; each transaction that changes
/// something adds 1.
pub(crate) type Revision = u64;

/// One key with its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Bytes,
    pub(crate) record: Record,
}

/// A condition under which a transaction writes its first branch.
#[derive(Debug, Clone)]
pub(crate) enum Condition {
    /// The key does not exist.
    Absent(Bytes),
    /// The key was last written at this revision.
    Unchanged { key: Bytes, mod_revision: Revision },
}

/// Selects stored jobs by key and value.
pub(crate) type Filter = Arc<dyn Fn(&[u8], &[u8]) -> bool + Send + Sync>;

/// One write.
#[derive(Clone)]
pub(crate) enum Op {
    /// Creates or replaces a key.
    Put { key: Bytes, value: Bytes },
    /// Deletes a key; an absent key is not an error.
    Delete { key: Bytes },
    /// Deletes the jobs whose name starts with the prefix and that pass the filter, each with its
    /// counter. Without a filter, counters without a job are deleted too.
    DeleteJobs { prefix: Bytes, filter: Option<Filter> },
}

/// The author of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Source {
    /// A call of the API.
    #[default]
    Api,
    /// The engine, which knows what it wrote.
    Engine,
    /// A client of the etcd API.
    ClientPort,
    /// Another process that uses the same etcd.
    Member,
}

/// A transaction: all conditions are evaluated on the state before it, then one branch is written.
#[derive(Clone, Default)]
pub(crate) struct Txn {
    pub(crate) source: Source,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) then: Vec<Op>,
    pub(crate) otherwise: Vec<Op>,
}

/// The outcome of a transaction, which is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed {
    /// Which branch was written.
    pub(crate) succeeded: bool,
    /// The revision of the write, or the current one when nothing changed.
    pub(crate) revision: Revision,
    /// Deleted keys.
    pub(crate) deleted: u64,
}

/// One changed key, after its transaction is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) key: Bytes,
    pub(crate) revision: Revision,
    /// `None` when the key was deleted.
    pub(crate) new: Option<Record>,
    /// The previous record; `None` when the key was created.
    pub(crate) old: Option<Record>,
}

/// Why the store did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The quota is used up, or the disk is full. The text is etcd's, which sidecars pass on.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The store is being reopened or the process stops. Temporary.
    #[error("the job store is not available: {0}")]
    Unavailable(String),
}

/// A page of a scan: keys in order, from after `start`.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    /// Keys begin with this.
    pub(crate) prefix: Bytes,
    /// Only keys after this one; `None` for the first page.
    pub(crate) after: Option<Bytes>,
    /// Keys in one page.
    pub(crate) limit: usize,
}

/// Ordered keys with revisions. All calls are linearizable: what one has written and returned, the
/// next one reads. Dropping a call's future does not undo a write that was submitted.
pub(crate) trait Store: Send + Sync + 'static {
    /// The record of a key.
    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<Record>, StoreError>>;

    /// The value of a key of this revision without a read, where reads are slow. As new as the feed:
    /// a later change was not reported yet.
    fn cached(&self, _key: &Bytes, _revision: Revision) -> Option<Bytes> {
        None
    }

    /// A view on the store as it is now, for reads that belong together. It costs disk space while
    /// it lives, because what it sees cannot be compacted.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError>;

    /// Runs a transaction; returns when it is durable.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// How transactions are given to [`Self::commit_each`].
    fn batching(&self) -> Batching {
        Batching { size: 1, calls: usize::MAX, interval: Duration::ZERO }
    }

    /// Runs transactions of which none depends on another; the outcome of each, in their order.
    fn commit_each(&self, txns: Arc<[Txn]>) -> BoxFuture<'_, Vec<Result<Committed, StoreError>>> {
        join_all(txns.iter().map(|txn| self.commit(txn.clone()))).boxed()
    }
}

/// How many transactions go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batching {
    /// The most transactions of one call. More than one wait for each other, which pays only where
    /// they share work.
    pub(crate) size: usize,
    /// Calls without an answer. While there are so many, further transactions wait, unless they are
    /// enough for one call.
    pub(crate) calls: usize,
    /// The time between two calls, for which further transactions wait likewise.
    pub(crate) interval: Duration,
}

/// The store at one moment.
pub(crate) trait Snapshot: Send + Sync + 'static {
    /// One page, in order of keys, short where records are large. Empty at the end. Blocks on the
    /// disk.
    fn scan(&self, scan: &Scan) -> Result<Vec<Entry>, StoreError>;

    /// The answer of a range request, whose revision is ignored. Blocks on the disk.
    fn select(&self, query: &query::Query) -> Result<query::Selected, StoreError>;

    /// The revision of this moment.
    fn revision(&self) -> Revision;
}

#[cfg(test)]
mod tests;
