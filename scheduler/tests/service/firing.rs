//! When jobs are delivered, how often, and to which stream: over real connections, in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use proto::common::job_failure_policy::Policy;
use proto::common::{JobFailurePolicy, JobFailurePolicyConstant, JobFailurePolicyDrop};
use proto::cron;
use proto::scheduler::concurrency_limit::Target;
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::{
    ConcurrencyLimit, ConcurrencyLimitActor, DeleteByMetadataRequest, DeleteJobRequest, Job,
    KnownMetadata, ListJobsRequest, ScheduleJobRequest, TargetJob, WatchJobsRequestInitial,
    WatchJobsResponse,
};
use rstest::rstest;
use runtime::clock;

use crate::client::{
    FAILED, SUCCESS, Server, Sidecar, get, initial, metadata, of_actor, of_app, once, request,
};
use crate::etcd::Fixture;

async fn schedule(server: &Server, name: &str, job: Job) {
    server.client().schedule_job(request(of_app("app"), name, job)).await.unwrap();
}

async fn ended(server: &Server) {
    testkit::until("no job is left", async || {
        let request = ListJobsRequest { metadata: Some(of_app("app").into()) };
        server.client().list_jobs(request).await.unwrap().into_inner().jobs.is_empty()
    })
    .await;
}

fn recurring(schedule: &str, repeats: Option<u32>) -> Job {
    Job { schedule: Some(schedule.into()), repeats, ..Job::default() }
}

/// A trigger that was already sent.
fn sent(sidecar: &mut Sidecar) -> Option<WatchJobsResponse> {
    sidecar.receive.message().now_or_never()?.unwrap()
}

#[tokio::test]
async fn a_thousand_jobs_are_never_early() {
    let fixture = Fixture::start(&[]).await;
    let mut sidecar = Sidecar::open(fixture.server.channel(), initial("app", &[])).await;
    let mut client = fixture.server.client();
    let mut asked = BTreeMap::new();
    for number in 0..1_000 {
        let name = number.to_string();
        asked.insert(name.clone(), clock::now());
        client.schedule_job(request(of_app("app"), &name, once("2s"))).await.unwrap();
    }
    while !asked.is_empty() {
        let trigger = sidecar.next().await.unwrap();
        let at = asked.remove(&trigger.name).expect("each one once");
        assert!(clock::now() >= at + SignedDuration::from_secs(2), "{}", trigger.name);
        sidecar.answer(trigger.id, SUCCESS).await;
    }
    ended(&fixture.server).await;
    fixture.server.stop().await;
}

/// The counter holds the planned instant of a tick: late answers move no tick.
#[rstest]
#[case("1ms")]
#[case("200ms")]
#[tokio::test]
async fn ticks_do_not_drift(#[case] period: &str) {
    let mut fixture = Fixture::start(&[]).await;
    let mut sidecar = Sidecar::open(fixture.server.channel(), initial("app", &[])).await;
    schedule(&fixture.server, "x", recurring(&format!("@every {period}"), Some(5))).await;
    let record = fixture.etcd.get("dapr/jobs/app||ns||app||x").await.unwrap().value;
    let begin = cron::Job::decode(&record[..]).unwrap().begin.unwrap();
    let cron::job::Begin::Start(start) = begin else { panic!("{begin:?}") };
    let start = Timestamp::new(start.seconds, start.nanos).unwrap();
    let period: SignedDuration = period.parse().unwrap();
    for tick in 1..=5 {
        let trigger = sidecar.next().await.unwrap();
        assert!(clock::now() >= start + period * tick, "tick {tick} is early");
        if tick == 5 {
            // Stored before the fifth was sent.
            let counter = fixture.etcd.get("dapr/counters/app||ns||app||x").await.unwrap().value;
            let counter = cron::Counter::decode(&counter[..]).unwrap();
            let last = counter.last_trigger.unwrap();
            let last = Timestamp::new(last.seconds, last.nanos).unwrap();
            assert_eq!((counter.count, last), (4, start + period * 4));
        }
        sidecar.answer(trigger.id, SUCCESS).await;
    }
    ended(&fixture.server).await;
    assert_eq!(fixture.server.metric("dapr_scheduler_jobs_triggered_total"), 5);
    fixture.server.stop().await;
}

/// An instant, so that the request depends on no clock.
fn ago(seconds: i64) -> String {
    (clock::now() - SignedDuration::from_secs(seconds)).to_string()
}

#[rstest]
#[case::time_to_live(Job { ttl: Some("3s".into()), ..recurring("@every 1s", None) }, 3)]
#[case::repeats(recurring("@every 50ms", Some(2)), 2)]
#[case::due_time_off_schedule(
    Job { due_time: Some("100ms".into()), ..recurring("@yearly", Some(1)) }, 1)]
#[case::missed_ticks(Job { due_time: Some(ago(10)), ..recurring("@every 2s", Some(6)) }, 6)]
#[case::past_due_time(Job { due_time: Some(ago(3_600)), ..Job::default() }, 1)]
#[tokio::test]
async fn a_job_has_so_many_triggers(#[case] job: Job, #[case] triggers: i64) {
    let fixture = Fixture::start(&[]).await;
    let mut sidecar = Sidecar::open(fixture.server.channel(), initial("app", &[])).await;
    schedule(&fixture.server, "x", job).await;
    for _ in 0..triggers {
        let trigger = sidecar.next().await.unwrap();
        assert!(sent(&mut sidecar).is_none(), "one after another");
        sidecar.answer(trigger.id, SUCCESS).await;
    }
    ended(&fixture.server).await;
    assert_eq!(fixture.server.metric("dapr_scheduler_jobs_triggered_total"), triggers);
    fixture.server.stop().await;
}

fn constant(interval: Option<Duration>, max_retries: Option<u32>) -> JobFailurePolicy {
    let interval = interval.map(|interval| prost_types::Duration::try_from(interval).unwrap());
    let constant = JobFailurePolicyConstant { interval, max_retries };
    JobFailurePolicy { policy: Some(Policy::Constant(constant)) }
}

fn give_up() -> JobFailurePolicy {
    JobFailurePolicy { policy: Some(Policy::Drop(JobFailurePolicyDrop {})) }
}

/// A failing job of two ticks: each is tried so often, and the second comes at its time.
#[rstest]
#[case::gives_up_at_once(give_up(), 1)]
#[case::without_interval(constant(None, Some(4)), 5)]
#[case::with_interval(constant(Some(Duration::from_millis(20)), Some(2)), 3)]
#[case::no_retry(constant(Some(Duration::from_secs(9)), Some(0)), 1)]
#[tokio::test]
async fn failures_follow_the_policy(#[case] policy: JobFailurePolicy, #[case] tries: i64) {
    let fixture = Fixture::start(&[]).await;
    let mut sidecar = Sidecar::open(fixture.server.channel(), initial("app", &[])).await;
    let job = Job { failure_policy: Some(policy), ..recurring("@every 300ms", Some(2)) };
    let asked = clock::now();
    schedule(&fixture.server, "x", job).await;
    for tick in 1..=2 {
        for _ in 0..tries {
            let trigger = sidecar.next().await.unwrap();
            assert!(clock::now() >= asked + SignedDuration::from_millis(300) * tick, "early");
            sidecar.answer(trigger.id, FAILED).await;
        }
    }
    ended(&fixture.server).await;
    assert_eq!(fixture.server.metric("dapr_scheduler_jobs_failed_total"), 2 * tries);
    fixture.server.stop().await;
}

#[tokio::test]
async fn without_a_limit_a_job_is_tried_until_it_succeeds() {
    let fixture = Fixture::start(&[]).await;
    let mut sidecar = Sidecar::open(fixture.server.channel(), initial("app", &[])).await;
    let policy = constant(Some(Duration::from_millis(5)), None);
    schedule(&fixture.server, "x", Job { failure_policy: Some(policy), ..once("0s") }).await;
    for id in 1..=20 {
        assert_eq!(sidecar.next().await.unwrap().id, id);
        sidecar.answer(id, if id == 20 { SUCCESS } else { FAILED }).await;
    }
    ended(&fixture.server).await;
    fixture.server.stop().await;
}

#[tokio::test]
async fn overdue_jobs_wait_for_their_app_and_come_once() {
    let fixture = Fixture::start(&[]).await;
    let server = &fixture.server;
    for number in 0..40 {
        schedule(server, &number.to_string(), once("0s")).await;
    }
    let other = request(of_app("other"), "x", once("0s"));
    server.client().schedule_job(other).await.unwrap();
    // Replaced before it could be delivered: it is no longer due.
    schedule(server, "replaced", once("0s")).await;
    let later = request(of_app("app"), "replaced", once("1h"));
    let later = ScheduleJobRequest { overwrite: true, ..later };
    server.client().schedule_job(later).await.unwrap();
    testkit::until("they wait", async || server.metric("dapr_scheduler_staged_jobs") == 41).await;

    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    let mut names = BTreeSet::new();
    for _ in 0..40 {
        let trigger = sidecar.next().await.unwrap();
        sidecar.answer(trigger.id, SUCCESS).await;
        assert!(names.insert(trigger.name));
    }
    assert!(!names.contains("replaced"));
    testkit::until("they are done", async || {
        server.metric("dapr_scheduler_jobs_triggered_total") == 40
    })
    .await;
    assert_eq!(server.metric("dapr_scheduler_jobs_undelivered_total"), 42, "once each");
    testkit::until("one waits", async || server.metric("dapr_scheduler_staged_jobs") == 1).await;
    assert!(sent(&mut sidecar).is_none());
    fixture.server.stop().await;
}

#[tokio::test]
async fn an_answer_to_a_replaced_or_deleted_job_counts_nothing() {
    let fixture = Fixture::start(&[]).await;
    let server = &fixture.server;
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    schedule(server, "x", once("0s")).await;
    assert_eq!(sidecar.next().await.unwrap().id, 1);
    let again = ScheduleJobRequest { overwrite: true, ..request(of_app("app"), "x", once("0s")) };
    server.client().schedule_job(again).await.unwrap();
    sidecar.answer(1, SUCCESS).await;
    assert_eq!(sidecar.next().await.unwrap().id, 2, "the new version, from its first tick");
    let gone = DeleteJobRequest { name: "x".into(), metadata: Some(of_app("app").into()) };
    server.client().delete_job(gone).await.unwrap();
    sidecar.answer(2, FAILED).await;
    schedule(server, "y", once("0s")).await;
    assert_eq!(sidecar.next().await.unwrap().name, "y", "nothing more of x");
    fixture.server.stop().await;
}

#[tokio::test]
async fn answers_come_in_any_order_and_count_once() {
    let fixture = Fixture::start(&[]).await;
    let server = &fixture.server;
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    for name in ["a", "b", "c"] {
        schedule(server, name, once("0s")).await;
    }
    for id in 1..=3 {
        assert_eq!(sidecar.next().await.unwrap().id, id);
    }
    for id in [3, 1, 3, 2, 1] {
        sidecar.answer(id, SUCCESS).await;
    }
    ended(server).await;
    schedule(server, "d", once("0s")).await;
    assert_eq!(sidecar.next().await.unwrap().id, 4, "the stream lives");
    assert_eq!(server.metric("dapr_scheduler_jobs_triggered_total"), 3);
    fixture.server.stop().await;
}

#[tokio::test]
async fn instances_of_an_app_take_turns() {
    let fixture = Fixture::start(&[]).await;
    let server = &fixture.server;
    let mut sidecars = Vec::new();
    for _ in 0..3 {
        sidecars.push(Sidecar::open(server.channel(), initial("app", &[])).await);
    }
    testkit::until("all are known", async || {
        server.metric("dapr_scheduler_sidecars_connected") == 3
    })
    .await;
    schedule(server, "x", recurring("@every 10ms", Some(6))).await;
    let mut turns = Vec::new();
    for _ in 0..6 {
        let next = sidecars.iter_mut().map(|sidecar| sidecar.next().boxed());
        let (trigger, turn, _) = futures::future::select_all(next).await;
        sidecars[turn].answer(trigger.unwrap().id, SUCCESS).await;
        turns.push(turn);
    }
    assert_eq!(turns[..3], turns[3..]);
    assert_eq!(turns[..3].iter().collect::<BTreeSet<_>>().len(), 3, "{turns:?}");
    ended(server).await;
    fixture.server.stop().await;
}

#[rstest]
#[case("a|b")]
#[case("||")]
#[case("app||ns||app||x")]
#[case("Two Words@home")]
#[case("Ünïcode ✓")]
#[tokio::test]
async fn names_come_back_unchanged(#[case] name: &str) {
    let fixture = Fixture::start(&[]).await;
    let server = &fixture.server;
    schedule(server, name, once("0s")).await;
    server.client().get_job(get(of_app("app"), name)).await.unwrap();
    let request = ListJobsRequest { metadata: Some(of_app("app").into()) };
    let jobs = server.client().list_jobs(request).await.unwrap().into_inner().jobs;
    assert_eq!(jobs.iter().map(|job| job.name.as_str()).collect::<Vec<_>>(), [name]);
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    assert_eq!(sidecar.next().await.unwrap().name, name);
    fixture.server.stop().await;
}

#[tokio::test]
async fn namespaces_that_begin_alike_do_not_touch_each_other() {
    let fixture = Fixture::start(&[]).await;
    let mut client = fixture.server.client();
    let of = |namespace: &str| metadata(namespace, "app", Type::Job(TargetJob {}));
    for namespace in ["def", "default", "default-foo"] {
        client.schedule_job(request(of(namespace), "x", once("1h"))).await.unwrap();
    }
    let list = async |of: KnownMetadata| {
        let request = ListJobsRequest { metadata: Some(of.into()) };
        fixture.server.client().list_jobs(request).await.unwrap().into_inner().jobs.len()
    };
    let deleted = DeleteByMetadataRequest {
        metadata: Some(of("default").into()),
        id_prefix_match: Some(true),
    };
    client.delete_by_metadata(deleted).await.unwrap();
    let left = [list(of("def")).await, list(of("default")).await, list(of("default-foo")).await];
    assert_eq!(left, [1, 0, 1]);
    fixture.server.stop().await;
}

/// Answers, failures and the end of a stream release a limit of one, and nothing else does.
#[tokio::test]
async fn a_limit_of_one_is_serial() {
    let fixture = Fixture::start(&[]).await;
    let server = &fixture.server;
    // Staged before there is a limit.
    for id in ["1", "2", "3"] {
        let job = Job { failure_policy: Some(give_up()), ..once("0s") };
        server.client().schedule_job(request(of_actor("cat", id), "r", job)).await.unwrap();
    }
    let target = Some(Target::Actor(ConcurrencyLimitActor { r#type: "cat".into() }));
    let limit = ConcurrencyLimit { max_concurrent: 1, name: None, target };
    let limited = || WatchJobsRequestInitial {
        concurrency_limits: vec![limit.clone()],
        ..initial("app", &["cat", "dog"])
    };
    let mut first = Sidecar::open(server.channel(), limited()).await;
    assert_eq!(actor(&first.next().await.unwrap()), ("cat", "1"));
    testkit::until("two wait", async || server.metric("dapr_scheduler_waiting_jobs") == 2).await;
    // A type without a limit does not wait.
    server.client().schedule_job(request(of_actor("dog", "1"), "r", once("0s"))).await.unwrap();
    assert_eq!(actor(&first.next().await.unwrap()), ("dog", "1"));
    assert!(sent(&mut first).is_none());
    first.answer(1, FAILED).await;
    assert_eq!(actor(&first.next().await.unwrap()), ("cat", "2"));
    drop(first);

    let mut second = Sidecar::open(server.channel(), limited()).await;
    let [one, two] = [second.next().await.unwrap(), second.next().await.unwrap()];
    let cat = if actor(&one) == ("dog", "1") { two } else { one };
    assert_eq!(actor(&cat), ("cat", "2"), "again, before the third");
    assert!(sent(&mut second).is_none());
    second.answer(cat.id, SUCCESS).await;
    assert_eq!(actor(&second.next().await.unwrap()), ("cat", "3"));
    fixture.server.stop().await;
}

/// Type and id of the actor that a trigger is for.
fn actor(trigger: &WatchJobsResponse) -> (&str, &str) {
    let known = trigger.metadata.as_ref().unwrap().known();
    let target = known.target.as_ref().and_then(|target| target.r#type.as_ref());
    let Some(Type::Actor(actor)) = target else { panic!("{trigger:?}") };
    (&actor.r#type, &actor.id)
}
