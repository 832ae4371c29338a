//! The one thread that writes: group commit, and opening the backend again after a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::{Buf as _, Bytes};
use tokio::sync::{mpsc, oneshot, watch};

use super::group::{Group, Room, Totals};
use super::{Change, Committed, Op, Source, StoreError, Txn};

/// Transactions in one batch: beyond this the batch takes longer than the sync that it saves.
const MAX_GROUP: usize = 512;
/// Bytes of keys and values in one batch, the last transaction excepted. Bounds memory and the
/// time of a sync.
const MAX_GROUP_BYTES: usize = 16 << 20;
/// A page ends after the record with which it has this many bytes, whatever its limit of keys:
/// payloads may have megabytes.
pub(super) const PAGE_BYTES: usize = 4 << 20;
/// Waits between attempts to open the backend again double between these two.
const REOPEN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// Where the bytes are.
pub(crate) trait Backend: Sized + Send + Sync + 'static {
    type View: View;

    /// The value of a key.
    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, BackendError>;
    /// The backend at this moment.
    fn view(&self) -> Result<Self::View, BackendError>;
    /// The totals of the last batch; `None` before the first.
    fn totals(&self) -> Result<Option<Bytes>, BackendError>;
    /// Writes a batch as a whole; returns when it is durable. After an error the batch may be
    /// there or not, and the backend is not used again.
    fn write(&self, writes: Vec<(Bytes, Option<Bytes>)>, totals: Bytes)
    -> Result<(), BackendError>;
}

/// A backend at one moment.
pub(crate) trait View: Send + Sync + 'static {
    /// Keys with their values, in order, at most [`PAGE_BYTES`] and one record. Empty at the end.
    fn page(&self, page: &Page<'_>) -> Result<Vec<(Bytes, Bytes)>, BackendError>;
}

/// Which keys to read.
pub(crate) struct Page<'a> {
    pub(crate) prefix: &'a Bytes,
    /// Only keys after this one.
    pub(crate) after: Option<&'a Bytes>,
    pub(crate) limit: usize,
}

/// A failed read or write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BackendError {
    /// The file system has no room.
    #[error("no space left on the file system of the job store")]
    NoRoom,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// What the store tells the engine, in order.
#[derive(Debug)]
pub(crate) enum Feed {
    /// All changes of one revision.
    Changes { source: Source, changes: Vec<Change> },
    /// The backend was opened again after a failed write, which may have written or not: what is
    /// stored has to be read again.
    Reopened,
}

/// Whether the store serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Serving,
    /// Puts are refused until there is room.
    DiskFull,
    /// The backend failed and is being opened again.
    Reopening(String),
}

/// One transaction and who waits for it.
pub(super) struct Request {
    pub(super) txn: Txn,
    pub(super) reply: oneshot::Sender<Result<Committed, StoreError>>,
}

/// What the writer shares with the handles.
pub(super) struct Shared<B> {
    /// `None` while it is being opened again.
    pub(super) backend: ArcSwapOption<B>,
    pub(super) disk_full: AtomicBool,
    pub(super) state: watch::Sender<State>,
    pub(super) observer: Box<dyn Observer>,
    pub(super) space: Arc<dyn Space>,
}

impl<B> Shared<B> {
    /// Notes whether the disk is full. A backend that is being opened again stays so.
    pub(super) fn set_disk_full(&self, full: bool) {
        if self.disk_full.swap(full, Ordering::Relaxed) != full {
            let free = if full { "is full: new jobs are refused" } else { "has room again" };
            tracing::warn!(target: "dapr.scheduler.store", "The file system of the job store {free}");
        }
        let now = if full { State::DiskFull } else { State::Serving };
        self.state.send_if_modified(|state| {
            let changes = !matches!(state, State::Reopening(_)) && *state != now;
            if changes {
                *state = now.clone();
            }
            changes
        });
    }
}

/// Gets the figures of each group.
pub(crate) trait Observer: Send + Sync + 'static {
    /// A group of this many transactions is durable after this time; the store holds this many
    /// bytes.
    fn committed(&self, transactions: usize, took: Duration, live_bytes: u64);
}

/// Room on the file system.
pub(crate) trait Space: Send + Sync + 'static {
    /// A write failed for lack of room: makes some.
    fn give_up(&self);
    /// Whether there is too little room for new jobs. Blocks on the disk.
    fn look(&self) -> bool;
}

pub(super) struct Writer<B> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) feed: mpsc::Sender<Feed>,
    pub(super) totals: Totals,
    pub(super) quota_bytes: Option<u64>,
    pub(super) open: Box<dyn Fn() -> Result<B, BackendError> + Send>,
}

impl<B: Backend> Writer<B> {
    /// Runs until every handle of the store is dropped.
    pub(super) fn run(mut self) {
        while let Some(first) = self.requests.blocking_recv() {
            let group = self.gather(first);
            let Some(backend) = self.shared.backend.load_full() else {
                refuse(group, "it is being opened again");
                continue;
            };
            if let Err(error) = self.commit(&backend, group) {
                drop(backend);
                self.reopen(&error);
            }
        }
    }

    fn gather(&mut self, first: Request) -> Vec<Request> {
        let mut bytes = size(&first.txn);
        let mut group = vec![first];
        while group.len() < MAX_GROUP && bytes < MAX_GROUP_BYTES {
            let Ok(next) = self.requests.try_recv() else { break };
            bytes += size(&next.txn);
            group.push(next);
        }
        group
    }

    fn commit(&mut self, backend: &B, requests: Vec<Request>) -> Result<(), BackendError> {
        let started = runtime::clock::monotonic();
        let room = Room {
            quota_bytes: self.quota_bytes,
            disk_full: self.shared.disk_full.load(Ordering::Relaxed),
        };
        let mut group = Group::new(backend, room, self.totals);
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            match group.run(&request.txn) {
                Ok(answer) => answers.push((request.reply, answer)),
                Err(error) => {
                    answer_all(answers, &StoreError::Unavailable(error.to_string()));
                    let _ = request.reply.send(Err(StoreError::Unavailable(error.to_string())));
                    return Err(error);
                }
            }
        }
        let batch = group.finish();
        if !batch.changes.is_empty() {
            let write = |(key, record): (Bytes, Option<super::Record>)| {
                (key, record.map(|record| record.encode()))
            };
            let writes = batch.writes.into_iter().map(write).collect();
            if let Err(error) = backend.write(writes, encode(batch.totals)) {
                answer_all(answers, &StoreError::Unavailable(error.to_string()));
                return Err(error);
            }
            self.totals = batch.totals;
        }
        let took = runtime::clock::monotonic().saturating_duration_since(started);
        self.shared.observer.committed(answers.len(), took, self.totals.live_bytes);
        // The engine hears of a job before its caller does.
        for (source, changes) in batch.changes {
            let _ = self.feed.blocking_send(Feed::Changes { source, changes });
        }
        for (reply, answer) in answers {
            let _ = reply.send(answer);
        }
        Ok(())
    }

    /// After a failure nothing more is accepted by the backend: it is opened again.
    fn reopen(&mut self, error: &BackendError) {
        tracing::error!(target: "dapr.scheduler.store", "The job store failed and is opened again: {error}");
        if *error == BackendError::NoRoom {
            self.shared.space.give_up();
            self.shared.disk_full.store(true, Ordering::Relaxed);
        }
        self.shared.backend.store(None);
        self.shared.state.send_replace(State::Reopening(error.to_string()));
        let [mut wait, longest] = REOPEN;
        loop {
            std::thread::sleep(wait);
            wait = longest.min(wait * 2);
            while let Ok(request) = self.requests.try_recv() {
                refuse(vec![request], "it is being opened again");
            }
            if self.requests.is_closed() {
                return;
            }
            let opened = (self.open)().and_then(|backend| Ok((read_totals(&backend)?, backend)));
            match opened {
                Ok((totals, backend)) => {
                    self.totals = totals;
                    self.shared.backend.store(Some(Arc::new(backend)));
                    break;
                }
                Err(error) => {
                    tracing::error!(target: "dapr.scheduler.store", "The job store cannot be opened: {error}");
                    self.shared.state.send_replace(State::Reopening(error.to_string()));
                }
            }
        }
        let _ = self.feed.blocking_send(Feed::Reopened);
        let full = self.shared.disk_full.load(Ordering::Relaxed);
        self.shared.state.send_replace(if full { State::DiskFull } else { State::Serving });
        tracing::info!(target: "dapr.scheduler.store", "The job store serves again");
    }
}

/// The totals of the last batch, or those of an empty store.
pub(super) fn read_totals<B: Backend>(backend: &B) -> Result<Totals, BackendError> {
    let Some(mut bytes) = backend.totals()? else {
        return Ok(Totals { revision: 1, live_bytes: 0 });
    };
    if bytes.len() != 16 {
        return Err(BackendError::Failed("the record of the store's revision is damaged".into()));
    }
    Ok(Totals { revision: bytes.get_u64(), live_bytes: bytes.get_u64() })
}

fn encode(totals: Totals) -> Bytes {
    [totals.revision.to_be_bytes(), totals.live_bytes.to_be_bytes()].concat().into()
}

fn size(txn: &Txn) -> usize {
    let op = |op: &Op| match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
        Op::DeleteJobs { prefix, .. } => prefix.len(),
    };
    txn.then.iter().chain(&txn.otherwise).map(op).sum()
}

fn refuse(requests: Vec<Request>, why: &str) {
    let answers = requests.into_iter().map(|request| (request.reply, ()));
    answer_all(answers, &StoreError::Unavailable(why.to_owned()));
}

type Reply = oneshot::Sender<Result<Committed, StoreError>>;

fn answer_all<T>(answers: impl IntoIterator<Item = (Reply, T)>, error: &StoreError) {
    for (reply, _) in answers {
        let _ = reply.send(Err(error.clone()));
    }
}
