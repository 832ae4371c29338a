//! The etcd API over real connections, in this process: keys, transactions, leases, watches.

use proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcd::etcdserverpb::request_op::Request as Op;
use proto::etcd::etcdserverpb::response_op::Response as Answer;
use proto::etcd::etcdserverpb::watch_request::RequestUnion;
use proto::etcd::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, TxnRequest,
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest,
};
use rstest::rstest;
use tonic::Code;

use crate::etcd::{Fixture, Watch, op, put, range, refused, watch};

#[tokio::test]
async fn each_request_that_changes_something_makes_one_revision() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    let first = etcd.put("k", "1").await;
    assert_eq!(etcd.put("k", "1").await, first + 1, "a put of the same value counts");
    assert_eq!(etcd.delete("none").await, 0);
    let both = vec![op(Op::RequestPut(put("a", "1"))), op(Op::RequestPut(put("b", "1")))];
    let done = etcd.txn(TxnRequest { success: both, ..TxnRequest::default() }).await.unwrap();
    assert_eq!(done.header.unwrap().revision, first + 2);
    let pair = etcd.get("k").await.unwrap();
    assert_eq!((pair.create_revision, pair.mod_revision, pair.version), (first, first + 1, 2));
    assert_eq!(etcd.get("b").await.unwrap().mod_revision, first + 2);
    etcd.delete("k").await;
    etcd.put("k", "2").await;
    let pair = etcd.get("k").await.unwrap();
    assert_eq!((pair.create_revision, pair.version), (first + 4, 1), "created again");
    etcd.grant(100).await;
    let read = etcd.range(range("k", "")).await.header.unwrap();
    assert_eq!(read.revision, first + 4, "a lease is no revision");
    assert!(read.cluster_id != 0 && read.member_id != 0 && read.raft_term > 0);
    fixture.server.stop().await;
}

#[rstest]
#[case::one(range("b", ""), &["b"], false, 1)]
#[case::none(range("x", ""), &[], false, 0)]
#[case::between(range("a", "c"), &["a", "b"], false, 2)]
#[case::from(range("b", "\0"), &["b", "c", "dapr/leadership/dapr-scheduler-server-0"], false, 3)]
#[case::limit(RangeRequest { limit: 1, ..range("a", "d") }, &["a"], true, 3)]
#[case::limit_of_all(RangeRequest { limit: 3, ..range("a", "d") }, &["a", "b", "c"], false, 3)]
#[case::descending(RangeRequest { sort_order: 2, ..range("a", "d") }, &["c", "b", "a"], false, 3)]
#[case::by_value(RangeRequest { sort_target: 4, ..range("a", "d") }, &["c", "b", "a"], false, 3)]
#[case::count_only(RangeRequest { count_only: true, ..range("a", "d") }, &[], false, 3)]
#[tokio::test]
async fn ranges(
    #[case] request: RangeRequest,
    #[case] want: &[&str],
    #[case] more: bool,
    #[case] count: i64,
) {
    let mut fixture = Fixture::start(&[]).await;
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1")] {
        fixture.etcd.put(key, value).await;
    }
    let found = fixture.etcd.range(request).await;
    let keys: Vec<&[u8]> = found.kvs.iter().map(|pair| pair.key.as_ref()).collect();
    assert_eq!(keys, want.iter().map(|key| key.as_bytes()).collect::<Vec<_>>());
    assert_eq!((found.more, found.count), (more, count));
    fixture.server.stop().await;
}

/// A range with a limit continues at its revision while others write.
#[tokio::test]
async fn an_old_revision_is_served_while_pages_of_it_are_read() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    etcd.put("a", "1").await;
    let revision = etcd.put("b", "1").await;
    let page = etcd.range(RangeRequest { limit: 1, ..range("a", "c") }).await;
    assert!(page.more);
    let now = etcd.put("b", "2").await;
    let rest = etcd.range(RangeRequest { revision, ..range("b", "c") }).await;
    assert_eq!((&rest.kvs[0].value[..], rest.header.unwrap().revision), (&b"1"[..], now));
    let current = etcd.range(RangeRequest { revision: now, ..range("b", "c") }).await;
    assert_eq!(current.kvs[0].value, "2");
    let asked = |revision| RangeRequest { revision, ..range("b", "c") };
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    let future = "etcdserver: mvcc: required revision is a future revision";
    for (revision, text) in [(revision - 1, compacted), (now + 1, future)] {
        let refusal = refused(etcd.kv.range(asked(revision)).await);
        assert_eq!(refusal, (Code::OutOfRange, text.to_owned()));
    }
    fixture.server.stop().await;
}

#[rstest]
#[case(PutRequest::default(), "key is not provided")]
#[case(PutRequest { ignore_value: true, ..put("k", "v") }, "value is provided")]
#[case(PutRequest { ignore_lease: true, lease: 1, ..put("k", "v") }, "lease is provided")]
#[case(PutRequest { ignore_value: true, ..put("k", "") }, "key not found")]
#[case(PutRequest { ignore_lease: true, ..put("k", "v") }, "key not found")]
#[tokio::test]
async fn puts_that_are_refused(#[case] request: PutRequest, #[case] text: &str) {
    let mut fixture = Fixture::start(&[]).await;
    let refusal = refused(fixture.etcd.try_put(request).await);
    assert_eq!(refusal, (Code::InvalidArgument, format!("etcdserver: {text}")));
    let unknown = PutRequest { lease: 77, ..put("k", "v") };
    let refusal = refused(fixture.etcd.try_put(unknown).await);
    assert_eq!(refusal, (Code::NotFound, "etcdserver: requested lease not found".to_owned()));
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_put_gives_the_pair_before_and_keeps_what_it_is_told_to() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    let lease = etcd.grant(100).await;
    etcd.try_put(PutRequest { lease, ..put("k", "1") }).await.unwrap();
    let request = PutRequest { prev_kv: true, ignore_lease: true, ..put("k", "2") };
    let before = etcd.kv.put(request).await.unwrap().into_inner().prev_kv.unwrap();
    assert_eq!((&before.value[..], before.lease), (&b"1"[..], lease));
    etcd.try_put(PutRequest { ignore_value: true, lease, ..put("k", "") }).await.unwrap();
    let pair = etcd.get("k").await.unwrap();
    assert_eq!((&pair.value[..], pair.lease, pair.version), (&b"2"[..], lease, 3));
    etcd.put("k", "3").await;
    assert_eq!(etcd.get("k").await.unwrap().lease, 0, "detached");
    etcd.lease.lease_revoke(LeaseRevokeRequest { id: lease }).await.unwrap();
    assert!(etcd.get("k").await.is_some());
    fixture.server.stop().await;
}

fn version_of(key: &'static str, version: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Version.into(),
        key: key.into(),
        target_union: Some(TargetUnion::Version(version)),
        range_end: "".into(),
    }
}

#[tokio::test]
async fn a_transaction_takes_one_branch_and_answers_each_operation() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    let before = etcd.put("k", "1").await;
    let delete = DeleteRangeRequest { key: "k".into(), prev_kv: true, ..Default::default() };
    let nested = TxnRequest {
        compare: vec![version_of("k", 1)], // what was before the transaction
        success: vec![op(Op::RequestPut(put("nested", "yes")))],
        failure: vec![op(Op::RequestPut(put("nested", "no")))],
    };
    let success = vec![
        op(Op::RequestDeleteRange(delete)),
        op(Op::RequestRange(range("k", ""))),
        op(Op::RequestRange(RangeRequest { revision: before, ..range("k", "") })),
        op(Op::RequestTxn(nested)),
    ];
    let failure = vec![op(Op::RequestRange(range("k", "")))];
    let ask = |compare| TxnRequest {
        compare: vec![compare],
        success: success.clone(),
        failure: failure.clone(),
    };
    let done = etcd.txn(ask(version_of("k", 2))).await.unwrap();
    assert!(!done.succeeded && done.responses.len() == 1);
    assert_eq!(done.header.unwrap().revision, before, "it only read");
    let done = etcd.txn(ask(version_of("k", 1))).await.unwrap();
    assert_eq!((done.succeeded, done.header.unwrap().revision), (true, before + 1));
    let mut answers = done.responses.into_iter().map(|answer| answer.response.unwrap());
    let Some(Answer::ResponseDeleteRange(deleted)) = answers.next() else { panic!() };
    assert_eq!((deleted.deleted, &deleted.prev_kvs[0].value[..]), (1, &b"1"[..]));
    let Some(Answer::ResponseRange(later)) = answers.next() else { panic!() };
    assert_eq!(later.count, 0, "sees the deletion");
    let Some(Answer::ResponseRange(earlier)) = answers.next() else { panic!() };
    assert_eq!(earlier.count, 1, "the revision before");
    let Some(Answer::ResponseTxn(inner)) = answers.next() else { panic!() };
    assert!(inner.succeeded && inner.header.is_some());
    assert_eq!(etcd.get("nested").await.unwrap().value, "yes");
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_transaction_is_refused_as_a_whole() {
    let mut fixture = Fixture::start(&["--etcd-max-txn-ops=2"]).await;
    let etcd = &mut fixture.etcd;
    let one = |key: &str| op(Op::RequestPut(put(key, "1")));
    let of = |success| TxnRequest { success, ..TxnRequest::default() };
    assert!(etcd.txn(of(vec![one("a"), one("b")])).await.is_ok());
    let lease = op(Op::RequestPut(PutRequest { lease: 7, ..put("d", "1") }));
    let future = op(Op::RequestRange(RangeRequest { revision: 99, ..range("a", "") }));
    for (operations, code, text) in [
        (
            vec![one("c"), one("d"), one("e")],
            Code::InvalidArgument,
            "too many operations in txn request",
        ),
        (vec![one("c"), one("c")], Code::InvalidArgument, "duplicate key given in txn request"),
        (vec![one("c"), lease], Code::NotFound, "requested lease not found"),
        (vec![one("c"), future], Code::OutOfRange, "mvcc: required revision is a future revision"),
    ] {
        let refusal = refused(etcd.txn(of(operations)).await);
        assert_eq!(refusal, (code, format!("etcdserver: {text}")));
        assert!(etcd.get("c").await.is_none());
    }
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_compaction_moves_the_floor_and_changes_nothing_else() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    let revision = etcd.put("k", "1").await;
    let compact = |revision| CompactionRequest { revision, physical: true };
    etcd.kv.compact(compact(revision)).await.unwrap();
    let refusal = refused(etcd.kv.compact(compact(revision)).await);
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(refusal, (Code::OutOfRange, compacted.to_owned()));
    assert_eq!(etcd.put("k", "2").await, revision + 1);
    let refusal = refused(etcd.kv.compact(compact(revision + 2)).await);
    let future = "etcdserver: mvcc: required revision is a future revision";
    assert_eq!(refusal, (Code::OutOfRange, future.to_owned()));
    etcd.kv.compact(compact(revision + 1)).await.unwrap();
    assert_eq!(etcd.get("k").await.unwrap().value, "2");
    fixture.server.stop().await;
}

#[tokio::test]
async fn leases_end_and_take_their_keys_along() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    let request = |ttl, id| LeaseGrantRequest { ttl, id };
    let granted = etcd.lease.lease_grant(request(1, 5)).await.unwrap().into_inner();
    assert_eq!((granted.id, granted.ttl), (5, 2), "the shortest time");
    let refusal = refused(etcd.lease.lease_grant(request(9, 5)).await);
    assert_eq!(refusal, (Code::FailedPrecondition, "etcdserver: lease already exists".to_owned()));
    let long = etcd.lease.lease_grant(request(9_000_000_000, 6)).await.unwrap().into_inner();
    assert_eq!(long.ttl, 9_000_000_000);
    let refusal = refused(etcd.lease.lease_grant(request(9_000_000_001, 7)).await);
    assert_eq!(refusal, (Code::OutOfRange, "etcdserver: too large lease TTL".to_owned()));
    for key in ["l/b", "l/a"] {
        etcd.try_put(PutRequest { lease: 5, ..put(key, "1") }).await.unwrap();
    }
    let mut events = Watch::on(etcd, watch("l/", "l0", 0)).await;
    let answer = events.next().await;
    let keys: Vec<_> = answer.events.iter().map(|event| event.kv.clone().unwrap().key).collect();
    assert_eq!(keys, ["l/a", "l/b"], "in one revision, in order");
    let gone = LeaseTimeToLiveRequest { id: 5, keys: false };
    assert_eq!(etcd.lease.lease_time_to_live(gone).await.unwrap().into_inner().ttl, -1);
    let refusal = refused(etcd.lease.lease_revoke(LeaseRevokeRequest { id: 5 }).await);
    assert_eq!(refusal, (Code::NotFound, "etcdserver: requested lease not found".to_owned()));
    let ids = tokio_stream::iter([6, 5].map(|id| LeaseKeepAliveRequest { id }));
    let mut alive = etcd.lease.lease_keep_alive(ids).await.unwrap().into_inner();
    let mut ttls = Vec::new();
    while let Some(answer) = alive.message().await.unwrap() {
        ttls.push((answer.id, answer.ttl));
    }
    assert_eq!(ttls, [(6, 9_000_000_000), (5, 0)]);
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_watch_replays_and_goes_on() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    let first = etcd.put("w/a", "1").await;
    etcd.put("other", "1").await;
    let both = vec![op(Op::RequestPut(put("w/b", "1"))), op(Op::RequestPut(put("w/c", "1")))];
    etcd.txn(TxnRequest { success: both, ..TxnRequest::default() }).await.unwrap();
    let request = WatchCreateRequest { prev_kv: true, ..watch("w/", "w0", first) };
    let mut events = Watch::on(etcd, request).await;
    let replayed = events.next().await;
    let seen: Vec<_> = replayed
        .events
        .iter()
        .map(|event| {
            let pair = event.kv.clone().unwrap();
            (String::from_utf8(pair.key.to_vec()).unwrap(), pair.mod_revision - first)
        })
        .collect();
    assert_eq!(seen, [("w/a".to_owned(), 0), ("w/b".to_owned(), 2), ("w/c".to_owned(), 2)]);
    assert!(replayed.events[0].prev_kv.is_none());
    etcd.delete("w/a").await;
    let gone = events.next().await;
    let event = &gone.events[0];
    assert_eq!((event.r#type, &event.prev_kv.as_ref().unwrap().value[..]), (1, &b"1"[..]));
    assert_eq!(event.kv.as_ref().unwrap().mod_revision, first + 3);
    events.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let progress = events.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.unwrap().revision, first + 3);
    fixture.server.stop().await;
}

#[tokio::test]
async fn watches_of_one_stream_have_their_own_ids_and_ends() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    etcd.put("a", "1").await;
    let floor = etcd.put("a", "2").await;
    let compact = CompactionRequest { revision: floor, physical: false };
    etcd.kv.compact(compact).await.unwrap();
    let mut stream = Watch::open(etcd).await;
    let create = |request| RequestUnion::CreateRequest(request);
    for want in [0, 1] {
        stream.send(create(watch("a", "", 0))).await;
        let answer = stream.next().await;
        assert_eq!((answer.watch_id, answer.created), (want, true));
    }
    for wrong in [
        watch("b", "a", 0),
        watch("a", "", -1),
        WatchCreateRequest { watch_id: 1, ..watch("a", "", 0) },
    ] {
        stream.send(create(wrong)).await;
        let answer = stream.next().await;
        assert_eq!((answer.watch_id, answer.created, answer.canceled), (-1, true, true));
    }
    stream.send(create(watch("a", "", 1))).await;
    assert_eq!(stream.next().await.watch_id, 2);
    let too_old = stream.next().await;
    assert_eq!((too_old.watch_id, too_old.canceled), (2, true));
    assert_eq!((too_old.compact_revision, too_old.cancel_reason.as_str()), (floor, ""));
    stream.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 })).await;
    let cancelled = stream.next().await;
    assert_eq!((cancelled.watch_id, cancelled.canceled), (0, true));
    etcd.put("a", "3").await;
    let event = stream.next().await;
    assert_eq!((event.watch_id, event.events.len()), (1, 1));
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_stream_has_so_many_watches() {
    const MOST: usize = 4_096;
    let mut fixture = Fixture::start(&[]).await;
    let mut stream = Watch::open(&mut fixture.etcd).await;
    for _ in 0..=MOST {
        stream.send(RequestUnion::CreateRequest(watch("a", "", 0))).await;
    }
    for _ in 0..MOST {
        let answer = stream.next().await;
        assert!(answer.created && !answer.canceled);
    }
    assert_eq!(stream.next().await.cancel_reason, "too many watches on one stream");
    fixture.server.stop().await;
}

/// A list and a watch from the next revision together contain everything.
#[tokio::test]
async fn a_list_and_a_watch_lose_nothing_under_load() {
    const WRITES: i64 = 2_000;
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    let mut writer = etcd.clone();
    let load = async move {
        for number in 0..WRITES {
            writer.put(&format!("load/{number:05}"), "v").await;
        }
    };
    let follow = async {
        let listed = loop {
            let listed = etcd.range(range("load/", "load0")).await;
            if listed.count > 10 {
                break listed;
            }
        };
        let next = listed.header.unwrap().revision + 1;
        let mut events = Watch::on(etcd, watch("load/", "load0", next)).await;
        let mut seen = listed.count;
        while seen < WRITES {
            seen += i64::try_from(events.next().await.events.len()).unwrap();
        }
        seen
    };
    let ((), seen) = tokio::join!(load, follow);
    assert_eq!(seen, WRITES);
    fixture.server.stop().await;
}
