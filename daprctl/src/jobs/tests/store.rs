//! A store in memory behind a client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use proto::etcd::etcdserverpb::kv_server::{Kv, KvServer};
use proto::etcd::etcdserverpb::request_op::Request as Op;
use proto::etcd::etcdserverpb::response_op::Response as Answer;
use proto::etcd::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, ResponseOp, TxnRequest, TxnResponse,
};
use proto::etcd::mvccpb::KeyValue;
use tokio::io::DuplexStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::super::client::{Client, endpoint};

/// Bytes on their way in one direction.
const BUFFER_BYTES: usize = 64 << 10;

/// The pairs, and a key whose value is damaged when it is put.
#[derive(Clone, Default)]
pub(super) struct Store {
    pairs: Arc<Mutex<BTreeMap<Bytes, Bytes>>>,
    damaged: Option<&'static str>,
}

impl Store {
    /// A store that damages the value of this key.
    pub(super) fn that_damages(key: &'static str) -> Self {
        Self { damaged: Some(key), ..Self::default() }
    }

    /// The keys of all pairs.
    pub(super) fn keys(&self) -> Vec<String> {
        let pairs = self.pairs.lock().unwrap();
        pairs.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[expect(clippy::disallowed_methods, reason = "the runtime of the test ends the server")]
    pub(super) async fn client(&self) -> Client {
        let (here, there) = tokio::io::duplex(BUFFER_BYTES);
        let incoming = futures::stream::iter([Ok::<DuplexStream, std::io::Error>(there)]);
        let server = Server::builder().add_service(KvServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
        let mut here = Some(here);
        let connector = tower::service_fn(move |_| {
            let stream = here.take().ok_or("one connection").map(hyper_util::rt::TokioIo::new);
            std::future::ready(stream)
        });
        let endpoint = endpoint("store").unwrap();
        Client::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    fn run(&self, op: Op) -> Answer {
        let mut pairs = self.pairs.lock().unwrap();
        match op {
            Op::RequestRange(range) => {
                let value = pairs.get(&range.key).cloned();
                let pair = |value| KeyValue { key: range.key, value, ..KeyValue::default() };
                let kvs = value.map(pair).into_iter().collect();
                Answer::ResponseRange(RangeResponse { kvs, ..RangeResponse::default() })
            }
            Op::RequestPut(put) => {
                let damaged = self.damaged.is_some_and(|key| put.key == key);
                pairs.insert(put.key, if damaged { Bytes::new() } else { put.value });
                Answer::ResponsePut(PutResponse::default())
            }
            Op::RequestDeleteRange(delete) => {
                let deleted = i64::from(pairs.remove(&delete.key).is_some());
                let answer = DeleteRangeResponse { deleted, ..DeleteRangeResponse::default() };
                Answer::ResponseDeleteRange(answer)
            }
            Op::RequestTxn(_) => unreachable!("the client nests no transactions"),
        }
    }
}

#[tonic::async_trait]
impl Kv for Store {
    /// An answer without pairs, as the client reads the number of the store.
    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        Ok(Response::new(RangeResponse::default()))
    }

    /// Compares whether keys are absent, and nothing else.
    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let TxnRequest { compare, success, failure } = request.into_inner();
        let is_absent = |key| !self.pairs.lock().unwrap().contains_key(key);
        let succeeded = compare.iter().all(|compare| is_absent(&compare.key));
        let ops = if succeeded { success } else { failure };
        let answers = ops.into_iter().filter_map(|op| op.request).map(|op| self.run(op));
        let responses = answers.map(|answer| ResponseOp { response: Some(answer) }).collect();
        Ok(Response::new(TxnResponse { succeeded, responses, ..TxnResponse::default() }))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Err(Status::unimplemented("the client puts in transactions"))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("the client deletes in transactions"))
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        Err(Status::unimplemented("the client does not compact"))
    }
}
