//! Requests and answers of the etcd v3 API, as the store evaluates them. Source of the rules: etcd
//! 3.5, by experiment. Start at [`KeyValue`].

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use tokio::sync::watch;

use super::history::History;
use super::query::{Query, Selected};
use super::range::KeyRange;
use super::{Entry, Record, Revision, StoreError};

/// The relation of a compare between the stored value and its operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    Equal,
    Greater,
    Less,
    NotEqual,
}

/// The target of a compare, with its operand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Version(i64),
    Create(i64),
    Mod(i64),
    Lease(i64),
    /// False for a missing key, regardless of the relation.
    Value(Bytes),
}

/// A condition of a transaction: every key of the range must match.
#[derive(Debug, Clone)]
pub(crate) struct Compare {
    pub(crate) range: KeyRange,
    pub(crate) relation: Relation,
    pub(crate) target: Target,
}

impl Compare {
    /// Whether one key matches; `None` is a missing key, whose numbers are 0.
    pub(crate) fn holds(&self, record: Option<&Record>) -> bool {
        let number = |of: fn(&Record) -> u64| {
            let found = record.map_or(0, of);
            i64::try_from(found).unwrap_or(i64::MAX)
        };
        let order = match &self.target {
            Target::Version(operand) => number(|record| record.version).cmp(operand),
            Target::Create(operand) => number(|record| record.create_revision).cmp(operand),
            Target::Mod(operand) => number(|record| record.mod_revision).cmp(operand),
            Target::Lease(operand) => {
                record.map_or(0, |record| record.lease.cast_signed()).cmp(operand)
            }
            Target::Value(operand) => match record {
                Some(record) => record.value.as_ref().cmp(operand.as_ref()),
                None => return false,
            },
        };
        match self.relation {
            Relation::Equal => order == Ordering::Equal,
            Relation::Greater => order == Ordering::Greater,
            Relation::Less => order == Ordering::Less,
            Relation::NotEqual => order != Ordering::Equal,
        }
    }
}

/// A put.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) key: Bytes,
    /// `None` keeps the stored value.
    pub(crate) value: Option<Bytes>,
    /// `None` keeps the stored lease; 0 is no lease.
    pub(crate) lease: Option<i64>,
    /// Whether the answer contains the previous pair.
    pub(crate) previous: bool,
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    Range(Query),
    Put(Put),
    Delete { range: KeyRange, previous: bool },
    Nested(Transaction),
}

/// All compares are evaluated on the state before the transaction, nested ones too; then the
/// operations of one branch, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transaction {
    pub(crate) compares: Vec<Compare>,
    pub(crate) then: Vec<Operation>,
    pub(crate) otherwise: Vec<Operation>,
    /// Allowed in a full store: for the few bytes of the scheduler itself.
    pub(crate) reserved: bool,
}

impl Transaction {
    /// Bytes of all keys and values that it may write.
    pub(crate) fn bytes(&self) -> usize {
        let of = |operation: &Operation| match operation {
            Operation::Put(put) => put.key.len() + put.value.as_ref().map_or(0, Bytes::len),
            Operation::Nested(nested) => nested.bytes(),
            Operation::Range(_) | Operation::Delete { .. } => 0,
        };
        self.then.iter().chain(&self.otherwise).map(of).sum()
    }
}

/// The answer of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Range(Selected),
    Put { previous: Option<Entry> },
    Delete { deleted: u64, previous: Vec<Entry> },
    Nested { succeeded: bool, answers: Vec<Answer> },
}

/// The outcome of a transaction, which is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The revision of the write, or the current one when nothing changed.
    pub(crate) revision: Revision,
    pub(crate) succeeded: bool,
    pub(crate) answers: Vec<Answer>,
}

/// A lease as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseInfo {
    pub(crate) id: i64,
    /// Granted seconds.
    pub(crate) ttl: i64,
    /// Remaining whole seconds.
    pub(crate) remaining: i64,
    pub(crate) keys: Vec<Bytes>,
}

/// Figures of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status {
    /// Not 0; constant for the lifetime of the directory.
    pub(crate) cluster_id: u64,
    pub(crate) member_id: u64,
    pub(crate) revision: Revision,
    /// Batches written; never falls.
    pub(crate) sequence: u64,
    /// Bytes of keys and values, with the cost of each key.
    pub(crate) live_bytes: u64,
    /// Bytes of the files.
    pub(crate) disk_bytes: u64,
    /// The last explicit compaction; 0 before the first.
    pub(crate) compacted: Revision,
    /// Puts are refused until the alarm is cleared.
    pub(crate) no_space: bool,
}

/// Why a request of the etcd API is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KvError {
    /// A put that keeps a value or a lease found no key.
    #[error("the key does not exist")]
    KeyNotFound,
    #[error("the lease does not exist")]
    LeaseNotFound,
    #[error("a lease of this id exists")]
    LeaseExists,
    #[error("the revision is compacted")]
    Compacted,
    #[error("the revision is in the future")]
    Future,
    /// Defragmentation was refused.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The etcd v3 API of a store in this process. All calls are linearizable, with the calls of
/// [`super::Store`] too.
pub(crate) trait KeyValue: Send + Sync + 'static {
    /// Reads at one revision; returns it. `query.revision` 0 is the current one. Blocks on the
    /// disk.
    fn range(&self, query: &Query) -> Result<(Revision, Selected), KvError>;

    /// Evaluates a transaction; returns when it is durable.
    fn transact(&self, transaction: Transaction) -> BoxFuture<'_, Result<Outcome, KvError>>;

    /// Raises the oldest readable revision.
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), KvError>>;

    /// Grants a lease of this many seconds. `id` 0 chooses one. `reserved` passes a full store: for
    /// the scheduler itself.
    fn grant(&self, id: i64, ttl: i64, reserved: bool)
    -> BoxFuture<'_, Result<LeaseInfo, KvError>>;

    /// Revokes a lease and deletes its keys.
    fn revoke(&self, id: i64) -> BoxFuture<'_, Result<Revision, KvError>>;

    /// Renews a lease; returns its granted seconds, or `None` when it does not exist.
    fn keep_alive(&self, id: i64) -> Option<i64>;

    /// All leases, or one.
    fn leases(&self, id: Option<i64>) -> Vec<LeaseInfo>;

    /// Raises or clears the alarm; returns whether that changed it.
    fn set_alarm(&self, raised: bool) -> BoxFuture<'_, Result<bool, KvError>>;

    /// Rewrites the files without deleted data.
    fn defragment(&self) -> BoxFuture<'_, Result<(), KvError>>;

    /// Figures of the store.
    fn status(&self) -> Result<Status, KvError>;

    /// A view on the store as it is now.
    fn view(&self) -> Result<Arc<dyn super::Snapshot>, StoreError>;

    /// The last changes.
    fn history(&self) -> Arc<History>;

    /// The newest revision of [`KeyValue::history`].
    fn newest(&self) -> watch::Receiver<Revision>;
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn record() -> Record {
        Record { create_revision: 2, mod_revision: 5, version: 3, lease: 7, value: "v".into() }
    }

    #[rstest]
    #[case(Target::Version(3), Relation::Equal, true, false)]
    #[case(Target::Version(0), Relation::Equal, false, true)]
    #[case(Target::Create(1), Relation::Greater, true, false)]
    #[case(Target::Mod(6), Relation::Less, true, true)]
    #[case(Target::Lease(7), Relation::NotEqual, false, true)]
    #[case(Target::Value("v".into()), Relation::Equal, true, false)]
    #[case(Target::Value("w".into()), Relation::NotEqual, true, false)]
    #[case(Target::Value("u".into()), Relation::Greater, true, false)]
    fn compares(
        #[case] target: Target,
        #[case] relation: Relation,
        #[case] stored: bool,
        #[case] missing: bool,
    ) {
        let compare = Compare { range: KeyRange::One("k".into()), relation, target };
        assert_eq!((compare.holds(Some(&record())), compare.holds(None)), (stored, missing));
    }
}
