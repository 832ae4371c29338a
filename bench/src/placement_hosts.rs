//! Hosts of actors for row `placement-join`: each is one stream on a connection of its own, which
//! acknowledges every order at once and goes round the replicas as official sidecars do.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use bytes::Bytes;
use prost::Message as _;
use proto::placement::{Host, PlacementTables};
use runtime::{clock::monotonic, random};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// Dapr 1.18, `dapr.proto.placement.v1.Placement`.
const METHOD: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";
/// Actor types of each host.
const TYPES: [&str; 3] = ["cat", "dog", "mouse"];
/// How often the hosts are looked at.
const LOOK: Duration = Duration::from_millis(2);
/// A first message and the acknowledgements of a round.
const QUEUE: usize = 8;
/// Tables of thousands of hosts are beyond gRPC's default of 4 MiB.
const LARGEST: usize = 64 << 20;
/// Pause after a failed dial: 500 ms, half of it more or less. Source: Dapr 1.18, sidecar.
const REDIAL: Duration = Duration::from_millis(500);

/// An order of which only the head is decoded: the load must not cost more than the server.
#[derive(Clone, PartialEq, prost::Message)]
struct Order {
    #[prost(bytes = "bytes", tag = "1")]
    tables: Bytes,
    #[prost(string, tag = "2")]
    operation: String,
    #[prost(uint64, tag = "3")]
    version: u64,
}

/// What one host saw.
#[derive(Debug, Default)]
struct Seen {
    locked: Option<Instant>,
    longest_lock: Duration,
    table: Bytes,
    /// Tables so far.
    tables: u64,
    /// The version that was unlocked last, and when.
    unlocked: Option<(u64, Instant)>,
}

#[derive(Debug)]
struct Member {
    seen: Arc<Mutex<Seen>>,
    task: AbortHandle,
}

/// A crowd of hosts in one namespace.
#[derive(Debug)]
pub struct Hosts {
    addresses: Arc<[String]>,
    members: Vec<Member>,
    tasks: JoinSet<()>,
    /// Numbers of hosts are not used again.
    named: usize,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    bytes: AtomicU64,
    lost: AtomicU64,
}

/// A table that every host holds.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    /// When the last host was told to use it.
    pub at: Instant,
}

impl Hosts {
    /// None yet, for replicas at these addresses.
    pub fn new(addresses: Vec<String>) -> Self {
        let counters = Arc::default();
        let (members, tasks) = (Vec::new(), JoinSet::new());
        Self { addresses: addresses.into(), members, tasks, named: 0, counters }
    }

    /// `count` more hosts, evenly over `time`.
    pub async fn join(&mut self, count: usize, time: Duration) {
        let begin = monotonic();
        for i in 0..u32::try_from(count).unwrap_or(u32::MAX) {
            let due = begin + time * i / u32::try_from(count).unwrap_or(u32::MAX);
            tokio::time::sleep_until(due.into()).await;
            let seen = Arc::<Mutex<Seen>>::default();
            let host = Sidecar {
                name: format!("10.{}.{}.1:50002", self.named / 250, self.named % 250),
                addresses: self.addresses.clone(),
                seen: seen.clone(),
                counters: self.counters.clone(),
            };
            let task = self.tasks.spawn(host.live(self.named));
            self.named += 1;
            self.members.push(Member { seen, task });
        }
    }

    /// The host that joined first is gone, without a word.
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
            if let Some(agreed) = self.look(since) {
                return Ok(agreed);
            }
            if begin.elapsed() > limit {
                bail!("{} hosts have no common table after {limit:?}", self.members.len());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn look(&self, since: Instant) -> Option<Agreed> {
        let mut agreed: Option<(u64, Instant)> = None;
        for member in &self.members {
            let (version, at) = lock(&member.seen).unlocked.filter(|(_, at)| *at >= since)?;
            let all = agreed.get_or_insert((version, at));
            if all.0 != version {
                return None;
            }
            all.1 = all.1.max(at);
        }
        let table = lock(&self.members.first()?.seen).table.clone();
        let tables = PlacementTables::decode(table).ok()?;
        let complete = TYPES.iter().all(|entity| {
            tables.entries.get(*entity).is_some_and(|t| t.load_map.len() == self.members.len())
        });
        agreed.filter(|_| complete).map(|(_, at)| Agreed { at })
    }

    /// Bytes of messages received by all hosts so far.
    pub fn bytes(&self) -> u64 {
        self.counters.bytes.load(Ordering::Relaxed)
    }

    /// Streams that were ended by the server so far.
    pub fn lost(&self) -> u64 {
        self.counters.lost.load(Ordering::Relaxed)
    }

    /// Rounds so far, as the host saw them that was there longest.
    pub fn rounds(&self) -> u64 {
        self.members.iter().map(|m| lock(&m.seen).tables).max().unwrap_or_default()
    }

    /// The longest time from a lock to its unlock.
    pub fn longest_lock(&self) -> Duration {
        self.members.iter().map(|m| lock(&m.seen).longest_lock).max().unwrap_or_default()
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

type Stream = (Streaming<Order>, mpsc::Sender<Host>);

struct Sidecar {
    name: String,
    addresses: Arc<[String]>,
    seen: Arc<Mutex<Seen>>,
    counters: Arc<Counters>,
}

impl Sidecar {
    /// One stream after the other, each at the next replica.
    async fn live(self, first: usize) {
        let mut attempt = if self.addresses.len() > 1 { first } else { 0 };
        loop {
            let Some(address) = self.addresses.get(attempt % self.addresses.len()) else { return };
            attempt += 1;
            match self.open(address).await {
                Ok(Some((orders, acknowledge))) => {
                    self.obey(orders, acknowledge).await;
                    self.counters.lost.fetch_add(1, Ordering::Relaxed);
                }
                Ok(None) => {} // the next replica is asked without a pause
                Err(_) => tokio::time::sleep(random::jittered(REDIAL, 0.5)).await,
            }
        }
    }

    /// A stream, or `None` if the replica refuses it.
    async fn open(&self, address: &str) -> Result<Option<Stream>> {
        let channel: Channel =
            Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
        let (send, receive) = mpsc::channel(QUEUE);
        let mut report = self.message(1, None);
        report.name.clone_from(&self.name);
        report.entities = TYPES.map(ToOwned::to_owned).to_vec();
        report.api_level = 20;
        send.send(report).await?;
        let mut client = Grpc::new(channel).max_decoding_message_size(LARGEST);
        client.ready().await?;
        let codec = ProstCodec::<Host, Order>::default();
        let request = Request::new(ReceiverStream::new(receive));
        let answer = client.streaming(request, PathAndQuery::from_static(METHOD), codec).await;
        Ok(answer.ok().map(|answer| (answer.into_inner(), send)))
    }

    fn message(&self, operation: i32, version: Option<u64>) -> Host {
        let (id, namespace) = (self.name.clone(), "bench".to_owned());
        Host { id, namespace, operation, version, ..Host::default() }
    }

    /// Reads orders to the end of the stream.
    async fn obey(&self, mut orders: Streaming<Order>, acknowledge: mpsc::Sender<Host>) {
        while let Ok(Some(order)) = orders.message().await {
            let length = u64::try_from(order.encoded_len()).unwrap_or(u64::MAX);
            self.counters.bytes.fetch_add(length, Ordering::Relaxed);
            let operation = self.note(&order);
            if acknowledge.send(self.message(operation, Some(order.version))).await.is_err() {
                return;
            }
        }
    }

    /// The operation that acknowledges the order.
    fn note(&self, order: &Order) -> i32 {
        let now = monotonic();
        let mut seen = lock(&self.seen);
        match order.operation.as_str() {
            "lock" => {
                seen.locked.get_or_insert(now);
                2
            }
            "update" => {
                seen.table = order.tables.clone();
                seen.tables += 1;
                3
            }
            _ => {
                if let Some(since) = seen.locked.take() {
                    seen.longest_lock = seen.longest_lock.max(now.saturating_duration_since(since));
                }
                seen.unlocked = Some((order.version, now));
                4
            }
        }
    }
}
