//! The log of the election, in memory. It holds only the membership and an empty entry per new
//! leader; the term is the whole state. A replica that restarts has lost its vote, so it votes only
//! when every promise that it may have made has expired ([`super::quorum`]).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Cursor;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{
    EmptyNode, Entry, EntryPayload, LogId, LogState, OptionalSend, RaftLogReader,
    RaftSnapshotBuilder, Snapshot, SnapshotMeta, StorageError, StoredMembership, Vote,
};

openraft::declare_raft_types!(
    /// The types of the election.
    pub(crate) Types:
        D = (),
        R = (),
        NodeId = u64,
        Node = EmptyNode,
);

type Failure = StorageError<u64>;
type Meta = SnapshotMeta<u64, EmptyNode>;

/// Log and state machine in one. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    vote: Option<Vote<u64>>,
    log: BTreeMap<u64, Entry<Types>>,
    purged: Option<LogId<u64>>,
    applied: Option<LogId<u64>>,
    membership: StoredMembership<u64, EmptyNode>,
    snapshot: Option<Meta>,
}

impl Store {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last entry of the log; `None` if it is empty.
    pub(super) fn last(&self) -> Option<LogId<u64>> {
        let state = self.lock();
        state.log.last_key_value().map(|(_, entry)| entry.log_id).or(state.purged)
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Result<Vec<Entry<Types>>, Failure> {
        Ok(self.lock().log.range(range).map(|(_, entry)| entry.clone()).collect())
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, Failure> {
        let last_log_id = self.last();
        Ok(LogState { last_purged_log_id: self.lock().purged, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), Failure> {
        self.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, Failure> {
        Ok(self.lock().vote)
    }

    async fn append<I>(&mut self, entries: I, done: LogFlushed<Types>) -> Result<(), Failure>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.lock().log.extend(entries.into_iter().map(|entry| (entry.log_id.index, entry)));
        done.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, from: LogId<u64>) -> Result<(), Failure> {
        self.lock().log.split_off(&from.index);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId<u64>) -> Result<(), Failure> {
        let mut state = self.lock();
        state.log = state.log.split_off(&(upto.index + 1));
        state.purged = Some(upto);
        Ok(())
    }
}

impl RaftStateMachine<Types> for Store {
    type SnapshotBuilder = Self;

    async fn applied_state(
        &mut self,
    ) -> Result<(Option<LogId<u64>>, StoredMembership<u64, EmptyNode>), Failure> {
        let state = self.lock();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<()>, Failure>
    where
        I: IntoIterator<Item = Entry<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.lock();
        let mut answers = Vec::new();
        for entry in entries {
            state.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                state.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            answers.push(());
        }
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, Failure> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &Meta,
        _: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), Failure> {
        let mut state = self.lock();
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<Types>>, Failure> {
        Ok(self.lock().snapshot.clone().map(empty))
    }
}

impl RaftSnapshotBuilder<Types> for Store {
    async fn build_snapshot(&mut self) -> Result<Snapshot<Types>, Failure> {
        let mut state = self.lock();
        let meta = Meta {
            last_log_id: state.applied,
            last_membership: state.membership.clone(),
            snapshot_id: state.applied.map(|id| id.to_string()).unwrap_or_default(),
        };
        state.snapshot = Some(meta.clone());
        Ok(empty(meta))
    }
}

/// The state machine holds nothing but the membership, which is in the snapshot's metadata.
fn empty(meta: Meta) -> Snapshot<Types> {
    Snapshot { meta, snapshot: Box::default() }
}
