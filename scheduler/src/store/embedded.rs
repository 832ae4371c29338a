//! The store of a single member, over a [`Backend`] in this process.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use runtime::Scope;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::writer::{
    Backend, BackendError, Feed, Observer, Page, Request, Shared, Space, State, View as _, Writer,
    read_totals,
};
use super::{Committed, Entry, Record, Scan, Snapshot, Store, StoreError, Txn};

/// Transactions that wait for the writer; callers wait beyond it.
const QUEUE: usize = 4_096;
/// Revisions that the engine has not seen yet; the writer waits beyond it.
const FEED: usize = 4_096;

/// How often the room on the disk is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How the store is run.
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
    pub(crate) fn start(
        open: impl Fn() -> Result<B, BackendError> + Send + 'static,
        options: Options,
        scope: &Scope,
    ) -> Result<(Self, mpsc::Receiver<Feed>), BackendError> {
        let backend = open()?;
        let totals = read_totals(&backend)?;
        let shared = Arc::new(Shared {
            backend: ArcSwapOption::from_pointee(backend),
            disk_full: AtomicBool::new(false),
            state: watch::Sender::new(State::Serving),
            observer: options.observer,
            space: options.space,
        });
        shared.set_disk_full(shared.space.look());
        let (requests, inbox) = mpsc::channel(QUEUE);
        let (feed, changes) = mpsc::channel(FEED);
        let writer = Writer {
            shared: shared.clone(),
            requests: inbox,
            feed,
            totals,
            quota_bytes: options.quota_bytes,
            open: Box::new(open),
        };
        scope.spawn_detached("scheduler-store", async move {
            // A panic of the writer closes its queue; the engine ends with the feed.
            let _ = tokio::task::spawn_blocking(move || writer.run()).await;
        });
        scope.spawn_detached("scheduler-disk", look(shared.clone(), scope.token().clone()));
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
        let backend = self.backend()?;
        let view = backend.view().map_err(|error| unavailable(&error))?;
        // The view alone would outlive the backend that it reads from.
        Ok(Arc::new(At::<B> { view, _backend: backend }))
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, StoreError>> {
        async move {
            let (reply, answer) = oneshot::channel();
            let stopped = || StoreError::Unavailable("it has stopped".to_owned());
            let request = Request { txn, reply };
            self.requests.send(request).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        }
        .boxed()
    }
}

/// Looks at the room on the disk until the process stops.
async fn look<B: Backend>(shared: Arc<Shared<B>>, stop: CancellationToken) {
    let watch = async {
        loop {
            tokio::time::sleep(LOOK).await;
            let space = shared.space.clone();
            // Fails only when the runtime stops.
            let Ok(full) = tokio::task::spawn_blocking(move || space.look()).await else { return };
            shared.set_disk_full(full);
        }
    };
    stop.run_until_cancelled(watch).await;
}

struct At<B: Backend> {
    view: B::View,
    _backend: Arc<B>,
}

impl<B: Backend> Snapshot for At<B> {
    fn scan(&self, scan: &Scan) -> Result<Vec<Entry>, StoreError> {
        let page = Page { prefix: &scan.prefix, after: scan.after.as_ref(), limit: scan.limit };
        let found = self.view.page(&page).map_err(|error| unavailable(&error))?;
        let entry = |(key, bytes): (Bytes, Bytes)| {
            let record = Record::decode(bytes);
            if record.is_none() {
                tracing::error!(target: "dapr.scheduler.store",
                    key = %String::from_utf8_lossy(&key), "A record is damaged and left out");
            }
            Some(Entry { record: record?, key })
        };
        Ok(found.into_iter().filter_map(entry).collect())
    }
}

fn unavailable(error: &BackendError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
