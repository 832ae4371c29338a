//! Every metric after a scripted scene, and what is left of a load.

use prometheus::proto::{Metric, MetricFamily, MetricType};
use proto::common::job_failure_policy::Policy;
use proto::common::{JobFailurePolicy, JobFailurePolicyDrop};
use proto::scheduler::concurrency_limit::Target;
use proto::scheduler::{
    ConcurrencyLimit, ConcurrencyLimitActor, DeleteByMetadataRequest, DeleteByNamePrefixRequest,
    DeleteJobRequest, Job, KnownMetadata, WatchJobsRequestInitial,
};
use tokio::runtime::Handle;

use crate::client::{
    FAILED, SUCCESS, Server, Sidecar, initial, names, of_actor, of_app, once, request,
};

/// The series of the scheduler's own metrics, each as type, name, labels and value; of histograms
/// the number of samples, of times whether there is one.
fn series(server: &Server) -> Vec<String> {
    let families = server.scope.metrics().gather();
    let own = families.iter().filter(|family| family.name().starts_with("dapr_scheduler_"));
    own.flat_map(|family| family.get_metric().iter().map(|metric| line(family, metric))).collect()
}

fn line(family: &MetricFamily, metric: &Metric) -> String {
    let labels = metric.get_label().iter().map(|pair| format!("{}={}", pair.name(), pair.value()));
    let labels = labels.collect::<Vec<_>>().join(",");
    let (kind, value) = match family.get_field_type() {
        MetricType::GAUGE => ("gauge", metric.get_gauge().get_value().to_string()),
        MetricType::COUNTER => ("counter", metric.get_counter().get_value().to_string()),
        MetricType::HISTOGRAM => {
            ("histogram", metric.get_histogram().get_sample_count().to_string())
        }
        other => panic!("{other:?}"),
    };
    let name = family.name().trim_start_matches("dapr_scheduler_");
    let is_time = name.ends_with("_timestamp_seconds") && value != "0";
    let value = if is_time { "a time" } else { &value };
    format!("{kind} {name}{{{labels}}} {value}")
}

/// Waits until exactly these series exist. The number of batches of the store is not checked.
async fn expect(server: &Server, what: &str, want: &[&str]) {
    let relevant = || {
        let series = series(server).into_iter();
        series.filter(|line| !line.contains("commit_batch_size")).collect::<Vec<_>>()
    };
    let deadline = tokio::time::Instant::now() + crate::client::LIMIT;
    while relevant() != want && tokio::time::Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    assert_eq!(relevant(), want, "{what}");
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one scene, step by step")]
async fn every_metric_counts_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut client = server.client();
    let idle = [
        "gauge armed_jobs{} 0",
        "counter jobs_bulk_deleted_total{} 0",
        "gauge corrupt_records{} 0",
    ];
    assert!(idle.iter().all(|line| series(&server).iter().any(|found| found == line)));

    let policy = Policy::Drop(JobFailurePolicyDrop {});
    let drops =
        Job { failure_policy: Some(JobFailurePolicy { policy: Some(policy) }), ..once("0s") };
    for (name, job) in [("a", once("0s")), ("b", drops), ("later", once("1h"))] {
        client.schedule_job(request(of_app("app"), name, job)).await.unwrap();
    }
    for id in ["1", "2"] {
        client.schedule_job(request(of_actor("cat", id), "r", once("0s"))).await.unwrap();
    }
    client.schedule_job(request(of_app("app"), "later", once("1h"))).await.unwrap_err();
    let wrong = Job { schedule: Some("* * *".into()), ..Job::default() };
    client.schedule_job(request(of_actor("cat", "1"), "s", wrong)).await.unwrap_err();
    let none = KnownMetadata { target: None, ..of_app("app") };
    client.schedule_job(request(none, "s", once("0s"))).await.unwrap_err();
    client.schedule_job(request(of_app(""), "s", once("0s"))).await.unwrap_err();
    for (name, of) in [("later", of_app("app")), ("absent", of_actor("cat", "1"))] {
        let metadata = Some(of.into());
        client.delete_job(DeleteJobRequest { name: name.into(), metadata }).await.unwrap();
    }
    let metadata = Some(of_app("other").into());
    let prefix = DeleteByNamePrefixRequest { name_prefix: String::new(), metadata };
    client.delete_by_name_prefix(prefix).await.unwrap();
    let metadata = Some(of_app("other").into());
    let all = DeleteByMetadataRequest { metadata, id_prefix_match: None };
    client.delete_by_metadata(all).await.unwrap();
    expect(
        &server,
        "without a sidecar",
        &[
            "gauge armed_jobs{} 0",
            "gauge corrupt_records{} 0",
            "gauge inflight{} 0",
            "gauge jobs{} 4",
            "counter jobs_bulk_deleted_total{} 2",
            "counter jobs_created_failed_total{type=actor} 1",
            "counter jobs_created_failed_total{type=job} 1",
            "counter jobs_created_failed_total{type=unknown} 1",
            "counter jobs_created_total{type=actor} 2",
            "counter jobs_created_total{type=job} 3",
            "counter jobs_deleted_total{type=actor} 1",
            "counter jobs_deleted_total{type=job} 1",
            "counter jobs_undelivered_total{type=actor} 2",
            "counter jobs_undelivered_total{type=job} 2",
            "gauge next_due_timestamp_seconds{} 0",
            "counter sidecar_errors_total{reason=auth_failed} 1",
            "gauge sidecars_connected{} 0",
            "gauge staged_jobs{} 4",
            "gauge store{engine=embedded} 1",
            "gauge store_serves{} 1",
            "gauge waiting_jobs{} 0",
            "counter watch_resync_total{} 0",
        ],
    )
    .await;

    let target = Some(Target::Actor(ConcurrencyLimitActor { r#type: "cat".into() }));
    let limit = ConcurrencyLimit { max_concurrent: 1, name: None, target };
    let limited =
        WatchJobsRequestInitial { concurrency_limits: vec![limit], ..initial("app", &["cat"]) };
    let mut sidecar = Sidecar::open(server.channel(), limited).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let trigger = sidecar.next().await.unwrap();
        ids.push((trigger.name, trigger.id));
    }
    ids.sort();
    assert_eq!(ids.iter().map(|(name, _)| name.as_str()).collect::<String>(), "abr");
    let gates = [
        "gauge concurrency_inflight{concurrency_key=cat} 1",
        "gauge concurrency_pending{concurrency_key=cat} 1",
        "counter concurrency_throttled_total{concurrency_key=cat} 1",
        "gauge inflight{} 3",
        "gauge sidecars_connected{} 1",
        "gauge waiting_jobs{} 1",
    ];
    testkit::eventually("the gate is full", async || {
        let found = series(&server);
        let missing = gates.iter().find(|line| !found.iter().any(|found| found == *line));
        missing.map_or(Ok(()), |line| Err(format!("no {line} in {found:#?}")))
    })
    .await;
    for ((_, id), answer) in ids.iter().zip([SUCCESS, FAILED, SUCCESS]) {
        sidecar.answer(*id, answer).await;
    }
    let last = sidecar.next().await.unwrap();
    assert_eq!((last.name.as_str(), last.id), ("r", 4));
    sidecar.answer(4, SUCCESS).await;
    testkit::until("all are done", async || server.metric("dapr_scheduler_jobs") == 0).await;
    sidecar.answer(5, 9).await;
    sidecar.next().await.unwrap_err();
    expect(
        &server,
        "at the end",
        &[
            "gauge armed_jobs{} 0",
            "counter concurrency_throttled_total{concurrency_key=cat} 1",
            "gauge corrupt_records{} 0",
            "histogram due_lag_ms{type=actor} 2",
            "histogram due_lag_ms{type=job} 2",
            "gauge inflight{} 0",
            "gauge jobs{} 0",
            "counter jobs_bulk_deleted_total{} 2",
            "counter jobs_created_failed_total{type=actor} 1",
            "counter jobs_created_failed_total{type=job} 1",
            "counter jobs_created_failed_total{type=unknown} 1",
            "counter jobs_created_total{type=actor} 2",
            "counter jobs_created_total{type=job} 3",
            "counter jobs_deleted_total{type=actor} 1",
            "counter jobs_deleted_total{type=job} 1",
            "counter jobs_failed_total{type=job} 1",
            "counter jobs_triggered_total{type=actor} 2",
            "counter jobs_triggered_total{type=job} 1",
            "counter jobs_undelivered_total{type=actor} 2",
            "counter jobs_undelivered_total{type=job} 2",
            "gauge last_answer_timestamp_seconds{type=actor} a time",
            "gauge last_answer_timestamp_seconds{type=job} a time",
            "gauge next_due_timestamp_seconds{} 0",
            "counter sidecar_errors_total{reason=auth_failed} 1",
            "counter sidecar_errors_total{reason=recv_failed} 1",
            "gauge sidecars_connected{} 0",
            "gauge staged_jobs{} 0",
            "gauge store{engine=embedded} 1",
            "gauge store_serves{} 1",
            "histogram trigger_latency{type=actor} 2",
            "histogram trigger_latency{type=job} 2",
            "gauge waiting_jobs{} 0",
            "counter watch_resync_total{} 0",
        ],
    )
    .await;
    server.stop().await;
}

/// Names of etcd that dashboards and alerts read.
#[tokio::test]
async fn the_store_has_the_metrics_of_an_etcd() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    server.client().schedule_job(request(of_app("app"), "x", once("1h"))).await.unwrap();
    testkit::until("the store is measured", async || {
        server.metric("etcd_mvcc_db_total_size_in_bytes") > 0
            && server.metric("etcd_mvcc_db_total_size_in_use_in_bytes") > 0
            && server.metric("etcd_server_has_leader") == 1
            && server.metric("etcd_server_leader_changes_seen_total") == 1
    })
    .await;
    let families = server.scope.metrics().gather();
    for name in
        ["etcd_disk_backend_commit_duration_seconds", "etcd_disk_wal_fsync_duration_seconds"]
    {
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let [metric] = family.get_metric() else { panic!("{family:?}") };
        assert!(metric.get_label().is_empty() && metric.get_histogram().get_sample_count() > 0);
    }
    server.stop().await;
}

/// Fifty jobs that fire one after the other, twice each.
#[tokio::test]
async fn nothing_is_left_of_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).await;
    let mut client = server.client();
    let mut sidecar = Sidecar::open(server.channel(), initial("app", &[])).await;
    let mut idle = None;
    for _ in 0..2 {
        for number in 0..50 {
            let schedule = Some("@every 0s".into());
            let job = Job { schedule, repeats: Some(2), ..Job::default() };
            client.schedule_job(request(of_app("app"), &number.to_string(), job)).await.unwrap();
        }
        for _ in 0..100 {
            let id = sidecar.next().await.unwrap().id;
            sidecar.answer(id, SUCCESS).await;
        }
        // The gauges are up to a second older than the store.
        testkit::until("every job is deleted", async || {
            names(&server, of_app("app")).await.is_empty()
        })
        .await;
        testkit::until("nothing is left", async || {
            ["jobs", "armed_jobs", "inflight", "waiting_jobs", "staged_jobs"]
                .iter()
                .all(|name| server.metric(&format!("dapr_scheduler_{name}")) == 0)
        })
        .await;
        // After the first round every connection and every part that starts late is there.
        let tasks = || Handle::current().metrics().num_alive_tasks();
        match idle {
            None => idle = Some(tasks()),
            Some(idle) => testkit::until("no task is left", async || tasks() <= idle).await,
        }
    }
    // The job is gone when its last answer is stored; the counters follow.
    testkit::until("every trigger is counted", async || {
        server.metric("dapr_scheduler_jobs_triggered_total") == 200
    })
    .await;
    server.stop().await;
}
