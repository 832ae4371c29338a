//! Writes of the engine that go to etcd together, as transactions within one. Pure.
//!
//! Each keeps its own conditions and its own outcome. etcd evaluates all conditions on the state
//! before, and refuses a key that two of them write, so that those go apart. Its quota counts only
//! puts of the outer transaction: one with counters has one there, and one that only deletes has
//! none, so that a full etcd takes it.

use std::collections::HashSet;

use bytes::Bytes;
use proto::etcd::etcdserverpb::request_op::Request;
use proto::etcd::etcdserverpb::response_op::Response;
use proto::etcd::etcdserverpb::{RequestOp, TxnRequest, TxnResponse};

use super::requests::{self, MAX_OPS};
use crate::store::{Committed, Op, Txn, keys};

/// Writes of one transaction, which may have another entry for the quota.
pub(super) const MAX_WRITES: usize = MAX_OPS - 1;

/// What the writes of one transaction have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Put counters.
    Counters,
    /// Delete keys.
    Deletions,
}

impl Kind {
    /// `None` for writes that go alone.
    fn of(txn: &Txn) -> Option<Self> {
        let counter =
            |op: &Op| matches!(op, Op::Put { key, .. } if keys::counter_name(key).is_some());
        let deletion = |op: &Op| matches!(op, Op::Delete { .. });
        match txn.then.as_slice() {
            _ if !txn.otherwise.is_empty() => None,
            [op] if counter(op) => Some(Self::Counters),
            [_] | [_, _] if txn.then.iter().all(deletion) => Some(Self::Deletions),
            _ => None,
        }
    }
}

/// Divides writes into those that go together, by their positions.
pub(super) fn groups(txns: &[Txn]) -> Vec<Vec<usize>> {
    let (mut groups, mut keys) = (Vec::new(), HashSet::new());
    let mut open = [Kind::Counters, Kind::Deletions].map(|kind| (kind, Vec::new()));
    for (position, txn) in txns.iter().enumerate() {
        let own: Vec<&Bytes> = written(txn).collect();
        let kind = Kind::of(txn).filter(|_| own.iter().all(|key| !keys.contains(*key)));
        let Some((_, group)) = open.iter_mut().find(|(open, _)| Some(*open) == kind) else {
            groups.push(vec![position]);
            continue;
        };
        keys.extend(own);
        group.push(position);
        if group.len() == MAX_WRITES {
            groups.push(std::mem::take(group));
        }
    }
    groups.extend(open.into_iter().map(|(_, group)| group).filter(|group| !group.is_empty()));
    groups
}

fn written(txn: &Txn) -> impl Iterator<Item = &Bytes> {
    txn.then.iter().filter_map(|op| match op {
        Op::Put { key, .. } | Op::Delete { key } => Some(key),
        Op::DeleteJobs { .. } => None,
    })
}

/// One transaction for writes of one group.
pub(super) fn request<'a>(txns: impl Iterator<Item = &'a Txn>) -> TxnRequest {
    let (mut success, mut puts) = (Vec::new(), false);
    for txn in txns {
        puts |= Kind::of(txn) != Some(Kind::Deletions);
        success.push(RequestOp { request: Some(Request::RequestTxn(requests::txn(txn))) });
    }
    if puts {
        success.push(requests::put(keys::WRITTEN.into(), Bytes::new(), 0));
    }
    TxnRequest { success, ..TxnRequest::default() }
}

/// The outcome of each write; `None` when the answer is not one to the request.
pub(super) fn outcomes(answer: TxnResponse, writes: usize) -> Option<Vec<Committed>> {
    let revision = requests::revision_of(answer.header.as_ref());
    let outcome = |response: Option<Response>| match response {
        Some(Response::ResponseTxn(nested)) => {
            Some(Committed { revision, ..requests::committed(&nested) })
        }
        _ => None,
    };
    let answers = answer.responses.into_iter().take(writes);
    let outcomes: Option<Vec<_>> = answers.map(|one| outcome(one.response)).collect();
    outcomes.filter(|outcomes| outcomes.len() == writes)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::store::{Condition, Source};

    fn unchanged(name: &str) -> Vec<Condition> {
        vec![Condition::Unchanged { key: keys::job(name.as_bytes()), mod_revision: 7 }]
    }

    fn counter(name: &str) -> Txn {
        let put = Op::Put { key: keys::counter(name.as_bytes()), value: "v".into() };
        Txn {
            source: Source::Engine,
            conditions: unchanged(name),
            then: vec![put],
            otherwise: vec![],
        }
    }

    fn end(name: &str) -> Txn {
        let both = [keys::job(name.as_bytes()), keys::counter(name.as_bytes())];
        let then = both.map(|key| Op::Delete { key }).into();
        Txn { then, ..counter(name) }
    }

    fn job(name: &str) -> Txn {
        let put = Op::Put { key: keys::job(name.as_bytes()), value: "v".into() };
        Txn { then: vec![put], ..Txn::default() }
    }

    #[test]
    fn counters_and_deletions_go_apart_and_jobs_alone() {
        let txns =
            [counter("a"), end("b"), job("c"), counter("d"), end("e"), job("f"), Txn::default()];
        assert_eq!(groups(&txns), [vec![2], vec![5], vec![6], vec![0, 3], vec![1, 4]]);
    }

    #[test]
    fn a_key_is_written_once_in_a_transaction() {
        let txns = [counter("a"), counter("a"), end("a"), end("b"), end("b")];
        assert_eq!(groups(&txns), [vec![1], vec![2], vec![4], vec![0], vec![3]]);
    }

    #[rstest]
    #[case(0, &[])]
    #[case(MAX_WRITES, &[MAX_WRITES])]
    #[case(MAX_WRITES + 1, &[MAX_WRITES, 1])]
    fn a_transaction_has_so_many_writes(#[case] count: usize, #[case] want: &[usize]) {
        for one in [counter, end] {
            let txns: Vec<_> = (0..count).map(|number| one(&number.to_string())).collect();
            let sizes: Vec<_> = groups(&txns).iter().map(Vec::len).collect();
            assert_eq!(sizes, want);
            // Two operations of each count against the limit of etcd, 128, with all entries.
            let entries = request(txns.iter().take(MAX_WRITES)).success.len();
            assert!(entries <= MAX_OPS, "{entries}");
        }
    }

    #[test]
    fn the_quota_sees_counters_and_no_deletions() {
        let puts = |txns: &[Txn]| -> Vec<Bytes> {
            let put = |op: RequestOp| match op.request {
                Some(Request::RequestPut(put)) => Some(put.key),
                _ => None,
            };
            request(txns.iter()).success.into_iter().filter_map(put).collect()
        };
        assert_eq!(puts(&[counter("a"), counter("b")]), [keys::WRITTEN]);
        assert!(puts(&[end("a"), end("b")]).is_empty());
    }

    #[test]
    fn each_write_has_its_outcome() {
        use proto::etcd::etcdserverpb::{PutResponse, ResponseHeader, ResponseOp};
        let response = |response| ResponseOp { response: Some(response) };
        let nested = |succeeded| {
            response(Response::ResponseTxn(TxnResponse { succeeded, ..TxnResponse::default() }))
        };
        let put = response(Response::ResponsePut(PutResponse::default()));
        let answer = TxnResponse {
            header: Some(ResponseHeader { revision: 9, ..ResponseHeader::default() }),
            succeeded: true,
            responses: vec![nested(true), nested(false), put],
        };
        let got = outcomes(answer.clone(), 2).unwrap();
        assert_eq!(got.iter().map(|one| one.succeeded).collect::<Vec<_>>(), [true, false]);
        assert!(got.iter().all(|one| one.revision == 9));
        assert!(outcomes(answer.clone(), 3).is_none(), "a put is no outcome");
        assert!(outcomes(answer, 4).is_none());
    }
}
