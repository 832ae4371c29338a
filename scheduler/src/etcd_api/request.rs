//! Requests as the store evaluates them: every check that does not need the
//! store.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcd::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcd::etcdserverpb::request_op::Request as One;
use proto::etcd::etcdserverpb::{
    Compare as CompareRequest, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use super::error::Invalid;
use crate::store::Revision;
use crate::store::kv::{Compare, Operation, Put, Relation, Target, Transaction};
use crate::store::query::{Query, SortBy};
use crate::store::range::KeyRange;

/// Checks a range request.
pub(crate) fn range(request: RangeRequest) -> Result<Query, Invalid> {
    let order = SortOrder::try_from(request.sort_order).map_err(|_| Invalid::SortOption)?;
    let target = SortTarget::try_from(request.sort_target).map_err(|_| Invalid::SortOption)?;
    let by = match target {
        SortTarget::Key => SortBy::Key,
        SortTarget::Version => SortBy::Version,
        SortTarget::Create => SortBy::Create,
        SortTarget::Mod => SortBy::Mod,
        SortTarget::Value => SortBy::Value,
    };
    let sort = match (order, by) {
        // Keys are read in order.
        (SortOrder::None | SortOrder::Ascend, SortBy::Key) => None,
        (SortOrder::None | SortOrder::Ascend, by) => Some((by, false)),
        (SortOrder::Descend, by) => Some((by, true)),
    };
    let least = |least: i64| revision(least);
    let most = |most: i64| if most <= 0 { Revision::MAX } else { revision(most) };
    Ok(Query {
        range: keys(request.key, request.range_end)?,
        revision: revision(request.revision),
        limit: usize::try_from(request.limit).ok().filter(|limit| *limit > 0),
        sort,
        keys_only: request.keys_only,
        count_only: request.count_only,
        mod_revisions: least(request.min_mod_revision)..=most(request.max_mod_revision),
        create_revisions: least(request.min_create_revision)..=most(request.max_create_revision),
    })
}

/// Checks a put.
pub(crate) fn put(request: PutRequest) -> Result<Put, Invalid> {
    if request.key.is_empty() {
        return Err(Invalid::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Invalid::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Invalid::LeaseProvided);
    }
    Ok(Put {
        key: request.key,
        value: (!request.ignore_value).then_some(request.value),
        lease: (!request.ignore_lease).then_some(request.lease),
        previous: request.prev_kv,
    })
}

/// Checks a deletion.
pub(crate) fn delete(request: DeleteRangeRequest) -> Result<Operation, Invalid> {
    let range = keys(request.key, request.range_end)?;
    Ok(Operation::Delete { range, previous: request.prev_kv })
}

/// Checks a transaction with at most `max_ops` compares, operations if they hold, and operations
/// if they do not.
pub(crate) fn txn(request: TxnRequest, max_ops: usize) -> Result<Transaction, Invalid> {
    count(&request, max_ops)?;
    let transaction = convert(request)?;
    for branch in [&transaction.then, &transaction.otherwise] {
        writes(branch)?;
    }
    Ok(transaction)
}

/// The entries of a nested transaction are added to those around it.
fn count(request: &TxnRequest, max_ops: usize) -> Result<(), Invalid> {
    let lists = [request.compare.len(), request.success.len(), request.failure.len()];
    let most = lists.into_iter().max().unwrap_or(0);
    if most > max_ops {
        return Err(Invalid::TooManyOps);
    }
    for operation in request.success.iter().chain(&request.failure) {
        if let Some(One::RequestTxn(nested)) = &operation.request {
            count(nested, max_ops - most)?;
        }
    }
    Ok(())
}

fn convert(request: TxnRequest) -> Result<Transaction, Invalid> {
    let operations = |operations: Vec<RequestOp>| {
        operations.into_iter().map(operation).collect::<Result<Vec<_>, _>>()
    };
    Ok(Transaction {
        compares: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        then: operations(request.success)?,
        otherwise: operations(request.failure)?,
        reserved: false,
    })
}

fn operation(operation: RequestOp) -> Result<Operation, Invalid> {
    Ok(match operation.request.ok_or(Invalid::NoOperation)? {
        One::RequestRange(request) => Operation::Range(range(request)?),
        One::RequestPut(request) => Operation::Put(put(request)?),
        One::RequestDeleteRange(request) => delete(request)?,
        One::RequestTxn(request) => Operation::Nested(convert(request)?),
    })
}

fn compare(request: CompareRequest) -> Result<Compare, Invalid> {
    let relation = match CompareResult::try_from(request.result) {
        Ok(CompareResult::Equal) => Relation::Equal,
        Ok(CompareResult::Greater) => Relation::Greater,
        Ok(CompareResult::Less) => Relation::Less,
        Ok(CompareResult::NotEqual) => Relation::NotEqual,
        Err(_) => return Err(Invalid::NoOperation),
    };
    // The operand of another kind, or none, counts as 0 or empty.
    let operand = request.target_union;
    let target = match (CompareTarget::try_from(request.target), operand) {
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(version))) => {
            Target::Version(version)
        }
        (Ok(CompareTarget::Version), _) => Target::Version(0),
        (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(at))) => Target::Create(at),
        (Ok(CompareTarget::Create), _) => Target::Create(0),
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(at))) => Target::Mod(at),
        (Ok(CompareTarget::Mod), _) => Target::Mod(0),
        (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(lease))) => Target::Lease(lease),
        (Ok(CompareTarget::Lease), _) => Target::Lease(0),
        (Ok(CompareTarget::Value), Some(TargetUnion::Value(value))) => Target::Value(value),
        (Ok(CompareTarget::Value), _) => Target::Value(Bytes::new()),
        (Err(_), _) => return Err(Invalid::NoOperation),
    };
    Ok(Compare { range: keys(request.key, request.range_end)?, relation, target })
}

/// Keys that a branch or an operation may write.
#[derive(Default)]
struct Writes {
    put: HashSet<Bytes>,
    deleted: Vec<KeyRange>,
}

/// No key is put by two operations of a branch, or put by one and deleted by another. The two
/// branches of a nested transaction may write the same keys.
fn writes(branch: &[Operation]) -> Result<Writes, Invalid> {
    let each = branch.iter().map(writes_of).collect::<Result<Vec<_>, _>>()?;
    let mut owners: HashMap<&Bytes, usize> = HashMap::new();
    for (index, writes) in each.iter().enumerate() {
        if writes.put.iter().any(|key| owners.insert(key, index).is_some()) {
            return Err(Invalid::DuplicateKey);
        }
    }
    for (index, writes) in each.iter().enumerate() {
        let covers = |range: &KeyRange| match range {
            KeyRange::One(key) => owners.get(key).is_some_and(|owner| *owner != index),
            range => owners.iter().any(|(key, owner)| *owner != index && range.contains(key)),
        };
        if writes.deleted.iter().any(covers) {
            return Err(Invalid::DuplicateKey);
        }
    }
    Ok(each.into_iter().fold(Writes::default(), Writes::and))
}

fn writes_of(operation: &Operation) -> Result<Writes, Invalid> {
    Ok(match operation {
        Operation::Range(_) => Writes::default(),
        Operation::Put(put) => Writes { put: [put.key.clone()].into(), ..Writes::default() },
        Operation::Delete { range, .. } => {
            Writes { deleted: vec![range.clone()], ..Writes::default() }
        }
        Operation::Nested(nested) => writes(&nested.then)?.and(writes(&nested.otherwise)?),
    })
}

impl Writes {
    fn and(mut self, other: Self) -> Self {
        self.put.extend(other.put);
        self.deleted.extend(other.deleted);
        self
    }
}

fn keys(key: Bytes, end: Bytes) -> Result<KeyRange, Invalid> {
    if key.is_empty() { Err(Invalid::EmptyKey) } else { Ok(KeyRange::new(key, end)) }
}

/// 0 and below mean none.
fn revision(number: i64) -> Revision {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn op(one: One) -> RequestOp {
        RequestOp { request: Some(one) }
    }

    fn put_of(key: &'static str) -> RequestOp {
        op(One::RequestPut(PutRequest { key: key.into(), ..PutRequest::default() }))
    }

    fn delete_of(key: &'static str, end: &'static str) -> RequestOp {
        let request = DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv: false };
        op(One::RequestDeleteRange(request))
    }

    fn nested(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
        op(One::RequestTxn(TxnRequest { compare: Vec::new(), success, failure }))
    }

    #[rstest]
    #[case(vec![put_of("a"), put_of("b")], Ok(()))]
    #[case(vec![put_of("a"), put_of("a")], Err(Invalid::DuplicateKey))]
    #[case(vec![put_of("b"), delete_of("a", "c")], Err(Invalid::DuplicateKey))]
    #[case(vec![delete_of("a", "c"), put_of("b")], Err(Invalid::DuplicateKey))]
    #[case(vec![delete_of("a", "c"), put_of("c")], Ok(()))]
    #[case(vec![delete_of("a", "c"), delete_of("b", "d")], Ok(()))]
    #[case(vec![nested(vec![put_of("a")], vec![put_of("a")])], Ok(()))]
    #[case(vec![put_of("a"), nested(vec![put_of("a")], vec![])], Err(Invalid::DuplicateKey))]
    #[case(vec![put_of("a"), nested(vec![], vec![delete_of("a", "")])], Err(Invalid::DuplicateKey))]
    #[case(vec![nested(vec![], vec![delete_of("a", "")]), put_of("a")], Err(Invalid::DuplicateKey))]
    #[case(vec![put_of("")], Err(Invalid::EmptyKey))]
    #[case(vec![delete_of("", "a")], Err(Invalid::EmptyKey))]
    #[case(vec![RequestOp { request: None }], Err(Invalid::NoOperation))]
    fn branches(#[case] success: Vec<RequestOp>, #[case] want: Result<(), Invalid>) {
        let request = TxnRequest { success, ..TxnRequest::default() };
        assert_eq!(txn(request.clone(), 10).map(drop), want);
        let failure = TxnRequest { failure: request.success, ..TxnRequest::default() };
        assert_eq!(txn(failure, 10).map(drop), want, "the other branch");
    }

    #[test]
    fn so_many_operations() {
        let ops = |count| (0..count).map(|_| delete_of("a", "")).collect::<Vec<_>>();
        let of = |success| TxnRequest { success, ..TxnRequest::default() };
        assert!(txn(of(ops(3)), 3).is_ok());
        assert_eq!(txn(of(ops(4)), 3).map(drop), Err(Invalid::TooManyOps));
        let compare = vec![CompareRequest { key: "a".into(), ..CompareRequest::default() }; 4];
        let compares = TxnRequest { compare, ..TxnRequest::default() };
        assert_eq!(txn(compares.clone(), 3).map(drop), Err(Invalid::TooManyOps));
        assert!(txn(compares, 4).is_ok());
        assert!(txn(of(vec![nested(ops(2), vec![])]), 3).is_ok(), "one around two");
        assert_eq!(txn(of(vec![nested(ops(3), vec![])]), 3).map(drop), Err(Invalid::TooManyOps));
    }

    #[test]
    fn a_put_keeps_what_it_is_told_to() {
        let base = PutRequest { key: "k".into(), ..PutRequest::default() };
        let kept = put(PutRequest { ignore_value: true, ignore_lease: true, ..base.clone() });
        let kept = kept.unwrap();
        assert_eq!((kept.value, kept.lease), (None, None));
        let value = PutRequest { ignore_value: true, value: "v".into(), ..base.clone() };
        assert_eq!(put(value).map(drop), Err(Invalid::ValueProvided));
        let lease = PutRequest { ignore_lease: true, lease: 1, ..base };
        assert_eq!(put(lease).map(drop), Err(Invalid::LeaseProvided));
    }

    #[test]
    fn a_range_sorts_by_what_it_names() {
        let base = RangeRequest { key: "k".into(), ..RangeRequest::default() };
        assert_eq!(range(base.clone()).unwrap().sort, None);
        let by = |sort_order: SortOrder, sort_target: SortTarget| {
            let (sort_order, sort_target) = (sort_order.into(), sort_target.into());
            range(RangeRequest { sort_order, sort_target, ..base.clone() }).unwrap().sort
        };
        assert_eq!(by(SortOrder::None, SortTarget::Mod), Some((SortBy::Mod, false)));
        assert_eq!(by(SortOrder::Descend, SortTarget::Key), Some((SortBy::Key, true)));
        let unknown = RangeRequest { sort_order: 9, ..base.clone() };
        assert_eq!(range(unknown).map(drop), Err(Invalid::SortOption));
        let negative = range(RangeRequest { limit: -1, revision: -1, ..base }).unwrap();
        assert_eq!((negative.limit, negative.revision), (None, 0));
    }
}
