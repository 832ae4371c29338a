//! A client of the etcd API.

use proto::etcd::etcdserverpb::kv_client::KvClient;
use proto::etcd::etcdserverpb::lease_client::LeaseClient;
use proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcd::etcdserverpb::request_op::Request as Op;
use proto::etcd::etcdserverpb::watch_client::WatchClient;
use proto::etcd::etcdserverpb::watch_request::RequestUnion;
use proto::etcd::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseLeasesRequest, PutRequest, RangeRequest,
    RangeResponse, RequestOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest,
    WatchResponse,
};
use proto::etcd::mvccpb::KeyValue;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::client::{LIMIT, Server, names, of_app};

/// All services on one connection.
#[derive(Clone)]
pub(crate) struct Etcd {
    pub(crate) kv: KvClient<Channel>,
    pub(crate) lease: LeaseClient<Channel>,
    pub(crate) maintenance: MaintenanceClient<Channel>,
    pub(crate) watch: WatchClient<Channel>,
    pub(crate) channel: Channel,
}

impl Etcd {
    pub(crate) fn of(server: &Server) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.client_port)).unwrap();
        let channel = endpoint.connect_lazy();
        let kv = KvClient::new(channel.clone());
        Self {
            kv: kv.max_decoding_message_size(usize::MAX).max_encoding_message_size(usize::MAX),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()),
            channel,
        }
    }

    /// Puts a pair; returns the revision.
    pub(crate) async fn put(&mut self, key: &str, value: impl AsRef<[u8]>) -> i64 {
        self.try_put(put(key, value)).await.unwrap()
    }

    pub(crate) async fn try_put(&mut self, request: PutRequest) -> Result<i64, Status> {
        Ok(self.kv.put(request).await?.into_inner().header.unwrap().revision)
    }

    /// Deletes a key; returns the number of deleted keys.
    pub(crate) async fn delete(&mut self, key: &str) -> i64 {
        let request = DeleteRangeRequest { key: key.to_owned().into(), ..Default::default() };
        self.kv.delete_range(request).await.unwrap().into_inner().deleted
    }

    pub(crate) async fn range(&mut self, request: RangeRequest) -> RangeResponse {
        self.kv.range(request).await.unwrap().into_inner()
    }

    pub(crate) async fn get(&mut self, key: &str) -> Option<KeyValue> {
        self.range(range(key, "")).await.kvs.pop()
    }

    pub(crate) async fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, Status> {
        Ok(self.kv.txn(request).await?.into_inner())
    }

    pub(crate) async fn grant(&mut self, ttl: i64) -> i64 {
        let request = LeaseGrantRequest { ttl, id: 0 };
        self.lease.lease_grant(request).await.unwrap().into_inner().id
    }

    pub(crate) async fn leases(&mut self) -> Vec<i64> {
        let answer = self.lease.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner();
        answer.leases.into_iter().map(|lease| lease.id).collect()
    }
}

pub(crate) fn put(key: &str, value: impl AsRef<[u8]>) -> PutRequest {
    let value = value.as_ref().to_vec().into();
    PutRequest { key: key.to_owned().into(), value, ..PutRequest::default() }
}

pub(crate) fn range(key: &str, end: &str) -> RangeRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    RangeRequest { key, range_end, ..RangeRequest::default() }
}

pub(crate) fn op(op: Op) -> RequestOp {
    RequestOp { request: Some(op) }
}

/// A stream of watches.
pub(crate) struct Watch {
    send: mpsc::Sender<WatchRequest>,
    receive: Streaming<WatchResponse>,
}

impl Watch {
    pub(crate) async fn open(etcd: &mut Etcd) -> Self {
        let (send, requests) = mpsc::channel(8_192);
        let receive = etcd.watch.watch(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { send, receive }
    }

    /// A stream with one watch, which is created.
    pub(crate) async fn on(etcd: &mut Etcd, request: WatchCreateRequest) -> Self {
        let mut watch = Self::open(etcd).await;
        watch.send(RequestUnion::CreateRequest(request)).await;
        assert!(watch.next().await.created);
        watch
    }

    pub(crate) async fn send(&self, request: RequestUnion) {
        self.send.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> WatchResponse {
        let next = tokio::time::timeout(LIMIT, self.receive.message()).await;
        next.expect("an answer in time").unwrap().expect("an open stream")
    }
}

pub(crate) fn watch(key: &str, end: &str, start_revision: i64) -> WatchCreateRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    WatchCreateRequest { key, range_end, start_revision, ..WatchCreateRequest::default() }
}

/// A scheduler with a client of its etcd API.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) server: Server,
    pub(crate) etcd: Etcd,
}

impl Fixture {
    pub(crate) async fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), flags, None).await;
        let etcd = Etcd::of(&server);
        Self { dir, server, etcd }
    }

    pub(crate) async fn names(&self) -> Vec<String> {
        names(&self.server, of_app("app")).await
    }
}

/// Code and text of a refusal.
pub(crate) fn refused(answer: Result<impl std::fmt::Debug, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), status.message().to_owned())
}
