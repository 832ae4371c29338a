//! Hosts of actors for row `placement-join`: each is one stream on a connection of its own, which
//! acknowledges every order at once and tries the replicas in turn, as official sidecars do.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use proto::placement::Host;
use runtime::clock::monotonic;
use runtime::random;
use tokio::task::{AbortHandle, JoinSet};

use crate::clients::order_stream::{Order, OrderStream, RawTable};

/// Actor types of each host.
const TYPES: [&str; 3] = ["cat", "dog", "mouse"];
/// The hosts are replicas of one app, as hosts of the same types are.
const APP_ID: &str = "zoo";
/// Interval between polls of the hosts.
const POLL: Duration = Duration::from_millis(2);
/// Pause after a failed dial: 500 ms, half of it more or less. Source: Dapr 1.18, sidecar.
const REDIAL: Duration = Duration::from_millis(500);

/// Observations of one host.
#[derive(Debug, Default)]
struct Observations {
    locked: Option<Instant>,
    longest_lock: Duration,
    /// The last locked version.
    version: u64,
    /// Number of tables so far.
    tables: u64,
    /// The last unlocked version, and when.
    unlocked: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Member {
    seen: Arc<Mutex<Observations>>,
    task: AbortHandle,
}

/// Hosts in one namespace.
#[derive(Debug)]
pub struct Hosts {
    addresses: Arc<[String]>,
    namespace: Arc<str>,
    source: Option<Ipv4Addr>,
    members: Vec<Member>,
    tasks: JoinSet<()>,
    /// Numbers of hosts are not reused.
    named: usize,
    shared: Arc<Shared>,
}

/// State shared by all hosts.
#[derive(Debug, Default)]
struct Shared {
    bytes: Arc<AtomicU64>,
    lost: AtomicU64,
    /// The first lock after [`Hosts::await_lock`].
    locked: Mutex<Option<Instant>>,
    /// The first table that came of the version that came last; one for all, because thousands of
    /// copies of a large one fill a machine.
    table: Mutex<(u64, RawTable)>,
}

/// A table that every host has.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    /// When the last host was told to use it.
    pub at: Instant,
}

impl Hosts {
    /// No hosts yet, for replicas at these addresses.
    pub fn new(addresses: Vec<String>) -> Self {
        let (members, tasks, shared) = (Vec::new(), JoinSet::new(), Arc::default());
        let (addresses, namespace) = (addresses.into(), "bench".into());
        Self { addresses, namespace, source: None, members, tasks, named: 0, shared }
    }

    /// The same in another namespace, connecting from another address of this machine: one address
    /// may open 5,120 connections.
    #[must_use]
    pub fn of(self, namespace: &str, source: Ipv4Addr) -> Self {
        Self { namespace: namespace.into(), source: Some(source), ..self }
    }

    /// Adds `count` hosts, evenly over `time`.
    pub async fn join(&mut self, count: usize, time: Duration) {
        let begin = monotonic();
        for i in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            let due = begin + time * i / u32::try_from(count).unwrap_or(u32::MAX);
            tokio::time::sleep_until(due.into()).await;
            let seen = Arc::<Mutex<Observations>>::default();
            let host = Sidecar {
                name: format!("10.{}.{}.1:50002", self.named / 250, self.named % 250),
                addresses: self.addresses.clone(),
                namespace: self.namespace.clone(),
                source: self.source,
                seen: seen.clone(),
                shared: self.shared.clone(),
            };
            let task = self.tasks.spawn(host.live(self.named));
            self.named += 1;
            self.members.push(Member { seen, task });
        }
    }

    /// Removes the host that joined first: closes its connection.
    pub fn leave(&mut self) {
        if !self.members.is_empty() {
            self.members.remove(0).task.abort();
        }
    }

    /// Waits until every host was told, after `since`, to use one table with all of them.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn agreed(&self, since: Instant, limit: Duration) -> Result<Agreed> {
        let begin = monotonic();
        loop {
            if let Some(agreed) = self.find_agreed(since) {
                return Ok(agreed);
            }
            if begin.elapsed() > limit {
                bail!("{} hosts have no common table after {limit:?}", self.members.len());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn find_agreed(&self, since: Instant) -> Option<Agreed> {
        let mut agreed: Option<(u64, Instant)> = None;
        for member in &self.members {
            let (version, at) = lock(&member.seen).unlocked.filter(|(_, at)| *at >= since)?;
            let all = agreed.get_or_insert((version, at));
            if all.0 != version {
                return None;
            }
            all.1 = all.1.max(at);
        }
        let (version, table) = lock(&self.shared.table).clone();
        agreed = agreed.filter(|(agreed, _)| *agreed == version);
        agreed?;
        let tables = table.decode().ok()?;
        let complete = TYPES.iter().all(|entity| {
            tables.entries.get(*entity).is_some_and(|t| t.load_map.len() == self.members.len())
        });
        agreed.filter(|_| complete).map(|(_, at)| Agreed { at })
    }

    /// Records the next lock of any host from now on.
    pub fn await_lock(&self) {
        *lock(&self.shared.locked) = None;
    }

    /// The first lock of any host after [`Self::await_lock`].
    pub fn first_lock(&self) -> Option<Instant> {
        *lock(&self.shared.locked)
    }

    /// Bytes received by all hosts so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Streams that the server ended so far.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Rounds so far, as seen by the oldest host.
    pub fn rounds(&self) -> u64 {
        self.members.iter().map(|m| lock(&m.seen).tables).max().unwrap_or_default()
    }

    /// The longest time from a lock to its unlock.
    pub fn longest_lock(&self) -> Duration {
        self.members.iter().map(|m| lock(&m.seen).longest_lock).max().unwrap_or_default()
    }
}

fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Sidecar {
    name: String,
    addresses: Arc<[String]>,
    namespace: Arc<str>,
    source: Option<Ipv4Addr>,
    seen: Arc<Mutex<Observations>>,
    shared: Arc<Shared>,
}

impl Sidecar {
    /// One stream after the other, each at the next replica.
    async fn live(self, first: usize) {
        let mut attempt = if self.addresses.len() > 1 { first } else { 0 };
        loop {
            let Some(address) = self.addresses.get(attempt % self.addresses.len()) else { return };
            attempt += 1;
            let received = self.shared.bytes.clone();
            match OrderStream::open(address, self.source, self.report(), received).await {
                Ok(Some(orders)) => {
                    self.handle_orders(orders).await;
                    self.shared.lost.fetch_add(1, Ordering::Relaxed);
                }
                Ok(None) => {} // the next replica is asked without a pause
                Err(_) => tokio::time::sleep(random::jittered(REDIAL, 0.5)).await,
            }
        }
    }

    fn report(&self) -> Host {
        let name = self.name.clone();
        let entities = TYPES.map(ToOwned::to_owned).to_vec();
        Host { name, entities, api_level: 20, ..self.message(1, None) }
    }

    fn message(&self, operation: i32, version: Option<u64>) -> Host {
        let (id, namespace) = (APP_ID.to_owned(), self.namespace.to_string());
        Host { id, namespace, operation, version, ..Host::default() }
    }

    /// Reads orders to the end of the stream.
    async fn handle_orders(&self, mut orders: OrderStream) {
        while let Some(order) = orders.next().await {
            if !orders.send(self.note(order)).await {
                return;
            }
        }
    }

    /// The message that acknowledges the order.
    fn note(&self, order: Order) -> Host {
        let now = monotonic();
        let mut seen = lock(&self.seen);
        let operation = match order {
            Order::Lock(version) => {
                seen.locked.get_or_insert(now);
                lock(&self.shared.locked).get_or_insert(now);
                seen.version = version;
                2
            }
            Order::Update(table) => {
                seen.tables += 1;
                let mut newest = lock(&self.shared.table);
                if newest.0 != seen.version {
                    *newest = (seen.version, table);
                }
                3
            }
            Order::Unlock => {
                if let Some(since) = seen.locked.take() {
                    seen.longest_lock = seen.longest_lock.max(now.saturating_duration_since(since));
                }
                seen.unlocked = Some((seen.version, now));
                4
            }
        };
        self.message(operation, Some(seen.version))
    }
}
