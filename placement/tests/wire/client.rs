//! Sidecars over the wire, as far as the tests need them.
#![allow(dead_code, reason = "every test binary uses only a part of it")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use placement::{Config, Flags};
use proto::placement::placement_client::PlacementClient;
use proto::placement::{Host, PlacementOrder};
use runtime::Scope;
use testkit::ca::{Ca, TestSvid};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use transport::Svid;
use transport::svid::CertifiedSvid;

pub(crate) const REPORT: i32 = 1;
pub(crate) const LOCK: i32 = 2;
pub(crate) const UPDATE: i32 = 3;
pub(crate) const UNLOCK: i32 = 4;

/// Longer than any step takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The identity of a process with this certificate, whose peers are of the same CA.
pub(crate) fn svid(ca: &Ca, own: &TestSvid) -> Svid {
    let certified = CertifiedSvid::new(own.chain.clone(), &own.key).unwrap();
    Svid::fixed(certified, watch::channel(Arc::new(ca.anchors())).1)
}

/// A placement service in this process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) scope: Scope,
}

impl Server {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, None).await
    }

    pub(crate) async fn start_with(flags: &[&str], svid: Option<&Svid>) -> Self {
        let scope = Scope::for_test();
        let address = placement::serve(&config(flags), svid, &scope).await.unwrap();
        Self { address, scope }
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    /// A sidecar with its own connection, as official ones have.
    pub(crate) async fn join(&self, name: &str, types: &[&str]) -> Result<Sidecar, Status> {
        Sidecar::open(self.channel(), host(name, "ns", types)).await
    }

    /// The value of a gauge or counter, 0 if it is missing.
    #[expect(clippy::cast_possible_truncation, reason = "counts are small")]
    pub(crate) fn metric(&self, name: &str) -> i64 {
        let families = self.scope.metrics().gather();
        let family = families.iter().find(|f| f.name() == name);
        let value =
            |m: &prometheus::proto::Metric| m.get_gauge().get_value() + m.get_counter().get_value();
        family.map_or(0.0, |f| f.get_metric().iter().map(value).sum()) as i64
    }
}

pub(crate) fn config(flags: &[&str]) -> Config {
    let fixed = ["placement", "--listen-address=127.0.0.1", "--port=0"];
    let alone = ["--initial-cluster=dapr-placement-0=127.0.0.1:0"];
    let clustered = flags.iter().any(|flag| flag.starts_with("--initial-cluster"));
    let alone = alone.iter().filter(|_| !clustered);
    let args = fixed.iter().chain(alone).chain(flags);
    <Flags as clap::Parser>::try_parse_from(args).unwrap().into_config().unwrap()
}

pub(crate) fn host(name: &str, namespace: &str, types: &[&str]) -> Host {
    Host {
        name: name.to_owned(),
        id: name.to_owned(),
        namespace: namespace.to_owned(),
        entities: types.iter().map(ToString::to_string).collect(),
        api_level: 20,
        operation: REPORT,
        ..Host::default()
    }
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) host: Host,
    pub(crate) send: mpsc::Sender<Host>,
    pub(crate) orders: Streaming<PlacementOrder>,
    /// From the newest table.
    pub(crate) version: u64,
}

impl Sidecar {
    pub(crate) async fn open(channel: Channel, host: Host) -> Result<Self, Status> {
        let (send, receive) = mpsc::channel(16);
        send.send(host.clone()).await.unwrap();
        let mut client = PlacementClient::new(channel);
        let orders = client.report_dapr_status(ReceiverStream::new(receive)).await?.into_inner();
        Ok(Self { host, send, orders, version: 0 })
    }

    /// The next order as `lock1`, `update1{a:A,B}`, `unlock1`; or how the stream ended.
    pub(crate) async fn next(&mut self) -> Result<Option<String>, Status> {
        let next = tokio::time::timeout(LIMIT, self.orders.message());
        Ok(next.await.expect("an order or an end in time")?.map(|order| shown(&order)))
    }

    pub(crate) async fn expect(&mut self, want: &str) {
        assert_eq!(self.next().await.unwrap().as_deref(), Some(want), "{}", self.host.name);
    }

    /// Expects an order and acknowledges it.
    pub(crate) async fn take(&mut self, want: &str) {
        self.expect(want).await;
        let operation = match want.trim_end_matches(|c: char| c != '{' && !c.is_alphabetic()) {
            w if w.starts_with("lock") => LOCK,
            w if w.starts_with("update") => UPDATE,
            _ => UNLOCK,
        };
        let digits: String = want
            .chars()
            .skip_while(|c| c.is_alphabetic())
            .take_while(char::is_ascii_digit)
            .collect();
        self.ack(operation, digits.parse().unwrap()).await;
    }

    pub(crate) async fn ack(&mut self, operation: i32, version: u64) {
        let (id, namespace) = (self.host.id.clone(), self.host.namespace.clone());
        let version = Some(version);
        self.send(Host { id, namespace, operation, version, ..Host::default() }).await;
    }

    pub(crate) async fn send(&mut self, message: Host) {
        self.send.send(message).await.unwrap();
    }

    /// Reads and acknowledges until the table has these hosts for the type and is unlocked; returns
    /// the number of rounds.
    pub(crate) async fn until_table(&mut self, entity: &str, count: usize) -> usize {
        self.try_table(entity, count).await.expect("no end")
    }

    /// As [`Self::until_table`], for streams whose leader may change.
    pub(crate) async fn try_table(&mut self, entity: &str, count: usize) -> Result<usize, Status> {
        let (mut rounds, mut complete) = (0, false);
        loop {
            let order = tokio::time::timeout(LIMIT, self.orders.message()).await.unwrap();
            let order = order?.ok_or_else(|| Status::ok("ended"))?;
            let operation = match order.operation.as_str() {
                "lock" => LOCK,
                "update" => {
                    rounds += 1;
                    self.version = order.version;
                    let tables = order.tables.as_ref().unwrap();
                    let hosts = tables.entries.get(entity).map_or(0, |t| t.load_map.len());
                    complete = hosts == count;
                    UPDATE
                }
                _ => UNLOCK,
            };
            self.ack(operation, order.version).await;
            if complete && operation == UNLOCK {
                return Ok(rounds);
            }
        }
    }

    /// The status at the end of the stream, after any remaining orders.
    pub(crate) async fn end(&mut self) -> (Code, String) {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => return (Code::Ok, String::new()),
                Err(status) => return (status.code(), status.message().to_owned()),
            }
        }
    }
}

fn shown(order: &PlacementOrder) -> String {
    let head = format!("{}{}", order.operation, order.version);
    let Some(tables) = &order.tables else { return head };
    assert_eq!(tables.version, order.version.to_string());
    let mut types: Vec<String> = tables
        .entries
        .iter()
        .map(|(entity, table)| {
            let mut hosts: Vec<&str> = table.load_map.keys().map(String::as_str).collect();
            hosts.sort_unstable();
            format!("{entity}:{}", hosts.join(","))
        })
        .collect();
    types.sort_unstable();
    format!("{head}{{{}}}", types.join(" "))
}
