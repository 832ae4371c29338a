//! Answers of the store as messages.

use proto::etcd::etcdserverpb::response_op::Response as One;
use proto::etcd::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeResponse, ResponseHeader, ResponseOp, TxnResponse,
};
use proto::etcd::mvccpb::KeyValue;

use crate::store::kv::Answer;
use crate::store::query::Selected;
use crate::store::{Entry, Record};

/// A number of the store as the API has it.
pub(super) fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A pair.
pub(super) fn key_value(entry: Entry) -> KeyValue {
    let Entry { key, record } = entry;
    let Record { create_revision, mod_revision, version, lease, value } = record;
    KeyValue {
        key,
        create_revision: number(create_revision),
        mod_revision: number(mod_revision),
        version: number(version),
        value,
        lease: lease.cast_signed(),
    }
}

pub(super) fn range(header: Option<ResponseHeader>, found: Selected) -> RangeResponse {
    RangeResponse {
        header,
        kvs: found.entries.into_iter().map(key_value).collect(),
        more: found.more,
        count: number(found.count),
    }
}

pub(super) fn put(header: Option<ResponseHeader>, previous: Option<Entry>) -> PutResponse {
    PutResponse { header, prev_kv: previous.map(key_value) }
}

pub(super) fn delete(
    header: Option<ResponseHeader>,
    deleted: u64,
    previous: Vec<Entry>,
) -> DeleteRangeResponse {
    let prev_kvs = previous.into_iter().map(key_value).collect();
    DeleteRangeResponse { header, deleted: number(deleted), prev_kvs }
}

/// The answers of a branch, each with the header of the transaction.
pub(super) fn txn(
    header: Option<ResponseHeader>,
    succeeded: bool,
    answers: Vec<Answer>,
) -> TxnResponse {
    let one = |answer| {
        let response = match answer {
            Answer::Range(found) => One::ResponseRange(range(header, found)),
            Answer::Put { previous } => One::ResponsePut(put(header, previous)),
            Answer::Delete { deleted, previous } => {
                One::ResponseDeleteRange(delete(header, deleted, previous))
            }
            Answer::Nested { succeeded, answers } => {
                One::ResponseTxn(txn(header, succeeded, answers))
            }
        };
        ResponseOp { response: Some(response) }
    };
    TxnResponse { header, succeeded, responses: answers.into_iter().map(one).collect() }
}
