//! The etcd API over real connections, in this process: a full store, snapshots, and the effect of
//! writes on jobs and on the leadership key.

use prost::Message as _;
use proto::cron;
use proto::etcd::etcdserverpb::alarm_request::AlarmAction;
use proto::etcd::etcdserverpb::auth_client::AuthClient;
use proto::etcd::etcdserverpb::cluster_client::ClusterClient;
use proto::etcd::etcdserverpb::request_op::Request as Op;
use proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmType, AuthenticateRequest, CompactionRequest, DefragmentRequest,
    DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, MemberListRequest, PutRequest, SnapshotRequest, StatusRequest,
    TxnRequest,
};
use proto::scheduler::DeleteByMetadataRequest;
use rstest::rstest;
use tonic::Code;

use crate::client::{SUCCESS, Server, Sidecar, get, initial, of_app, once, request};
use crate::etcd::{Etcd, Fixture, op, put, range, refused};

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
    const JOBS: usize = 998;
    /// Puts of one transaction.
    const TOGETHER: usize = 128;
    let mut fixture = Fixture::start(&[]).await;
    let mut sidecar = Sidecar::open(fixture.server.channel(), initial("app", &[])).await;
    let once = record(&mut fixture, "x", "3s").await;
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
    let name = |number: usize| format!("app||ns||app||{number:04}");
    let put = |key: String, value: Vec<u8>| op(Op::RequestPut(put(&key, value)));
    let mut jobs: Vec<_> =
        (0..JOBS).map(|number| put(format!("dapr/jobs/{}", name(number)), once.clone())).collect();
    jobs.push(put(format!("dapr/jobs/{}", name(9_000)), twice.encode_to_vec()));
    jobs.push(put(format!("dapr/jobs/{}", name(9_001)), twice.encode_to_vec()));
    // The counter of one in the same transaction, of the other in the next: one tick and none left.
    jobs.push(put(format!("dapr/counters/{}", name(9_000)), counter(1)));
    for jobs in jobs.chunks(TOGETHER) {
        let request = TxnRequest { success: jobs.to_vec(), ..TxnRequest::default() };
        fixture.etcd.txn(request).await.unwrap();
    }
    let counters = vec![put(format!("dapr/counters/{}", name(9_001)), counter(2))];
    fixture.etcd.txn(TxnRequest { success: counters, ..TxnRequest::default() }).await.unwrap();
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..=JOBS {
        let trigger = sidecar.next().await.unwrap();
        sidecar.answer(trigger.id, SUCCESS).await;
        assert!(names.insert(trigger.name), "each one once");
    }
    assert!(names.contains("9000") && !names.contains("9001"), "{names:?}");
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
    let dir = fixture.dir;
    fixture.server.stop().await;
    let server = Server::start(dir.path()).await;
    assert_eq!(Etcd::of(&server).leases().await.len(), 1, "the old one is gone");
    server.stop().await;
}

/// Both ports show one state in one order, so the test waits for nothing.
#[tokio::test]
async fn each_port_reads_what_the_other_has_written() {
    let mut fixture = Fixture::start(&[]).await;
    let mut client = fixture.server.client();
    for round in 0..50 {
        let name = format!("{round}");
        let key = format!("dapr/jobs/app||ns||app||{name}");
        client.schedule_job(request(of_app("app"), &name, once("1h"))).await.unwrap();
        let record = fixture.etcd.get(&key).await.expect("what was scheduled");
        assert_eq!(fixture.etcd.delete(&key).await, 1);
        assert_eq!(fixture.names().await, [""; 0], "what was deleted");
        fixture.etcd.put(&key, record.value).await;
        client.get_job(get(of_app("app"), &name)).await.expect("what was put");
        let all =
            DeleteByMetadataRequest { metadata: Some(of_app("app").into()), id_prefix_match: None };
        client.delete_by_metadata(all).await.unwrap();
        assert!(fixture.etcd.get(&key).await.is_none(), "what was deleted in bulk");
    }
    fixture.server.stop().await;
}
