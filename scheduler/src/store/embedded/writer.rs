//! The one thread that writes: group commit, and reopening the backend after a failure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use runtime::Heartbeat;
use tokio::sync::{mpsc, oneshot};

use super::group::{Group, Room};
use super::lease::{self, Leases};
use super::shared::{Shared, State, StoreEvent};
use super::totals::{self, Totals};
use crate::store::backend::{Backend, BackendError, Writes};
use crate::store::history::Changes;
use crate::store::kv::{KvError, Outcome, Transaction};
use crate::store::{Change, Committed, Op, Record, Revision, Source, StoreError, Txn};

/// Transactions in one batch, those of the last request excepted: beyond this the batch takes longer
/// than the sync that it saves.
const MAX_GROUP: usize = 512;
/// Bytes of keys and values in one batch, the last request excepted. Bounds memory and the
/// time of a sync.
const MAX_GROUP_BYTES: usize = 16 << 20;
/// Shortest and longest pause between attempts to reopen the backend; each pause is twice the last.
const REOPEN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];

/// A request to the writer, with the channel of its answer.
pub(super) enum Request {
    Txn(Txn, Reply<Committed, StoreError>),
    /// Transactions of which none depends on another.
    Each(Arc<[Txn]>, Reply<Vec<Result<Committed, StoreError>>, StoreError>),
    Transact(Transaction, Reply<Outcome, KvError>),
    /// Each request below is a separate batch.
    Compact(Revision, Reply<(), KvError>),
    Grant {
        id: i64,
        ttl: i64,
        reserved: bool,
        reply: Reply<(), KvError>,
    },
    Revoke(i64, Reply<Revision, KvError>),
    /// Revokes expired leases.
    Expire,
    SetAlarm(bool, Reply<bool, KvError>),
    Defragment(Reply<(), KvError>),
}

pub(super) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

impl Request {
    fn refuse(self, why: &StoreError) {
        fn send<T, E: From<StoreError>>(reply: Reply<T, E>, why: &StoreError) {
            let _ = reply.send(Err(why.clone().into()));
        }
        match self {
            Self::Txn(_, reply) => send(reply, why),
            Self::Each(_, reply) => send(reply, why),
            Self::Transact(_, reply) => send(reply, why),
            Self::Compact(_, reply) | Self::Grant { reply, .. } | Self::Defragment(reply) => {
                send(reply, why);
            }
            Self::Revoke(_, reply) => send(reply, why),
            Self::SetAlarm(_, reply) => send(reply, why),
            Self::Expire => {}
        }
    }

    /// Whether it can share a batch.
    fn is_grouped(&self) -> bool {
        matches!(self, Self::Txn(..) | Self::Each(..) | Self::Transact(..))
    }

    fn transactions(&self) -> usize {
        match self {
            Self::Each(txns, _) => txns.len(),
            _ => 1,
        }
    }

    /// Bytes of what it writes.
    fn bytes(&self) -> usize {
        match self {
            Self::Txn(txn, _) => bytes_of(txn),
            Self::Each(txns, _) => txns.iter().map(bytes_of).sum(),
            Self::Transact(transaction, _) => transaction.bytes(),
            _ => 0,
        }
    }
}

pub(super) struct Writer<B> {
    pub(super) shared: Arc<Shared<B>>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) feed: mpsc::Sender<StoreEvent>,
    pub(super) totals: Totals,
    pub(super) quota_bytes: Option<u64>,
    pub(super) open: Box<dyn Fn() -> Result<B, BackendError> + Send>,
    /// Beats while requests run, except for those without a time limit.
    pub(super) heartbeat: Heartbeat,
}

impl<B: Backend> Writer<B> {
    /// Runs until every handle of the store is dropped.
    pub(super) fn run(mut self) {
        let mut next = None;
        loop {
            let waiting = next.take().or_else(|| self.requests.try_recv().ok());
            let first = waiting.or_else(|| {
                self.heartbeat.pause();
                self.requests.blocking_recv()
            });
            let Some(first) = first else { return };
            self.heartbeat.beat();
            let Some(backend) = self.shared.backend.load_full() else {
                first.refuse(&opening());
                continue;
            };
            let done = if first.is_grouped() {
                let (group, other) = gather(first, &mut self.requests);
                next = other;
                self.commit(&backend, group)
            } else {
                self.run_alone(&backend, first)
            };
            if let Err(error) = done {
                drop(backend);
                if let Some(next) = next.take() {
                    next.refuse(&opening());
                }
                self.reopen(&error);
            }
        }
    }

    pub(super) fn commit(
        &mut self,
        backend: &B,
        requests: Vec<Request>,
    ) -> Result<(), BackendError> {
        let started = runtime::clock::monotonic();
        let count = requests.iter().map(Request::transactions).sum();
        let shared = self.shared.clone();
        let leases = shared.leases();
        let mut group = Group::new(backend, self.room(), &leases, self.totals);
        let mut answers: Vec<Answer> = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter();
        let mut failed = Ok(());
        for request in requests.by_ref() {
            failed = match request {
                Request::Txn(txn, reply) => {
                    group.run(&txn).map(|answer| answers.push(later(reply, answer)))
                }
                Request::Each(txns, reply) => {
                    let ran: Result<Vec<_>, _> = txns.iter().map(|txn| group.run(txn)).collect();
                    ran.map(|each| answers.push(later(reply, Ok(each))))
                }
                Request::Transact(transaction, reply) => {
                    group.transact(&transaction).map(|answer| answers.push(later(reply, answer)))
                }
                other => {
                    other.refuse(&opening()); // never in a group
                    Ok(())
                }
            };
            if failed.is_err() {
                break;
            }
        }
        let batch = group.finish();
        drop(leases);
        let (feed, stored) = match failed {
            Ok(()) => {
                let meta = batch.attachments.iter().map(lease::held).collect();
                let attachments = batch.attachments;
                let feed = batch.changes;
                let stored = self.store(backend, batch.writes, meta, batch.totals);
                if stored.is_ok() {
                    let mut leases = self.shared.leases();
                    for change in &attachments {
                        leases.apply(change);
                    }
                }
                (feed, stored)
            }
            Err(error) => (Vec::new(), Err(error)),
        };
        if let Err(error) = stored {
            let unavailable = StoreError::Unavailable(error.to_string());
            for answer in answers {
                answer(Err(unavailable.clone()));
            }
            requests.for_each(|request| request.refuse(&unavailable));
            return Err(error);
        }
        let took = runtime::clock::monotonic().saturating_duration_since(started);
        self.shared.observer.committed(count, took, self.totals.live_bytes);
        self.publish(feed);
        for answer in answers {
            answer(Ok(()));
        }
        Ok(())
    }

    /// Writes the changes, and keeps the totals when they are durable.
    pub(super) fn store(
        &mut self,
        backend: &B,
        records: BTreeMap<Bytes, Option<Record>>,
        mut meta: Vec<(Bytes, Option<Bytes>)>,
        mut totals: Totals,
    ) -> Result<(), BackendError> {
        if records.is_empty() && meta.is_empty() && totals == self.totals {
            return Ok(());
        }
        totals.sequence = self.totals.sequence + 1;
        meta.push((totals::KEY.into(), Some(totals.encode())));
        let record = |(key, record): (Bytes, Option<Record>)| (key, record.map(|r| r.encode()));
        let records = records.into_iter().map(record).collect();
        let started = runtime::clock::monotonic();
        backend.write(Writes { records, meta, sequence: totals.sequence })?;
        let took = runtime::clock::monotonic().saturating_duration_since(started);
        self.shared.observer.synced(took);
        self.totals = totals;
        self.shared.set_no_space(totals.no_space);
        Ok(())
    }

    /// Publishes changes to watches and to the engine, which sees a job before its caller gets the
    /// answer.
    pub(super) fn publish(&mut self, feed: Vec<(Source, Vec<Change>)>) {
        let newest = feed.last().and_then(|(_, changes)| changes.last()).map(|last| last.revision);
        for (source, changes) in feed {
            let changes: Changes = changes.into();
            self.shared.history.push(changes.clone());
            // The engine knows its own writes.
            if source != Source::Engine {
                let _ = self.feed.blocking_send(StoreEvent::Changes { source, changes });
            }
        }
        if let Some(newest) = newest {
            self.shared.newest.send_replace(newest);
        }
    }

    pub(super) fn room(&self) -> Room {
        Room { quota_bytes: self.quota_bytes, disk_full: self.shared.disk_full.get() }
    }

    /// After a failure the backend accepts nothing more: it is reopened.
    fn reopen(&mut self, error: &BackendError) {
        // Waits for the disk, or reads all of it.
        self.heartbeat.pause();
        tracing::error!(target: "dapr.scheduler.store", "The job store failed and is opened again: {error}");
        if *error == BackendError::NoRoom {
            self.shared.space.give_up();
            self.shared.disk_full.write_failed();
        }
        self.shared.pins().clear();
        self.shared.backend.store(None);
        let _ = self.feed.blocking_send(StoreEvent::Failed);
        self.shared.state.send_replace(State::Reopening(error.to_string()));
        let [mut wait, longest] = REOPEN;
        loop {
            std::thread::sleep(wait);
            wait = longest.min(wait * 2);
            while let Ok(request) = self.requests.try_recv() {
                request.refuse(&opening());
            }
            if self.requests.is_closed() {
                return;
            }
            match self.try_open() {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(target: "dapr.scheduler.store", "The job store cannot be opened: {error}");
                    self.shared.state.send_replace(State::Reopening(error.to_string()));
                }
            }
        }
        let _ = self.feed.blocking_send(StoreEvent::Reopened);
        self.shared.state.send_replace(self.shared.open_state());
        tracing::info!(target: "dapr.scheduler.store", "The job store serves again");
    }

    fn try_open(&mut self) -> Result<(), BackendError> {
        let backend = (self.open)()?;
        let (totals, leases) = read_meta(&backend)?;
        if totals.sequence < self.totals.sequence {
            return Err(missing(self.totals.sequence, totals.sequence));
        }
        // The failed batch may be stored. Its changes have no events.
        if totals.revision != self.totals.revision {
            self.shared.history.restart(totals.revision);
            self.shared.newest.send_replace(totals.revision);
        }
        self.totals = totals;
        *self.shared.leases() = leases;
        self.shared.no_space.store(totals.no_space, Ordering::Relaxed);
        self.shared.backend.store(Some(Arc::new(backend)));
        Ok(())
    }
}

/// The totals of the last batch and the leases. A new store gets its ids here, with the first
/// batch.
///
/// # Errors
/// The backend fails, or acknowledged batches are missing.
pub(super) fn read_meta<B: Backend>(backend: &B) -> Result<(Totals, Leases), BackendError> {
    let stored = backend.meta()?;
    let leases = Leases::read(&stored, runtime::clock::monotonic());
    let totals = stored.iter().find(|(key, _)| *key == totals::KEY);
    let totals = totals.map(|(_, bytes)| {
        let damaged = || BackendError::Damaged("the record of its revision is damaged".into());
        Totals::decode(bytes).ok_or_else(damaged)
    });
    let totals = totals.transpose()?;
    let (found, acknowledged) =
        (totals.map_or(0, |totals| totals.sequence), backend.acknowledged());
    if found < acknowledged {
        return Err(missing(acknowledged, found));
    }
    if let Some(totals) = totals {
        return Ok((totals, leases));
    }
    let mut totals = Totals::new(runtime::random::bits(), runtime::random::bits());
    totals.sequence = 1;
    let meta = vec![(totals::KEY.into(), Some(totals.encode()))];
    backend.write(Writes { records: Vec::new(), meta, sequence: 1 })?;
    Ok((totals, leases))
}

fn missing(acknowledged: u64, found: u64) -> BackendError {
    BackendError::Damaged(format!(
        "batch {acknowledged} was acknowledged, but the files end with batch {found}"
    ))
}

/// Requests for one batch, and the following one that cannot share it.
fn gather(
    first: Request,
    requests: &mut mpsc::Receiver<Request>,
) -> (Vec<Request>, Option<Request>) {
    let (mut transactions, mut bytes) = (first.transactions(), first.bytes());
    let mut group = vec![first];
    while transactions < MAX_GROUP && bytes < MAX_GROUP_BYTES {
        let Ok(next) = requests.try_recv() else { break };
        if !next.is_grouped() {
            return (group, Some(next));
        }
        transactions += next.transactions();
        bytes += next.bytes();
        group.push(next);
    }
    (group, None)
}

fn bytes_of(txn: &Txn) -> usize {
    let op = |op: &Op| match op {
        Op::Put { key, value } => key.len() + value.len(),
        Op::Delete { key } => key.len(),
        Op::DeleteJobs { prefix, .. } => prefix.len(),
    };
    txn.then.iter().chain(&txn.otherwise).map(op).sum()
}

fn opening() -> StoreError {
    StoreError::Unavailable("it is being opened again".to_owned())
}

/// Answers a request whose changes are durable or failed.
type Answer = Box<dyn FnOnce(Result<(), StoreError>)>;

/// Sends an answer once its changes are durable or failed.
fn later<T: 'static, E: From<StoreError> + 'static>(
    reply: Reply<T, E>,
    answer: Result<T, E>,
) -> Answer {
    Box::new(move |durable| {
        let _ = reply.send(durable.map_err(E::from).and(answer));
    })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    /// A put of so many bytes.
    fn put(bytes: usize) -> Request {
        let then = vec![Op::Put { key: Bytes::new(), value: vec![0; bytes].into() }];
        Request::Txn(Txn { then, ..Txn::default() }, oneshot::channel().0)
    }

    #[rstest]
    #[case::full(&[1; MAX_GROUP], MAX_GROUP)]
    #[case::one_more(&[1; MAX_GROUP + 1], MAX_GROUP)]
    #[case::not_enough_bytes(&[MAX_GROUP_BYTES - 1, 1, 1], 2)]
    #[case::enough_bytes(&[MAX_GROUP_BYTES, 1], 1)]
    fn a_batch_has_so_many_transactions(#[case] sizes: &[usize], #[case] want: usize) {
        let (sender, mut requests) = mpsc::channel(sizes.len());
        for bytes in sizes {
            assert!(sender.try_send(put(*bytes)).is_ok());
        }
        let first = requests.try_recv().unwrap();
        assert_eq!(gather(first, &mut requests).0.len(), want);
    }
}
