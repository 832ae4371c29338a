//! The store of several members: an etcd that they share. Start at [`Etcd`].
//!
//! ```text
//!  api, engine ──Txn──► requests (pure) ──► client ──gRPC──► etcd
//!                                                             │ watch of all jobs and counters
//!  engine ◄──StoreEvent── feed ◄── echo (whose write is it?) ─┘
//! ```
//! Keys and records are those of Dapr 1.18, so its schedulers may run on the same etcd. A
//! transaction has at most one put below `dapr/jobs/`: Dapr 1.18 tells running jobs apart by
//! `mod_revision` alone, and loses those that share one.

mod batch;
mod client;
mod echo;
mod endpoints;
mod feed;
mod health;
pub(crate) mod lease;
pub(crate) mod maintenance;
mod once;
mod recent;
mod requests;
mod session;
mod snapshot;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::{BoxFuture, join_all};
use prometheus::Histogram;
use proto::etcd::mvccpb::KeyValue;
use runtime::Scope;
use tokio::sync::{mpsc, watch};

use self::client::Client;
use self::echo::{Echo, Noted};
use self::once::Put;
use self::recent::Recent;
use self::snapshot::{Latest, Pages};
use super::range::KeyRange;
use super::{
    Batching, Committed, Entry, Filter, Op, Record, Revision, Snapshot, State, Store, StoreError,
    StoreEvent, Txn, keys,
};

pub(crate) use client::Credentials;
pub(crate) use endpoints::{EndpointError, Endpoints, with_tls};
pub(crate) use requests::MAX_OPS;

/// Changes that the engine has not seen yet; etcd keeps them beyond it.
const FEED: usize = 4_096;
/// Batches of the engine that etcd has not answered. Each costs a round of its members and a write to
/// the disk of each, so that more at a time are slower than larger ones.
const MAX_CALLS: usize = 2;
/// The time between two batches. A job that fires again at once, back to back, does so no faster.
const INTERVAL: Duration = Duration::from_millis(10);
/// The pause before the check for existing jobs is repeated.
const USED_RETRY: Duration = Duration::from_secs(1);

/// A handle of the store. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Etcd {
    client: Arc<Client>,
    echo: Arc<Echo>,
    recent: Arc<Recent>,
    state: Arc<watch::Sender<State>>,
    /// Sizes of batches of the engine.
    batches: Histogram,
    /// Also keeps the feed open longer than its readers: tasks of a process that stops end in any
    /// order.
    feed: mpsc::Sender<StoreEvent>,
}

impl Etcd {
    /// Connects on first use. The feed reports its start, and has every change after that. An
    /// `obstacle` is what callers get as the reason while etcd does not answer.
    pub(crate) fn start(
        endpoints: Endpoints,
        credentials: Option<Credentials>,
        obstacle: Arc<ArcSwapOption<String>>,
        batches: Histogram,
        scope: &Scope,
    ) -> (Self, mpsc::Receiver<StoreEvent>) {
        let client = Arc::new(Client::new(Arc::new(endpoints), credentials, obstacle));
        let (echo, recent) = (Arc::new(Echo::default()), Arc::new(Recent::default()));
        let connecting = State::Reopening("connecting to etcd".to_owned());
        let state = Arc::new(watch::Sender::new(connecting));
        let (feed, changes) = mpsc::channel(FEED);
        let token = scope.token().clone();
        let health = health::watch(client.clone(), state.clone());
        let stop = token.clone();
        scope.spawn_detached("scheduler-etcd-health", async move {
            stop.run_until_cancelled(health).await;
        });
        let follow = feed::run(client.clone(), echo.clone(), recent.clone(), feed.clone());
        scope.spawn_detached("scheduler-etcd-watch", async move {
            token.run_until_cancelled(follow).await;
        });
        (Self { client, echo, recent, state, batches, feed }, changes)
    }

    /// Whether etcd answers and takes puts.
    pub(crate) fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Whether etcd has jobs of a scheduler, or counters. Waits for etcd.
    pub(crate) async fn was_used(&self) -> bool {
        loop {
            match tokio::try_join!(self.count(keys::JOBS), self.count(keys::COUNTERS)) {
                Ok((jobs, counters)) => return jobs + counters > 0,
                Err(error) => {
                    tracing::warn!(target: "dapr.scheduler.store", "{error}");
                    tokio::time::sleep(USED_RETRY).await;
                }
            }
        }
    }

    /// The number of keys below a prefix.
    async fn count(&self, prefix: &str) -> Result<i64, StoreError> {
        let mut read = requests::prefix(prefix.as_bytes());
        read.count_only = true;
        Ok(self.client.range(read).await?.count)
    }

    async fn run(&self, txn: &Txn) -> Result<Committed, StoreError> {
        let noted = self.echo.note(txn);
        let done = match Put::of(txn) {
            Some(put) => self.client.put_once(&put).await,
            None => {
                self.client.txn(requests::txn(txn)).await.map(|done| requests::committed(&done))
            }
        };
        let is_put =
            !matches!(done, Ok(Committed { succeeded: false, .. }) | Err(StoreError::NoSpace));
        if !is_put {
            noted.forget(&self.echo);
        }
        if let Ok(Committed { succeeded: true, revision, .. }) = done {
            self.recent.applied(txn, revision);
            if let [Op::Put { key, value }] = txn.then.as_slice() {
                self.pass_on(&noted, key, value, revision);
            }
        }
        done
    }

    /// Passes the put of a job by a call on, which the watch shows later.
    fn pass_on(&self, noted: &Noted, key: &Bytes, value: &Bytes, revision: Revision) {
        if keys::job_name(key).is_none() {
            return;
        }
        // Without room the watch shows it.
        if let Ok(place) = self.feed.try_reserve() {
            let put = StoreEvent::JobPut { key: key.clone(), value: value.clone(), revision };
            noted.hand_over(&self.echo, || place.send(put));
        }
    }

    /// Runs the transactions at these positions together; the outcome of each.
    async fn run_group(&self, txns: &[Txn], group: &[usize]) -> Vec<Result<Committed, StoreError>> {
        let txns = || group.iter().filter_map(|position| txns.get(*position));
        #[expect(clippy::cast_precision_loss, reason = "at most a hundred")]
        self.batches.observe(group.len() as f64);
        if group.len() > 1 {
            let noted: Vec<_> = txns().map(|txn| self.echo.note(txn)).collect();
            let answer = self.client.txn(batch::request(txns())).await;
            let is_full = matches!(answer, Err(StoreError::NoSpace));
            let done = answer.ok().and_then(|answer| batch::outcomes(answer, group.len()));
            for ((position, noted), txn) in noted.iter().enumerate().zip(txns()) {
                match done.as_ref().and_then(|done| done.get(position)) {
                    Some(done) if done.succeeded => self.recent.applied(txn, done.revision),
                    Some(_) => noted.forget(&self.echo),
                    None if is_full => noted.forget(&self.echo),
                    None => {}
                }
            }
            if let Some(done) = done {
                return done.into_iter().map(Ok).collect();
            }
            if is_full {
                return vec![Err(StoreError::NoSpace); group.len()];
            }
        }
        // One of them may be what etcd refuses.
        join_all(txns().map(|txn| self.run(txn))).await
    }

    /// Deletes the jobs below a prefix that pass the filter, each with its counter, page by page.
    async fn delete_filtered(
        &self,
        prefix: &Bytes,
        filter: &Filter,
    ) -> Result<Committed, StoreError> {
        let range = KeyRange::prefix(keys::job(prefix));
        let (mut pages, mut after) = (Pages::new(), None);
        let mut done = Committed { succeeded: true, revision: 0, deleted: 0 };
        loop {
            let page = pages.read(&self.client, &range, after).await?;
            done.revision = done.revision.max(pages.revision);
            after = page.entries.last().map(|entry| entry.key.clone());
            let passes = |entry: Entry| {
                let name = keys::job_name(&entry.key)?;
                filter(&name, &entry.record.value).then_some(name)
            };
            let names: Vec<Bytes> = page.entries.into_iter().filter_map(passes).collect();
            for request in requests::delete_named(&names) {
                let answer = self.client.txn(request).await?;
                let part = requests::committed(&answer);
                done = Committed { deleted: done.deleted + part.deleted, ..part };
            }
            if !page.more {
                return Ok(done);
            }
        }
    }
}

impl Store for Etcd {
    fn get(&self, key: Bytes) -> BoxFuture<'_, Result<Option<Record>, StoreError>> {
        async move {
            let answer = self.client.range(requests::one(key.clone())).await?;
            let record = answer.kvs.into_iter().next().map(|pair| entry(pair).record);
            if let Some(record) = &record {
                let at = requests::revision_of(answer.header.as_ref());
                self.recent.insert(&key, record.mod_revision, &record.value, at);
            }
            Ok(record)
        }
        .boxed()
    }

    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(Arc::new(Latest::new(self.client.clone())))
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, StoreError>> {
        async move {
            if let [Op::DeleteJobs { prefix, filter: Some(filter) }] = txn.then.as_slice() {
                return self.delete_filtered(prefix, filter).await;
            }
            self.run(&txn).await
        }
        .boxed()
    }

    fn cached(&self, key: &Bytes, revision: Revision) -> Option<Bytes> {
        self.recent.find(key, revision)
    }

    fn batching(&self) -> Batching {
        Batching { size: batch::MAX_WRITES, calls: MAX_CALLS, interval: INTERVAL }
    }

    fn commit_each(&self, txns: Arc<[Txn]>) -> BoxFuture<'_, Vec<Result<Committed, StoreError>>> {
        async move {
            let groups = batch::groups(&txns);
            let done = join_all(groups.iter().map(|group| self.run_group(&txns, group))).await;
            let positions = groups.into_iter().flatten();
            let mut done: Vec<_> = positions.zip(done.into_iter().flatten()).collect();
            done.sort_unstable_by_key(|(position, _)| *position);
            done.into_iter().map(|(_, outcome)| outcome).collect()
        }
        .boxed()
    }
}

/// A pair of etcd as an entry.
fn entry(pair: KeyValue) -> Entry {
    let number = i64::cast_unsigned;
    let record = Record {
        create_revision: number(pair.create_revision),
        mod_revision: number(pair.mod_revision),
        version: number(pair.version),
        lease: number(pair.lease),
        value: pair.value,
    };
    Entry { key: pair.key, record }
}
