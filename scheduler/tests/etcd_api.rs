//! The etcd API over real connections, in this process.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

#[path = "support/client.rs"]
mod client;
#[path = "support/etcd.rs"]
mod etcd;

use client::{SUCCESS, Server, Sidecar, get, initial, of_app, once, request};
use etcd::{Etcd, Watch, op, put, range, watch};
use prost::Message as _;
use proto::cron;
use proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use proto::etcd::etcdserverpb::auth_client::AuthClient;
use proto::etcd::etcdserverpb::cluster_client::ClusterClient;
use proto::etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcd::etcdserverpb::request_op::Request as Op;
use proto::etcd::etcdserverpb::response_op::Response as Answer;
use proto::etcd::etcdserverpb::watch_request::RequestUnion;
use proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmType, AuthenticateRequest, CompactionRequest, Compare, DefragmentRequest,
    DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, MemberListRequest, PutRequest, RangeRequest,
    SnapshotRequest, StatusRequest, TxnRequest, WatchCancelRequest, WatchCreateRequest,
    WatchProgressRequest,
};
use proto::scheduler::ListJobsRequest;
use rstest::rstest;
use tonic::{Code, Status};

struct Fixture {
    _dir: tempfile::TempDir,
    server: Server,
    etcd: Etcd,
}

impl Fixture {
    async fn start(flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start_with(dir.path(), flags, None).await;
        let etcd = Etcd::of(&server);
        Self { _dir: dir, server, etcd }
    }

    async fn names(&self) -> Vec<String> {
        let list = ListJobsRequest { metadata: Some(of_app("app").into()) };
        let jobs = self.server.client().list_jobs(list).await.unwrap().into_inner().jobs;
        jobs.into_iter().map(|job| job.name).collect()
    }
}

fn refused(answer: Result<impl std::fmt::Debug, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    (status.code(), status.message().to_owned())
}

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
    assert_eq!((pair.create_revision, pair.version), (first + 4, 1), "created anew");
    etcd.grant(100).await;
    let read = etcd.range(range("k", "")).await.header.unwrap();
    assert_eq!(read.revision, first + 4, "a lease is no revision");
    assert!(read.cluster_id != 0 && read.member_id != 0 && read.raft_term > 0);
    fixture.server.stop().await;
}

#[tokio::test]
async fn names_revisions_leases_and_the_alarm_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut etcd = Etcd::of(&server);
    let revision = etcd.put("k", "1").await;
    let lease = etcd.grant(1_000).await;
    etcd.try_put(PutRequest { lease, ..put("leased", "1") }).await.unwrap();
    set_alarm(&mut etcd, AlarmAction::Activate).await;
    let before = etcd.range(range("k", "")).await.header.unwrap();
    let own = etcd.leases().await.into_iter().find(|id| *id != lease).unwrap();
    server.stop().await;
    let server = Server::start(dir.path()).await;
    let mut etcd = Etcd::of(&server);
    let after = etcd.range(range("k", "")).await.header.unwrap();
    assert_eq!((after.cluster_id, after.member_id), (before.cluster_id, before.member_id));
    assert!(after.revision > revision && after.revision > before.revision);
    let leases = etcd.leases().await;
    assert!(leases.len() == 2 && leases.contains(&lease) && !leases.contains(&own), "{leases:?}");
    let asked = LeaseTimeToLiveRequest { id: lease, keys: true };
    let found = etcd.lease.lease_time_to_live(asked).await.unwrap().into_inner();
    assert_eq!((found.granted_ttl, found.keys), (1_000, vec!["leased".into()]));
    assert_eq!(etcd.try_put(put("k", "2")).await.unwrap_err().code(), Code::ResourceExhausted);
    server.stop().await;
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

/// A range that was cut goes on at its revision while others write.
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

/// What is listed and what is watched from the next revision on is everything.
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

async fn set_alarm(etcd: &mut Etcd, action: AlarmAction) -> usize {
    let (action, alarm) = (action.into(), AlarmType::Nospace.into());
    let request = AlarmRequest { action, member_id: 0, alarm };
    etcd.maintenance.alarm(request).await.unwrap().into_inner().alarms.len()
}

async fn list_alarms(etcd: &mut Etcd) -> usize {
    etcd.maintenance.alarm(AlarmRequest::default()).await.unwrap().into_inner().alarms.len()
}

/// The steps of a runbook, as for an etcd.
#[tokio::test]
async fn a_full_store_serves_again_after_the_runbook_and_not_before() {
    let mut fixture = Fixture::start(&["--etcd-space-quota=16Mi"]).await;
    let etcd = &mut fixture.etcd;
    let mebibyte = vec![b'x'; 1 << 20];
    let mut taken = 0;
    let refusal = loop {
        match etcd.try_put(put(&format!("dapr/jobs/big/{taken}"), &mebibyte)).await {
            Ok(_) => taken += 1,
            Err(status) => break status,
        }
        assert!(taken < 64);
    };
    let text = "etcdserver: mvcc: database space exceeded";
    assert_eq!((refusal.code(), refusal.message()), (Code::ResourceExhausted, text));
    assert_eq!((taken, list_alarms(etcd).await), (15, 1));
    let refusal = refused(
        fixture.server.client().schedule_job(request(of_app("app"), "x", once("1h"))).await,
    );
    assert_eq!(refusal, (Code::ResourceExhausted, text.to_owned()));
    testkit::until("it is not ready", async || !fixture.server.scope.is_ready()).await;
    let status = etcd.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.errors, [format!("memberID:{} alarm:NOSPACE ", status.leader)]);

    let all = DeleteRangeRequest {
        key: "dapr/jobs/big/".into(),
        range_end: "dapr/jobs/big0".into(),
        prev_kv: false,
    };
    assert_eq!(etcd.kv.delete_range(all).await.unwrap().into_inner().deleted, 15);
    let refusal = refused(etcd.lease.lease_grant(LeaseGrantRequest { ttl: 9, id: 0 }).await);
    assert_eq!(refusal, (Code::ResourceExhausted, text.to_owned()), "room alone is not enough");
    let revision = etcd.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    let revision = revision.header.unwrap().revision;
    etcd.kv.compact(CompactionRequest { revision, physical: true }).await.unwrap();
    etcd.maintenance.defragment(DefragmentRequest {}).await.unwrap();
    assert_eq!(set_alarm(etcd, AlarmAction::Deactivate).await, 1);
    assert_eq!(set_alarm(etcd, AlarmAction::Deactivate).await, 0);
    assert_eq!(list_alarms(etcd).await, 0);
    etcd.put("k", "v").await;
    testkit::until("it is ready", async || fixture.server.scope.is_ready()).await;
    fixture.server.stop().await;
}

#[tokio::test]
async fn status_members_and_hashes() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    let status = etcd.maintenance.status(StatusRequest {}).await.unwrap().into_inner();
    assert!(status.version.starts_with("3.5.") && status.errors.is_empty());
    assert!(status.db_size > 0 && status.db_size_in_use > 0 && status.raft_index > 0);
    assert_eq!(
        (status.leader, status.raft_index),
        (status.header.unwrap().member_id, status.raft_applied_index)
    );
    for metric in ["etcd_mvcc_db_total_size_in_bytes", "etcd_mvcc_db_total_size_in_use_in_bytes"] {
        testkit::until(metric, async || fixture.server.metric(metric) > 0).await;
    }
    assert_eq!(fixture.server.metric("etcd_server_has_leader"), 1);
    assert_eq!(fixture.server.metric("etcd_server_leader_changes_seen_total"), 1);
    let mut cluster = ClusterClient::new(etcd.channel.clone());
    let members = cluster.member_list(MemberListRequest { linearizable: true }).await.unwrap();
    let member = members.into_inner().members.pop().unwrap();
    assert_eq!((member.id, member.name.as_str()), (status.leader, "dapr-scheduler-server-0"));
    let client_url = format!("http://localhost:{}", fixture.server.client_port.port());
    assert_eq!(
        (member.peer_urls, member.client_urls),
        (vec!["http://localhost:2380".to_owned()], vec![client_url])
    );
    let hash = async |etcd: &mut Etcd| {
        etcd.maintenance.hash_kv(HashKvRequest::default()).await.unwrap().into_inner().hash
    };
    let before = hash(etcd).await;
    assert_eq!(hash(etcd).await, before);
    etcd.put("k", "v").await;
    assert_ne!(hash(etcd).await, before);
    let mut auth = AuthClient::new(etcd.channel.clone());
    let refusal = refused(auth.authenticate(AuthenticateRequest::default()).await);
    let text = "etcdserver: authentication is not enabled";
    assert_eq!(refusal, (Code::FailedPrecondition, text.to_owned()));
    fixture.server.stop().await;
}

#[tokio::test]
async fn a_snapshot_has_every_pair() {
    let mut fixture = Fixture::start(&[]).await;
    let etcd = &mut fixture.etcd;
    for number in 0..100 {
        etcd.put(&format!("k/{number:03}"), vec![b'v'; 1_000]).await;
    }
    let mut stream = etcd.maintenance.snapshot(SnapshotRequest {}).await.unwrap().into_inner();
    let (mut file, mut pieces, mut remaining) = (Vec::new(), 0, u64::MAX);
    while let Some(piece) = stream.message().await.unwrap() {
        assert!(piece.remaining_bytes < remaining);
        remaining = piece.remaining_bytes;
        file.extend_from_slice(&piece.blob);
        pieces += 1;
    }
    assert!(pieces > 2 && remaining == 0);
    let pairs = proto::job_file::read(&file).unwrap();
    assert_eq!(pairs.iter().filter(|pair| pair.key.starts_with(b"k/")).count(), 100);
    fixture.server.stop().await;
}

/// The record of a job as the API stores it, then deleted.
async fn record(fixture: &mut Fixture, name: &str, due: &str) -> Vec<u8> {
    let job = request(of_app("app"), name, once(due));
    fixture.server.client().schedule_job(job).await.unwrap();
    let key = format!("dapr/jobs/app||ns||app||{name}");
    let value = fixture.etcd.get(&key).await.unwrap().value;
    assert_eq!(fixture.etcd.delete(&key).await, 1, "read your writes");
    value.to_vec()
}

#[tokio::test]
async fn a_record_that_is_put_is_armed_and_one_that_is_deleted_is_not() {
    let mut fixture = Fixture::start(&[]).await;
    let mut sidecar = Sidecar::open(fixture.server.channel(), initial("app", &[])).await;
    let value = record(&mut fixture, "a", "2s").await;
    assert_eq!(fixture.names().await, [""; 0]);
    for name in ["gone", "a"] {
        fixture.etcd.put(&format!("dapr/jobs/app||ns||app||{name}"), &value).await;
    }
    fixture.etcd.put("dapr/jobs/app||ns||app||broken", b"\xff").await;
    fixture.etcd.put("foreign", "kept").await;
    fixture.etcd.delete("dapr/jobs/app||ns||app||gone").await;
    let trigger = sidecar.next().await.unwrap();
    assert_eq!(trigger.name, "a", "under its own name");
    sidecar.answer(trigger.id, SUCCESS).await;
    testkit::until("it ended", async || {
        fixture.server.client().get_job(get(of_app("app"), "a")).await.is_err()
    })
    .await;
    assert_eq!(fixture.server.metric("dapr_scheduler_corrupt_records"), 1);
    assert_eq!(fixture.server.metric("dapr_scheduler_jobs_triggered_total"), 1);
    assert!(fixture.etcd.get("foreign").await.is_some());
    fixture.server.stop().await;
}

/// As the command line imports: many jobs in one transaction, then their counters.
#[tokio::test]
async fn an_import_arms_every_job_and_keeps_counts() {
    const JOBS: usize = 120;
    let mut fixture = Fixture::start(&[]).await;
    let mut sidecar = Sidecar::open(fixture.server.channel(), initial("app", &[])).await;
    let once = record(&mut fixture, "x", "1s").await;
    let mut twice = cron::Job::decode(&once[..]).unwrap();
    let spec = twice.job.as_mut().unwrap();
    (spec.schedule, spec.repeats, spec.due_time) = (Some("@every 1s".into()), Some(2), None);
    let last_trigger = match twice.begin.unwrap() {
        cron::job::Begin::DueTime(at) => Some(at),
        cron::job::Begin::Start(_) => panic!("a due time"),
    };
    let job_partition_id = twice.partition_id;
    let counter = |count| {
        cron::Counter { job_partition_id, count, last_trigger, attempts: 0 }.encode_to_vec()
    };
    let name = |number: usize| format!("app||ns||app||{number:03}");
    let put = |key: String, value: Vec<u8>| op(Op::RequestPut(put(&key, value)));
    let mut jobs: Vec<_> =
        (0..JOBS).map(|number| put(format!("dapr/jobs/{}", name(number)), once.clone())).collect();
    jobs.push(put(format!("dapr/jobs/{}", name(900)), twice.encode_to_vec()));
    jobs.push(put(format!("dapr/jobs/{}", name(901)), twice.encode_to_vec()));
    // The counter of one in the same transaction, of the other in the next: one tick and none left.
    jobs.push(put(format!("dapr/counters/{}", name(900)), counter(1)));
    fixture.etcd.txn(TxnRequest { success: jobs, ..TxnRequest::default() }).await.unwrap();
    let counters = vec![put(format!("dapr/counters/{}", name(901)), counter(2))];
    fixture.etcd.txn(TxnRequest { success: counters, ..TxnRequest::default() }).await.unwrap();
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..=JOBS {
        let trigger = sidecar.next().await.unwrap();
        sidecar.answer(trigger.id, SUCCESS).await;
        assert!(names.insert(trigger.name), "each one once");
    }
    assert!(names.contains("900") && !names.contains("901"), "{names:?}");
    testkit::until("all have ended", async || fixture.names().await.is_empty()).await;
    fixture.server.stop().await;
}

#[rstest]
#[case::revoked(0)]
#[case::deleted(1)]
#[case::overwritten(2)]
#[tokio::test]
async fn the_leadership_key_comes_back_with_one_lease(#[case] how: u8) {
    const KEY: &str = "dapr/leadership/dapr-scheduler-server-0";
    let mut fixture = Fixture::start(&["--override-broadcast-host-port=a:1"]).await;
    let etcd = &mut fixture.etcd;
    let before = etcd.get(KEY).await.unwrap();
    let record = cron::Leadership::decode(&before.value[..]).unwrap();
    assert_eq!(record.total, 1);
    let host = record.replica_data.unwrap();
    assert_eq!(host.type_url, "type.googleapis.com/dapr.proto.scheduler.v1.Host");
    assert_eq!(etcd.leases().await, [before.lease]);
    match how {
        0 => drop(etcd.lease.lease_revoke(LeaseRevokeRequest { id: before.lease }).await.unwrap()),
        1 => assert_eq!(etcd.delete(KEY).await, 1),
        _ => drop(etcd.put(KEY, "foreign").await),
    }
    testkit::until("the key is back", async || {
        let (found, leases) = (etcd.clone().get(KEY).await, etcd.clone().leases().await);
        let own = found.is_some_and(|pair| {
            pair.value == before.value && pair.lease != 0 && leases == [pair.lease]
        });
        own && leases.len() == 1
    })
    .await;
    fixture.server.client().schedule_job(request(of_app("app"), "x", once("1h"))).await.unwrap();
    let dir = fixture._dir;
    fixture.server.stop().await;
    let server = Server::start(dir.path()).await;
    assert_eq!(Etcd::of(&server).leases().await.len(), 1, "the old one is gone");
    server.stop().await;
}
