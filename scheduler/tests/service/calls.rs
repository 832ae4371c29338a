//! The service over real connections, in this process.

use std::path::Path;
use std::time::Duration;

use identity::SpiffeId;
use prost::Message as _;
use prost_types::Any;
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::watch_jobs_request::WatchJobRequestType;
use proto::scheduler::{
    DeleteByMetadataRequest, DeleteByNamePrefixRequest, DeleteJobRequest, Job, JobMetadata,
    KnownMetadata, ListJobsRequest, ScheduleJobRequest, TargetJob, WatchHostsRequest,
    WatchJobsRequest, WatchJobsRequestResult,
};
use rstest::rstest;
use testkit::ca::Ca;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use crate::client::{
    FAILED, LIMIT, SUCCESS, Server, Sidecar, get, initial, metadata, names, of_actor, of_app, once,
    request, schedule, svid, temporary,
};

#[tokio::test]
async fn a_job_is_delivered_when_it_is_due_and_gone_when_it_is_answered() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    let data = Any { type_url: String::new(), value: vec![0, 1, 255] };
    let due = runtime::clock::now() + Duration::from_millis(300);
    let job = Job { data: Some(data.clone()), ..once(&due.to_string()) };
    schedule(&server, of_app("app"), "a||b", job).await;
    let trigger = sidecar.next().await.unwrap();
    assert!(runtime::clock::now() >= due, "never early");
    assert_eq!((trigger.name.as_str(), trigger.id), ("a||b", 1));
    assert_eq!(trigger.data, Some(data));
    assert_eq!(trigger.metadata.unwrap().known(), &of_app("app"));
    sidecar.answer(1, SUCCESS).await;
    testkit::until("the job is gone", async || {
        let gone = server.client().get_job(get(of_app("app"), "a||b")).await;
        gone.is_err_and(|status| status.code() == Code::NotFound)
    })
    .await;
    assert_eq!(server.metric("dapr_scheduler_jobs_created_total"), 1);
    assert_eq!(server.metric("dapr_scheduler_jobs_triggered_total"), 1);
    server.stop().await;
}

#[tokio::test]
async fn a_reminder_repeats_until_its_count_and_a_failure_is_retried() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let mut sidecar = Sidecar::open(server.channel(), initial("other", &["cat"])).await;
    let job = Job { schedule: Some("@every 50ms".into()), repeats: Some(2), ..Job::default() };
    schedule(&server, of_actor("cat", "1"), "tick", job).await;
    for (id, answer) in [(1, FAILED), (2, SUCCESS), (3, SUCCESS)] {
        let trigger = sidecar.next().await.unwrap();
        assert_eq!((trigger.name.as_str(), trigger.id), ("tick", id));
        sidecar.answer(id, answer).await;
    }
    testkit::until("it ended", async || names(&server, of_actor("cat", "1")).await.is_empty())
        .await;
    assert_eq!(server.metric("dapr_scheduler_jobs_failed_total"), 1);
    server.stop().await;
}

#[rstest]
#[case::no_app(metadata("ns", "", Type::Job(TargetJob {})), "x", Some(once("1h")),
    Code::InvalidArgument, "missing namespace or appID in request")]
#[case::no_target(KnownMetadata { target: None, ..of_app("app") }, "x", Some(once("1h")),
    Code::Unknown, "unknown job type")]
#[case::no_name(of_app("app"), "", Some(once("1h")), Code::Unknown, "job name cannot be empty")]
#[case::slash(
    of_app("app"),
    "a/b",
    Some(once("1h")),
    Code::Unknown,
    "must not contain '/', '\\', '#' or '?'"
)]
#[case::no_job(of_app("app"), "x", None, Code::Unknown, "job cannot be nil")]
#[case::nothing(
    of_app("app"),
    "x",
    Some(Job::default()),
    Code::Unknown,
    "job failed validation: job must have either a due time or a schedule"
)]
#[case::cron(of_app("app"), "x", Some(Job { schedule: Some("* * * * *".into()), ..Job::default() }),
    Code::Unknown, "job failed validation: expected exactly 6 fields, found 5")]
#[case::reserved(
    of_actor("dapr.internal.ns.other.workflow", "1"),
    "x",
    Some(once("1h")),
    Code::PermissionDenied,
    "reserved"
)]
#[tokio::test]
async fn refuses(
    #[case] of: KnownMetadata,
    #[case] name: &str,
    #[case] job: Option<Job>,
    #[case] code: Code,
    #[case] text: &str,
) {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let metadata = Some(JobMetadata::from(of));
    let request = ScheduleJobRequest { name: name.into(), job, metadata, overwrite: true };
    let refused = server.client().schedule_job(request).await.unwrap_err();
    assert_eq!(refused.code(), code, "{refused:?}");
    assert!(refused.message().contains(text), "{refused:?}");
    server.stop().await;
}

#[tokio::test]
async fn a_job_is_replaced_only_where_the_request_says_so() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    schedule(&server, of_app("app"), "x", once("1h")).await;
    let again = request(of_app("app"), "x", once("2h"));
    let refused = server.client().schedule_job(again.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert_eq!(refused.message(), "job already exists: 'app||ns||app||x'");
    let again = ScheduleJobRequest { overwrite: true, ..again };
    server.client().schedule_job(again).await.unwrap();
    let job = server.client().get_job(get(of_app("app"), "x")).await.unwrap().into_inner().job;
    assert_eq!(job.unwrap().due_time.as_deref(), Some("2h"));
    let absent = server.client().get_job(get(of_app("app"), "y")).await.unwrap_err();
    assert_eq!((absent.code(), absent.message()), (Code::NotFound, "job not found: y"));
    server.stop().await;
}

/// Fields that this version does not know pass through the store, lists, triggers and a restart.
#[tokio::test]
async fn metadata_of_a_later_version_survives() {
    let mut sent = of_app("app").encode_to_vec();
    sent.extend([0xf2, 0x07, 3, b'n', b'e', b'w']); // field 126
    let metadata = JobMetadata::decode(sent.as_slice()).unwrap();
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let job = Some(once("0s"));
    let request =
        ScheduleJobRequest { name: "x".into(), job, metadata: Some(metadata), overwrite: false };
    server.client().schedule_job(request).await.unwrap();
    server.stop().await;

    let server = Server::start(dir.path()).await;
    let list = ListJobsRequest { metadata: Some(of_app("app").into()) };
    let listed = server.client().list_jobs(list).await.unwrap().into_inner().jobs;
    assert_eq!(listed[0].metadata.as_ref().unwrap().encode_to_vec(), sent);
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    let trigger = sidecar.next().await.unwrap();
    assert_eq!(trigger.metadata.unwrap().encode_to_vec(), sent);
    server.stop().await;
}

#[tokio::test]
async fn lists_and_deletions_stay_within_their_names() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    for app in ["a", "ab"] {
        schedule(&server, of_app(app), "1", once("1h")).await;
    }
    for (kind, id) in [("cat", "1"), ("cat", "12"), ("cat", "1||2"), ("cats", "1")] {
        schedule(&server, of_actor(kind, id), "r", once("1h")).await;
        schedule(&server, of_actor(kind, id), "s", once("1h")).await;
    }
    assert_eq!(names(&server, of_app("a")).await, ["1"]);
    assert_eq!(names(&server, of_actor("cat", "12")).await, ["r", "s"]);
    assert_eq!(names(&server, of_actor("cat", "")).await.len(), 6);

    let mut client = server.client();
    let exact = DeleteByMetadataRequest {
        metadata: Some(of_actor("cat", "1").into()),
        id_prefix_match: None,
    };
    client.delete_by_metadata(exact.clone()).await.unwrap();
    assert!(names(&server, of_actor("cat", "12")).await.len() == 2, "another id");
    assert_eq!(names(&server, of_actor("cat", "1||2")).await, ["r", "s"], "an id with delimiter");
    let begins = DeleteByMetadataRequest { id_prefix_match: Some(true), ..exact };
    client.delete_by_metadata(begins).await.unwrap();
    assert!(names(&server, of_actor("cat", "")).await.is_empty());
    assert_eq!(names(&server, of_actor("cats", "")).await.len(), 2, "another type");

    let metadata: Option<JobMetadata> = Some(of_actor("cats", "1").into());
    let prefix = DeleteByNamePrefixRequest { name_prefix: "r".into(), metadata: metadata.clone() };
    client.delete_by_name_prefix(prefix).await.unwrap();
    assert_eq!(names(&server, of_actor("cats", "1")).await, ["s"]);
    let all = DeleteByNamePrefixRequest { name_prefix: String::new(), metadata };
    client.delete_by_name_prefix(all).await.unwrap();
    assert!(names(&server, of_actor("cats", "1")).await.is_empty());

    let job = DeleteJobRequest { name: "1".into(), metadata: Some(of_app("a").into()) };
    for _ in 0..2 {
        client.delete_job(job.clone()).await.expect("an absent job is no error");
    }
    assert_eq!(names(&server, of_app("ab")).await, ["1"]);
    assert_eq!(server.metric("dapr_scheduler_jobs_bulk_deleted_total"), 4);
    server.stop().await;
}

#[tokio::test]
async fn a_list_of_tens_of_megabytes_comes_in_one_message() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let value = vec![7_u8; 2 << 20];
    for number in 0..16 {
        let data = Any { type_url: "t".into(), value: value.clone() };
        let job = Job { data: Some(data), ..once("1h") };
        schedule(&server, of_app("app"), &format!("{number:02}"), job).await;
    }
    let request = ListJobsRequest { metadata: Some(of_app("app").into()) };
    let jobs = server.client().list_jobs(request).await.unwrap().into_inner().jobs;
    let names: Vec<_> = jobs.iter().map(|job| job.name.as_str()).collect();
    assert!(names.len() == 16 && names.is_sorted());
    assert!(jobs.iter().all(|j| j.job.as_ref().unwrap().data.as_ref().unwrap().value == value));
    server.stop().await;
}

#[tokio::test]
async fn with_mtls_a_caller_speaks_for_itself_alone() {
    let (ca, dir) = (Ca::new(), temporary());
    let own = ca.svid("dapr-system", "dapr-scheduler");
    let server = Server::start_with(dir.path(), &[], Some(&svid(&ca, &own))).await;
    let app = svid(&ca, &ca.svid("ns", "app"));
    let id = SpiffeId::parse("spiffe://cluster.local/ns/dapr-system/dapr-scheduler").unwrap();
    let channel = transport::channel(&app, &server.address.to_string(), id).unwrap();
    let mut client = crate::client::client(channel.clone());
    client.schedule_job(request(of_app("app"), "x", once("0s"))).await.unwrap();
    let refused = client.schedule_job(request(of_app("other"), "x", once("1h"))).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "identity does not match request");
    let list = ListJobsRequest { metadata: Some(of_app("other").into()) };
    assert_eq!(client.list_jobs(list).await.unwrap_err().code(), Code::PermissionDenied);
    let mut other = Sidecar::open(channel.clone(), initial("other", &[])).await;
    assert_eq!(other.next().await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(server.metric("dapr_scheduler_sidecar_errors_total"), 3);
    let mut sidecar = Sidecar::open(channel, initial("app", &[])).await;
    assert_eq!(sidecar.next().await.unwrap().name, "x");
    server.stop().await;
}

#[rstest]
#[case::result_first(Some(WatchJobRequestType::Result(WatchJobsRequestResult { id: 1, status: 0 })),
    "initial request is required on stream connection")]
#[tokio::test]
async fn a_stream_begins_with_its_registration(
    #[case] first: Option<WatchJobRequestType>,
    #[case] text: &str,
) {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let mut sidecar = Sidecar::open_with(server.channel(), first).await;
    let refused = sidecar.next().await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unknown, text));
    server.stop().await;
}

#[tokio::test]
async fn unknown_ids_are_dropped_and_unknown_statuses_end_the_stream() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    sidecar.answer(77, SUCCESS).await;
    schedule(&server, of_app("app"), "x", once("0s")).await;
    assert_eq!(sidecar.next().await.unwrap().id, 1, "the stream lives");
    sidecar.answer(1, 9).await;
    let end = sidecar.next().await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unknown, "9 is not a result status"));
    testkit::until("it is not counted", async || {
        server.metric("dapr_scheduler_sidecars_connected") == 0
    })
    .await;
    let mut next = Sidecar::open(server.channel(), initial("app", &[])).await;
    assert_eq!(next.next().await.unwrap().name, "x", "no answer was given");
    server.stop().await;
}

#[tokio::test]
async fn a_trigger_without_answer_goes_to_another_stream() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let mut first = Sidecar::open(server.channel(), initial("app", &[])).await;
    schedule(&server, of_app("app"), "x", once("0s")).await;
    assert_eq!(first.next().await.unwrap().id, 1);
    let mut second = Sidecar::open(server.channel(), initial("app", &[])).await;
    drop(first);
    let trigger = second.next().await.unwrap();
    assert_eq!((trigger.name.as_str(), trigger.id), ("x", 1));
    second.answer(1, SUCCESS).await;
    testkit::until("the job is gone", async || names(&server, of_app("app")).await.is_empty())
        .await;
    assert_eq!(server.metric("dapr_scheduler_jobs_failed_total"), 0);
    server.stop().await;
}

#[tokio::test]
async fn a_stream_that_never_reads_disturbs_no_other() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = endpoint.initial_stream_window_size(4).connect().await.unwrap();
    let blocked = Sidecar::open(channel, initial("app", &[])).await;
    let mut good = Sidecar::open(server.channel(), initial("app", &[])).await;
    testkit::until("both are known", async || {
        server.metric("dapr_scheduler_sidecars_connected") == 2
    })
    .await;
    for number in 0..20 {
        let data = Any { type_url: "t".into(), value: vec![0; 128 * 1_024] };
        let job = Job { data: Some(data), ..once("0s") };
        schedule(&server, of_app("app"), &number.to_string(), job).await;
    }
    let mut answered = 0;
    while answered < 10 {
        let id = good.next().await.unwrap().id;
        good.answer(id, SUCCESS).await;
        answered += 1;
    }
    drop(blocked);
    testkit::until("it is not counted", async || {
        server.metric("dapr_scheduler_sidecars_connected") == 1
    })
    .await;
    assert_eq!(server.metric_of("dapr_scheduler_sidecar_errors_total", "send_failed"), 1);
    while answered < 20 {
        let id = good.next().await.unwrap().id;
        good.answer(id, SUCCESS).await;
        answered += 1;
    }
    testkit::until("all are done", async || names(&server, of_app("app")).await.is_empty()).await;
    schedule(&server, of_app("app"), "more", once("0s")).await;
    assert_eq!(good.next().await.unwrap().name, "more");
    server.stop().await;
}

#[tokio::test]
async fn counters_survive_a_restart() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let job = Job { schedule: Some("@every 10ms".into()), repeats: Some(3), ..Job::default() };
    schedule(&server, of_app("app"), "x", job).await;
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    for id in [1, 2] {
        assert_eq!(sidecar.next().await.unwrap().id, id);
        sidecar.answer(id, SUCCESS).await;
    }
    assert_eq!(sidecar.next().await.unwrap().id, 3, "both were counted before the third");
    server.stop().await;

    let server = Server::start(dir.path()).await;
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    assert_eq!(sidecar.next().await.unwrap().id, 1, "the third again");
    sidecar.answer(1, SUCCESS).await;
    testkit::until("three were enough", async || names(&server, of_app("app")).await.is_empty())
        .await;
    assert_eq!(server.metric("dapr_scheduler_jobs_triggered_total"), 1);
    server.stop().await;
}

#[tokio::test]
async fn hosts_are_told_once_and_the_stream_stays_open() {
    let dir = temporary();
    let flags = ["--override-broadcast-host-port=example:1"];
    let server = Server::start_with(dir.path(), &flags, None).await;
    let mut hosts = server.client().watch_hosts(WatchHostsRequest {}).await.unwrap().into_inner();
    let first = hosts.message().await.unwrap().unwrap().hosts;
    assert_eq!(first.iter().map(|host| host.address.as_str()).collect::<Vec<_>>(), ["example:1"]);
    // Regardless of other events on the server.
    schedule(&server, of_app("app"), "x", once("1h")).await;
    let more = tokio::select! {
        more = hosts.message() => more,
        () = async { server.stop().await } => hosts.message().await,
    };
    assert!(!matches!(more, Ok(Some(_))), "{more:?}");
}

/// Streams that never register, never read or never end do not hold the process.
#[tokio::test]
async fn stops_whatever_clients_do() {
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let _silent = Sidecar::open_with(server.channel(), None).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let narrow = endpoint.initial_stream_window_size(4).connect().await.unwrap();
    let _blocked = Sidecar::open(narrow, initial("app", &[])).await;
    schedule(&server, of_app("app"), "x", once("0s")).await;
    let mut hosts = Vec::new();
    for _ in 0..20 {
        hosts.push(server.client().watch_hosts(WatchHostsRequest {}).await.unwrap());
    }
    testkit::until("it is delivered", async || {
        server.metric("dapr_scheduler_sidecars_connected") == 1
    })
    .await;
    tokio::time::timeout(LIMIT, server.stop()).await.expect("an end");
}

#[tokio::test]
async fn a_second_process_waits_for_the_directory() {
    let dir = temporary();
    let first = Server::start(dir.path()).await;
    schedule(&first, of_app("app"), "x", once("1h")).await;
    let path = dir.path().to_owned();
    let mut second = std::pin::pin!(Server::start(&path));
    let early = std::future::poll_fn(|cx| std::task::Poll::Ready(second.as_mut().poll(cx)));
    assert!(early.await.is_pending());
    first.stop().await;
    let second = tokio::time::timeout(LIMIT, second).await.unwrap();
    assert_eq!(names(&second, of_app("app")).await, ["x"]);
    second.stop().await;
}

#[tokio::test]
async fn data_of_another_engine_are_left_alone() {
    let dir = temporary();
    let own = dir.path().join("default-dapr-scheduler-server-0");
    let member = own.join("dapr-0.1/member");
    std::fs::create_dir_all(&member).unwrap();
    let server = Server::start(dir.path()).await;
    let refused = server.client().schedule_job(request(of_app("app"), "x", once("1h"))).await;
    let refused: Status = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let directory = own.join("dapr-0.1");
    assert!(refused.message().contains(&directory.display().to_string()), "{refused:?}");
    assert!(!server.scope.is_ready());
    assert_eq!(entries(&own), ["dapr-0.1"]);
    server.stop().await;
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn a_message_on_a_stream_of_jobs_is_as_large_as_it_may_be() {
    const LARGEST: usize = 1024 * 1024;
    let dir = temporary();
    let server = Server::start(dir.path()).await;
    let first = |filling: usize| initial("app", &["", &"x".repeat(filling)]);
    let length = |filling| {
        let first = WatchJobRequestType::Initial(first(filling));
        WatchJobsRequest { watch_job_request_type: Some(first) }.encoded_len()
    };
    let filling = LARGEST - (length(LARGEST / 2) - LARGEST / 2);
    assert_eq!(length(filling), LARGEST);

    let mut sidecar = Sidecar::open(server.channel(), first(filling)).await;
    schedule(&server, of_app("app"), "x", once("0s")).await;
    assert_eq!(sidecar.next().await.unwrap().name, "x");
    let mut refused = Sidecar::open(server.channel(), first(filling + 1)).await;
    assert_eq!(refused.next().await.unwrap_err().code(), Code::OutOfRange);
    server.stop().await;
}
