//! The store of a single member, over a [`Backend`] in this process. `writer` is the thread that
//! writes, `group` evaluates the transactions of a batch; reads bypass the writer.

mod group;
mod lease;
mod pins;
mod requests;
pub(crate) mod shared;
mod totals;
mod transaction;
mod writer;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use runtime::{Scope, clock};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::pins::Pins;
use self::shared::{DiskFull, Observer, Shared, Space, State, StoreEvent};
use self::totals::Totals;
use self::writer::{Reply, Request, Writer, read_meta};
use super::backend::{Backend, BackendError, Page, View as _};
use super::history::History;
use super::kv::{KeyValue, KvError, LeaseInfo, Outcome, Status, Transaction};
use super::query::{Query, Selected, Selection};
use super::range::KeyRange;
use super::{
    Batching, Committed, Entry, Record, Revision, STUCK, Scan, Snapshot, Store, StoreError, Txn,
};

pub(crate) use lease::MAX_TTL;

/// Transactions of one request: they share a write and a sync.
const BATCH: usize = 256;
/// Requests that wait for the writer; callers wait beyond it.
const QUEUE: usize = 4_096;
/// Revisions that the engine has not seen yet; the writer waits beyond it.
const FEED: usize = 4_096;

/// Interval of checks of the room on the disk.
const LOOK: Duration = Duration::from_secs(2);
/// Interval of checks of leases: keys are deleted up to this long after their lease expired.
const LEASES: Duration = Duration::from_millis(500);
/// Keys of one page of a range.
const RANGE_PAGE: usize = 1_000;

/// Options of the store.
pub(crate) struct Options {
    /// Puts are refused above it; `None` for no quota.
    pub(crate) quota_bytes: Option<u64>,
    pub(crate) observer: Box<dyn Observer>,
    pub(crate) space: Arc<dyn Space>,
}

/// A handle of the store. Cheap to clone.
pub(crate) struct Embedded<B> {
    shared: Arc<Shared<B>>,
    requests: mpsc::Sender<Request>,
}

impl<B> Clone for Embedded<B> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), requests: self.requests.clone() }
    }
}

impl<B: Backend> Embedded<B> {
    /// Opens the backend and starts the writer, which ends when every handle is dropped. The feed
    /// has every change after this.
    ///
    /// # Errors
    /// The files cannot be read, or acknowledged data is missing.
    pub(crate) fn start(
        open: impl Fn() -> Result<B, BackendError> + Send + 'static,
        options: Options,
        scope: &Scope,
    ) -> Result<(Self, mpsc::Receiver<StoreEvent>), BackendError> {
        let backend = open()?;
        let (totals, leases) = read_meta(&backend)?;
        let shared = Arc::new(Shared {
            backend: ArcSwapOption::from_pointee(backend),
            disk_full: DiskFull::default(),
            no_space: AtomicBool::new(false),
            state: watch::Sender::new(State::Serving),
            observer: options.observer,
            space: options.space,
            leases: Mutex::new(leases),
            pins: Mutex::new(Pins::default()),
            history: Arc::new(History::new(totals.revision)),
            newest: watch::Sender::new(totals.revision),
        });
        shared.look();
        shared.set_no_space(totals.no_space);
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (feed, changes) = mpsc::channel(FEED);
        let writer = Writer {
            shared: shared.clone(),
            requests: inbox,
            feed,
            totals,
            quota_bytes: options.quota_bytes,
            open: Box::new(open),
            heartbeat: scope.heartbeat("scheduler-store", STUCK),
        };
        scope.spawn_detached("scheduler-store", async move {
            // A panic of the writer closes its queue; the engine ends with the feed.
            let _ = tokio::task::spawn_blocking(move || writer.run()).await;
        });
        scope.spawn_detached("scheduler-disk", look(shared.clone(), scope.token().clone()));
        let expire = expire(shared.clone(), requests.downgrade(), scope.token().clone());
        scope.spawn_detached("scheduler-leases", expire);
        Ok((Self { shared, requests }, changes))
    }

    /// Whether the store serves.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.shared.state.subscribe()
    }

    fn backend(&self) -> Result<Arc<B>, StoreError> {
        let opening = || StoreError::Unavailable("it is being opened again".to_owned());
        self.shared.backend.load_full().ok_or_else(opening)
    }

    fn at(&self) -> Result<At<B>, StoreError> {
        let backend = self.backend()?;
        let view = backend.view().map_err(|error| unavailable(&error))?;
        let totals = view.meta(totals::KEY).map_err(|error| unavailable(&error))?;
        let missing = || StoreError::Unavailable("its totals are missing".to_owned());
        let totals = totals.as_deref().and_then(Totals::decode).ok_or_else(missing)?;
        // The view alone would outlive the backend that it reads from.
        Ok(At { view, totals, backend })
    }

    async fn ask<T, E: From<StoreError>>(
        &self,
        request: impl FnOnce(Reply<T, E>) -> Request,
    ) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        let stopped = || StoreError::Unavailable("it has stopped".to_owned());
        self.requests.send(request(reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl<B: Backend> Store for Embedded<B> {
    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        // Read here: most records are in memory or in the system's cache, and handing the read to
        // another thread takes longer than the read.
        let read = || {
            Ok(self
                .backend()?
                .get(&key)
                .map_err(|error| unavailable(&error))?
                .and_then(Record::decode))
        };
        futures::future::ready(read()).boxed()
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(Arc::new(self.at()?))
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, StoreError>> {
        self.ask(|reply| Request::Txn(txn, reply)).boxed()
    }

    fn batching(&self) -> Batching {
        Batching { size: BATCH, calls: usize::MAX, interval: Duration::ZERO }
    }

    fn commit_each(&self, txns: Arc<[Txn]>) -> BoxFuture<'_, Vec<Result<Committed, StoreError>>> {
        async move {
            let count = txns.len();
            let done = self.ask(|reply| Request::Each(txns, reply)).await;
            done.unwrap_or_else(|error: StoreError| vec![Err(error); count])
        }
        .boxed()
    }
}

impl<B: Backend> KeyValue for Embedded<B> {
    fn range(&self, query: &Query) -> Result<(Revision, Selected), KvError> {
        let now = self.at()?;
        let current = now.totals.revision;
        let snapshot: Arc<dyn Snapshot> = match query.revision {
            0 => Arc::new(now),
            asked if asked > current => return Err(KvError::Future),
            asked if asked == current => Arc::new(now),
            asked if asked < now.totals.compacted => return Err(KvError::Compacted),
            asked => self.shared.pins().get(asked).ok_or(KvError::Compacted)?,
        };
        let found = snapshot.select(query)?;
        if found.more {
            self.shared.pins().pin(snapshot.revision(), snapshot, clock::monotonic());
        }
        Ok((current, found))
    }

    fn transact(&self, transaction: Transaction) -> BoxFuture<'_, Result<Outcome, KvError>> {
        self.ask(|reply| Request::Transact(transaction, reply)).boxed()
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), KvError>> {
        self.ask(move |reply| Request::Compact(revision, reply)).boxed()
    }

    fn grant(
        &self,
        id: i64,
        ttl: i64,
        reserved: bool,
    ) -> BoxFuture<'_, Result<LeaseInfo, KvError>> {
        let chosen = || (runtime::random::bits() >> 1).cast_signed().max(1);
        let id = if id == 0 { chosen() } else { id };
        let ttl = ttl.clamp(lease::MIN_TTL, MAX_TTL);
        async move {
            self.ask(|reply| Request::Grant { id, ttl, reserved, reply }).await?;
            Ok(LeaseInfo { id, ttl, remaining: ttl, keys: Vec::new() })
        }
        .boxed()
    }

    fn revoke(&self, id: i64) -> BoxFuture<'_, Result<Revision, KvError>> {
        self.ask(move |reply| Request::Revoke(id, reply)).boxed()
    }

    fn keep_alive(&self, id: i64) -> Option<i64> {
        self.shared.leases().renew(id, clock::monotonic())
    }

    fn leases(&self, id: Option<i64>) -> Vec<LeaseInfo> {
        self.shared.leases().infos(id, clock::monotonic())
    }

    fn set_alarm(&self, raised: bool) -> BoxFuture<'_, Result<bool, KvError>> {
        self.ask(move |reply| Request::SetAlarm(raised, reply)).boxed()
    }

    fn defragment(&self) -> BoxFuture<'_, Result<(), KvError>> {
        self.ask(Request::Defragment).boxed()
    }

    fn status(&self) -> Result<Status, KvError> {
        let At { totals, backend, .. } = self.at()?;
        Ok(Status {
            cluster_id: totals.cluster_id,
            member_id: totals.member_id,
            revision: totals.revision,
            sequence: totals.sequence,
            live_bytes: totals.live_bytes,
            disk_bytes: backend.disk_bytes().map_err(|error| unavailable(&error))?,
            compacted: totals.compacted,
            no_space: totals.no_space,
        })
    }

    fn view(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        self.snapshot()
    }

    fn history(&self) -> Arc<History> {
        self.shared.history.clone()
    }

    fn newest(&self) -> watch::Receiver<Revision> {
        self.shared.newest.subscribe()
    }
}

/// Checks the room on the disk until the process stops.
async fn look<B: Backend>(shared: Arc<Shared<B>>, stop: CancellationToken) {
    let watch = async {
        loop {
            let looking = shared.clone();
            let look = move || {
                if let Some(Ok(bytes)) = looking.backend.load_full().map(|disk| disk.disk_bytes()) {
                    looking.observer.on_disk(bytes);
                }
                looking.look();
            };
            // Fails only when the runtime stops.
            let Ok(()) = tokio::task::spawn_blocking(look).await else { return };
            tokio::time::sleep(LOOK).await;
        }
    };
    stop.run_until_cancelled(watch).await;
}

/// Revokes expired leases until the process stops.
async fn expire<B: Backend>(
    shared: Arc<Shared<B>>,
    requests: mpsc::WeakSender<Request>,
    stop: CancellationToken,
) {
    let watch = async {
        loop {
            tokio::time::sleep(LEASES).await;
            let now = clock::monotonic();
            shared.pins().expire(now);
            let any = !shared.leases().expired(now).is_empty();
            let Some(requests) = requests.upgrade() else { return };
            if any && requests.send(Request::Expire).await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(watch).await;
}

struct At<B: Backend> {
    view: B::View,
    totals: Totals,
    backend: Arc<B>,
}

impl<B: Backend> Snapshot for At<B> {
    fn scan(&self, scan: &Scan) -> Result<Vec<Entry>, StoreError> {
        let range = KeyRange::prefix(scan.prefix.clone());
        let page = Page { range: &range, after: scan.after.as_ref(), limit: scan.limit };
        let found = self.view.page(&page).map_err(|error| unavailable(&error))?;
        Ok(found.into_iter().filter_map(entry).collect())
    }

    fn select(&self, query: &Query) -> Result<Selected, StoreError> {
        let mut selection = Selection::new(query);
        let mut after = None;
        loop {
            let page = Page { range: &query.range, after: after.as_ref(), limit: RANGE_PAGE };
            let found = self.view.page(&page).map_err(|error| unavailable(&error))?;
            let Some((last, _)) = found.last() else { return Ok(selection.finish()) };
            after = Some(last.clone());
            found.into_iter().filter_map(entry).for_each(|entry| selection.push(entry));
        }
    }

    fn revision(&self) -> Revision {
        self.totals.revision
    }
}

fn entry((key, bytes): (Bytes, Bytes)) -> Option<Entry> {
    let record = Record::decode(bytes);
    if record.is_none() {
        tracing::error!(target: "dapr.scheduler.store",
            key = %String::from_utf8_lossy(&key), "A record is damaged and left out");
    }
    Some(Entry { record: record?, key })
}

fn unavailable(error: &BackendError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
