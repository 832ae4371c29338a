//! Calls to the scheduler's client port, which speaks etcd v3 in plain text (Dapr 1.18): an etcd or
//! the embedded store of Trilby.

use std::time::Duration;

use proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcd::etcdserverpb::kv_client::KvClient;
use proto::etcd::etcdserverpb::request_op::Request as Op;
use proto::etcd::etcdserverpb::response_op::Response as Answer;
use proto::etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse,
};
use proto::etcd::mvccpb::KeyValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{COUNTERS, JOBS, JobsError};

/// Time limit of a connection attempt.
const CONNECT: Duration = Duration::from_secs(10);
/// Time limit of a call.
const CALL: Duration = Duration::from_mins(1);
/// Pairs in one answer.
const PAGE: i64 = 100;
/// Upper limit of one answer: a page of the largest payloads that sidecars send, 4 MiB.
const MAX_ANSWER_BYTES: usize = 512 << 20;
/// Attempts of a read whose revision is compacted meanwhile.
const ATTEMPTS: usize = 5;
/// First key behind jobs. Counters come before jobs, and no other key is between.
const BEHIND_JOBS: &[u8] = b"dapr/jobs0";

/// A connection.
#[derive(Clone)]
pub(super) struct Client {
    kv: KvClient<Channel>,
}

/// The outcome of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Put {
    /// It was put; its value was read back in the same transaction.
    Done(KeyValue),
    /// The key is there, with this value.
    Exists(KeyValue),
}

/// The endpoint of a scheduler, for [`Client::new`].
pub(super) fn endpoint(address: &str) -> Result<Endpoint, JobsError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|_| JobsError::Address(address.to_owned()))?;
    Ok(endpoint.connect_timeout(CONNECT).timeout(CALL))
}

impl Client {
    pub(super) fn new(channel: Channel) -> Self {
        let kv = KvClient::new(channel);
        Self { kv: kv.max_decoding_message_size(MAX_ANSWER_BYTES) }
    }

    /// Reads jobs and counters at one revision, reduced by `keep`. At most `max` are kept.
    pub(super) async fn snapshot<T>(
        &mut self,
        max: usize,
        keep: impl Fn(KeyValue) -> Option<T>,
    ) -> Result<Vec<T>, JobsError> {
        for _ in 1..ATTEMPTS {
            match self.read_all(max, &keep).await {
                Err(JobsError::Call(status)) if status.code() == Code::OutOfRange => {}
                other => return other,
            }
        }
        self.read_all(max, &keep).await
    }

    async fn read_all<T>(
        &mut self,
        max: usize,
        keep: impl Fn(KeyValue) -> Option<T>,
    ) -> Result<Vec<T>, JobsError> {
        let mut kept = Vec::new();
        let (mut from, mut revision) = (COUNTERS.to_vec(), 0);
        loop {
            let page = RangeRequest {
                key: from.clone().into(),
                range_end: BEHIND_JOBS.into(),
                limit: PAGE,
                revision,
                ..RangeRequest::default()
            };
            let page = self.kv.range(page).await?.into_inner();
            if revision == 0 {
                revision = page.header.map_or(0, |header| header.revision);
            }
            if let Some(last) = page.kvs.last() {
                from = [&last.key[..], &[0]].concat();
            }
            let ours = page
                .kvs
                .into_iter()
                .filter(|pair| pair.key.starts_with(JOBS) || pair.key.starts_with(COUNTERS));
            kept.extend(ours.filter_map(&keep));
            if kept.len() > max {
                return Err(JobsError::TooMany(max));
            }
            if !page.more {
                return Ok(kept);
            }
        }
    }

    /// A job and its counter.
    pub(super) async fn get(
        &mut self,
        key: &str,
    ) -> Result<Option<(KeyValue, Option<KeyValue>)>, JobsError> {
        let [job, counter] = both(key).map(|key| Op::RequestRange(one(&key)));
        let answer =
            self.txn(TxnRequest { success: ops([job, counter]), ..Default::default() }).await?;
        let mut found = answer.responses.into_iter().map(|answer| match answer.response {
            Some(Answer::ResponseRange(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let (job, counter) = (found.next().flatten(), found.next().flatten());
        Ok(job.map(|job| (job, counter)))
    }

    /// Deletes a job and its counter; returns whether it existed.
    pub(super) async fn delete(&mut self, key: &str) -> Result<bool, JobsError> {
        let deletes = both(key).map(|key| {
            Op::RequestDeleteRange(DeleteRangeRequest { key: key.into(), ..Default::default() })
        });
        let answer = self.txn(TxnRequest { success: ops(deletes), ..Default::default() }).await?;
        let first = answer.responses.into_iter().next().and_then(|answer| answer.response);
        Ok(matches!(first, Some(Answer::ResponseDeleteRange(done)) if done.deleted > 0))
    }

    /// Puts one pair and reads it back in the same transaction. One put for each request: Dapr's
    /// scheduler runs one job of a revision (1.18).
    pub(super) async fn put(&mut self, pair: &KeyValue, overwrite: bool) -> Result<Put, JobsError> {
        let absent = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Create.into(),
            key: pair.key.clone(),
            target_union: Some(TargetUnion::CreateRevision(0)),
            ..Compare::default()
        };
        let put = PutRequest {
            key: pair.key.clone(),
            value: pair.value.clone(),
            ..PutRequest::default()
        };
        let read = || Op::RequestRange(one(&pair.key));
        let request = TxnRequest {
            compare: if overwrite { Vec::new() } else { vec![absent] },
            success: ops([Op::RequestPut(put), read()]),
            failure: ops([read()]),
        };
        let answer = self.txn(request).await?;
        let last = answer.responses.into_iter().next_back().and_then(|answer| answer.response);
        let Some(Answer::ResponseRange(range)) = last else {
            return Err(JobsError::Call(Status::internal("the answer has no pair")));
        };
        let stored = range.kvs.into_iter().next().unwrap_or_default();
        Ok(if answer.succeeded { Put::Done(stored) } else { Put::Exists(stored) })
    }

    /// Number of the store, the same after restarts.
    pub(super) async fn store_id(&mut self) -> Result<u64, JobsError> {
        let request = RangeRequest { count_only: true, ..one(JOBS) };
        let answer = self.kv.range(request).await?.into_inner();
        Ok(answer.header.map_or(0, |header| header.cluster_id))
    }

    async fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, JobsError> {
        Ok(self.kv.txn(request).await?.into_inner())
    }
}

/// Keys of a job and of its counter.
fn both(key: &str) -> [Vec<u8>; 2] {
    [JOBS, COUNTERS].map(|prefix| [prefix, key.as_bytes()].concat())
}

fn one(key: &[u8]) -> RangeRequest {
    RangeRequest { key: key.to_vec().into(), ..RangeRequest::default() }
}

fn ops<const N: usize>(requests: [Op; N]) -> Vec<RequestOp> {
    requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect()
}
