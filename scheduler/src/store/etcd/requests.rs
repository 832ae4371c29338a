//! Transactions of the store as requests of etcd. Pure.

use bytes::Bytes;
use proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcd::etcdserverpb::request_op::Request;
use proto::etcd::etcdserverpb::response_op::Response;
use proto::etcd::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, ResponseHeader, TxnRequest,
    TxnResponse,
};

use crate::store::range::KeyRange;
use crate::store::{Committed, Condition, Op, Revision, Txn, keys};

/// Operations of one transaction. The default limit of etcd is 128.
pub(crate) const MAX_OPS: usize = 120;

/// A transaction. What [`Op::DeleteJobs`] filters is not part of it.
pub(super) fn txn(txn: &Txn) -> TxnRequest {
    TxnRequest {
        compare: txn.conditions.iter().map(compare).collect(),
        success: txn.then.iter().flat_map(operations).collect(),
        failure: txn.otherwise.iter().flat_map(operations).collect(),
    }
}

/// A condition of a transaction in etcd's terms.
pub(super) fn compare(condition: &Condition) -> Compare {
    let (key, target, union) = match condition {
        Condition::Absent(key) => (key, CompareTarget::Create, TargetUnion::CreateRevision(0)),
        Condition::Unchanged { key, mod_revision } => {
            (key, CompareTarget::Mod, TargetUnion::ModRevision(number(*mod_revision)))
        }
    };
    Compare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(union),
    }
}

fn operations(op: &Op) -> Vec<RequestOp> {
    match op {
        Op::Put { key, value } => vec![put(key.clone(), value.clone(), 0)],
        Op::Delete { key } => vec![delete(KeyRange::One(key.clone()))],
        Op::DeleteJobs { prefix, .. } => [keys::job(prefix), keys::counter(prefix)]
            .map(|prefix| delete(KeyRange::prefix(prefix)))
            .into(),
    }
}

/// A put, below a lease unless that is 0.
pub(super) fn put(key: Bytes, value: Bytes, lease: i64) -> RequestOp {
    let put = PutRequest { key, value, lease, ..PutRequest::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}

/// A deletion.
pub(super) fn delete(range: KeyRange) -> RequestOp {
    let (key, range_end) = bounds(range);
    let delete = DeleteRangeRequest { key, range_end, prev_kv: false };
    RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
}

/// Deletes jobs by composed name, with their counters, in one or more transactions.
pub(super) fn delete_named(names: &[Bytes]) -> impl Iterator<Item = TxnRequest> {
    let both = |name: &Bytes| [keys::job(name), keys::counter(name)];
    names.chunks(MAX_OPS / 2).map(move |names| {
        let success = names.iter().flat_map(both).map(|key| delete(KeyRange::One(key))).collect();
        TxnRequest { success, ..TxnRequest::default() }
    })
}

/// A read as part of a transaction.
pub(super) fn read(range: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(range)) }
}

/// One key.
pub(super) fn one(key: Bytes) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

/// All keys that begin with these bytes.
pub(super) fn prefix(prefix: &[u8]) -> RangeRequest {
    let (key, range_end) = bounds(KeyRange::prefix(Bytes::copy_from_slice(prefix)));
    RangeRequest { key, range_end, ..RangeRequest::default() }
}

/// `key` and `range_end` of a range.
pub(super) fn bounds(range: KeyRange) -> (Bytes, Bytes) {
    match range {
        KeyRange::One(key) => (key, Bytes::new()),
        KeyRange::From(key) => (key, Bytes::from_static(b"\0")),
        KeyRange::Between(key, end) => (key, end),
    }
}

/// The outcome of a transaction.
pub(super) fn committed(answer: &TxnResponse) -> Committed {
    let deleted = answer.responses.iter().map(|one| match &one.response {
        Some(Response::ResponseDeleteRange(deleted)) => deleted.deleted.cast_unsigned(),
        _ => 0,
    });
    Committed {
        succeeded: answer.succeeded,
        revision: revision_of(answer.header.as_ref()),
        deleted: deleted.sum(),
    }
}

/// The revision of the store when it answered, 0 without a header.
pub(super) fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| header.revision.cast_unsigned())
}

/// A revision in messages.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::store::Source;

    #[test]
    fn a_tick_is_a_conditional_put() {
        let condition = Condition::Unchanged { key: keys::job(b"a"), mod_revision: 7 };
        let put = Op::Put { key: keys::counter(b"a"), value: "v".into() };
        let sent = txn(&Txn {
            source: Source::Engine,
            conditions: vec![condition],
            then: vec![put],
            otherwise: vec![],
        });
        assert_eq!(sent.compare[0].target_union, Some(TargetUnion::ModRevision(7)));
        assert_eq!(sent.compare[0].key, "dapr/jobs/a");
        let Some(Request::RequestPut(put)) = &sent.success[0].request else { panic!("a put") };
        assert_eq!((put.key.as_ref(), put.value.as_ref()), (&b"dapr/counters/a"[..], &b"v"[..]));
        assert!(sent.failure.is_empty());
    }

    #[rstest]
    #[case(0, &[])]
    #[case(1, &[2])]
    #[case(MAX_OPS / 2, &[MAX_OPS])]
    #[case(MAX_OPS / 2 + 1, &[MAX_OPS, 2])]
    fn a_transaction_deletes_so_many_keys(#[case] jobs: usize, #[case] want: &[usize]) {
        let names: Vec<Bytes> = (0..jobs).map(|number| number.to_string().into()).collect();
        let sent = delete_named(&names).map(|request| request.success.len());
        assert_eq!(sent.collect::<Vec<_>>(), want);
    }

    #[test]
    fn jobs_of_a_prefix_go_with_their_counters() {
        let then = vec![Op::DeleteJobs { prefix: "app||n||".into(), filter: None }];
        let sent = txn(&Txn { then, ..Txn::default() });
        let ranges: Vec<_> = sent
            .success
            .iter()
            .map(|op| match &op.request {
                Some(Request::RequestDeleteRange(range)) => {
                    (range.key.clone(), range.range_end.clone())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let want = [
            ("dapr/jobs/app||n||", "dapr/jobs/app||n|}"),
            ("dapr/counters/app||n||", "dapr/counters/app||n|}"),
        ];
        assert_eq!(ranges, want.map(|(key, end)| (Bytes::from(key), Bytes::from(end))));
    }
}
