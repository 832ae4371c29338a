//! The program as a process: its environment, the address that it announces, how it stops, two of
//! them on one directory.

use std::net::IpAddr;

use proto::scheduler::scheduler_client::SchedulerClient;
use proto::scheduler::{Job, ScheduleJobRequest, WatchHostsRequest, WatchJobsRequestInitial};
use rstest::rstest;
use rustix::process::Signal;
use tonic::transport::Channel;

use crate::client::{Sidecar, initial, once};
use crate::process::{Process, endpoint, metadata};

const OWN_KEY: &str = "dapr/leadership/dapr-scheduler-server-0";

async fn schedule(channel: Channel, name: &str, job: Job) {
    let mut client = SchedulerClient::new(channel);
    let (name, metadata) = (name.to_owned(), Some(metadata()));
    let request = ScheduleJobRequest { name, job: Some(job), metadata, overwrite: false };
    client.schedule_job(request).await.unwrap();
}

#[rstest]
#[case(&[], 2048)]
#[case(&["--workers=256"], 256)]
#[tokio::test]
async fn starts_with_an_environment_of_a_namespace_alone(
    #[case] flags: &[&str],
    #[case] workers: u32,
) {
    let scheduler = Process::start(flags, &[("NAMESPACE", "default")]).await;
    testkit::until("it is ready", async || scheduler.health("/healthz") == 200).await;
    assert_eq!(scheduler.range(OWN_KEY).await.count, 1);
    let line = format!(
        r#""msg":"Starting queue with workers","id":"dapr-scheduler-server-0","count":{workers}}}"#
    );
    // A separate thread writes logs.
    testkit::until("the line is written", async || {
        scheduler.log().lines().any(|text| text.ends_with(&line))
    })
    .await;
}

#[rstest]
#[case::given(&["--override-broadcast-host-port=example:1"], &[], "example:1")]
#[case::given_empty(&["--override-broadcast-host-port="], &[], "")]
#[case::name(&["--listen-address=localhost"], &[("DAPR_HOST_IP", "10.9.9.9")], "localhost:PORT")]
#[case::loopback(&["--listen-address=127.0.0.1"], &[("DAPR_HOST_IP", "10.9.9.9")],
    "127.0.0.1:PORT")]
#[case::set(&["--listen-address=0.0.0.0"], &[("DAPR_HOST_IP", "10.9.9.9")], "10.9.9.9:PORT")]
#[case::set_name(&["--listen-address="], &[("DAPR_HOST_IP", "host")], "host:PORT")]
#[case::set_version_6(&["--listen-address="], &[("DAPR_HOST_IP", "fd00::9")], "[fd00::9]:PORT")]
#[tokio::test]
async fn announces_its_address(
    #[case] flags: &[&str],
    #[case] env: &[(&str, &str)],
    #[case] want: &str,
) {
    let scheduler = Process::start(flags, env).await;
    let want = want.replace("PORT", &scheduler.port.to_string());
    assert_eq!(scheduler.hosts().await, [want]);
}

#[tokio::test]
async fn announces_an_address_of_this_host_when_none_is_given() {
    let scheduler = Process::start(&["--listen-address="], &[]).await;
    let hosts = scheduler.hosts().await;
    let [host] = &hosts[..] else { panic!("{hosts:?}") };
    let (ip, port) = host.rsplit_once(':').unwrap();
    let ip: IpAddr = ip.trim_matches(['[', ']']).parse().unwrap();
    assert!(!ip.is_unspecified() && port == scheduler.port.to_string(), "{host}");
}

/// A client that never registers, one that does not read, and 500 that watch the list of hosts.
#[rstest]
#[tokio::test]
async fn stops_in_order_whatever_clients_do(#[values(Signal::TERM, Signal::INT)] signal: Signal) {
    let mut scheduler = Process::start(&[], &[]).await;
    let _silent = Sidecar::open_with(scheduler.channel(), None).await;
    let narrow = endpoint(scheduler.port).initial_stream_window_size(4).connect().await.unwrap();
    let app = WatchJobsRequestInitial { namespace: "default".into(), ..initial("app", &[]) };
    let _blocked = Sidecar::open(narrow, app).await;
    schedule(scheduler.channel(), "x", once("0s")).await;
    let mut hosts = Vec::new();
    for _ in 0..5 {
        let mut client = SchedulerClient::new(scheduler.channel());
        for _ in 0..100 {
            let mut stream = client.watch_hosts(WatchHostsRequest {}).await.unwrap().into_inner();
            assert!(stream.message().await.unwrap().is_some());
            hosts.push(stream);
        }
    }
    testkit::until("it is ready", async || scheduler.health("/healthz") == 200).await;

    scheduler.signal(signal);
    // 503, or no answer: it may end before the request.
    testkit::until("it is not ready", async || scheduler.health("/healthz") != 200).await;
    assert_eq!(scheduler.ended().await.code(), Some(0), "{}", scheduler.log());
    assert!(scheduler.log().contains("Scheduler service shut down gracefully"));

    scheduler.restart();
    scheduler.wait_ready().await;
    assert_eq!(scheduler.leases().await, 1, "the lease of its first life is gone");
    assert_eq!(scheduler.names().await.unwrap().len(), 1, "it was not answered");
}

/// Dapr 1.19: a store that cannot be opened is no reason to end.
#[tokio::test]
async fn a_process_whose_store_is_down_is_live_and_ready_once_it_is_back() {
    let scheduler = Process::start_with_blocked_store();
    testkit::until("it answers 503", async || scheduler.health("/healthz") == 503).await;
    assert_eq!(scheduler.health("/livez"), 200);
    scheduler.unblock_store();
    scheduler.wait_ready().await;
    testkit::until("it is ready", async || scheduler.health("/healthz") == 200).await;
}

#[tokio::test]
async fn a_second_process_takes_over_when_the_first_is_killed() {
    let mut first = Process::start(&[], &[]).await;
    for name in ["a", "b"] {
        schedule(first.channel(), name, once("1h")).await;
    }
    let revision = first.range(OWN_KEY).await.header.unwrap().revision;
    let second = first.second();
    testkit::until("it waits", async || second.log().contains("in use by another process")).await;
    assert_eq!((second.health("/healthz"), second.health("/livez")), (503, 200));
    schedule(first.channel(), "c", once("1h")).await;

    // A killed process stays a zombie until its parent waits for it.
    first.child.kill().unwrap();
    second.wait_ready().await;
    testkit::until("it is ready", async || second.health("/healthz") == 200).await;
    assert_eq!(second.names().await.unwrap().into_iter().collect::<String>(), "abc");
    let own = second.range(OWN_KEY).await;
    assert!(own.count == 1 && own.header.unwrap().revision > revision);
    assert_eq!(second.leases().await, 1);
}

/// Exit code, standard output and standard error of a process that does not start.
fn refused(flags: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_scheduler");
    let ports = ["--healthz-port=0", "--metrics-port=0", "--port=0", "--etcd-client-port=0"];
    let done = std::process::Command::new(program).args(ports).args(flags).env_clear().output();
    let done = done.unwrap();
    let [out, err] = [done.stdout, done.stderr].map(|text| String::from_utf8(text).unwrap());
    (done.status.code(), out, err)
}

#[rstest]
#[case(&["--etcd-client-endpoints=a:1,b:2"], "cannot use --etcd-client-endpoints with --etcd-embed")]
#[case(&["--etcd-client-username", "u"], "cannot use --etcd-client-username with --etcd-embed")]
#[case(&["--etcd-client-password=p"], "cannot use --etcd-client-password with --etcd-embed")]
#[case(&["--etcd-embed=false"], "must specify --etcd-client-endpoints when not using embedded etcd")]
#[case(&["--kubeconfig=x"], "kubeconfig flag is only valid in --mode=kubernetes")]
#[case(&["--id=x"], "scheduler ID: x is not found in initial cluster")]
#[case(&["--etcd-initial-cluster=x"], "<id>=http://<ip>:<peer-port>")]
#[case(&["--etcd-space-quota=x"], "failed to parse etcd space quota: x")]
#[case(&["--etcd-backend-batch-interval=x"], "failed to parse etcd backend batch interval: x")]
#[case(&["--workers=0"], "workers must be larger than 0")]
fn flags_that_do_not_go_together_end_it_with_a_fatal_line(
    #[case] flags: &[&str],
    #[case] text: &str,
) {
    let (code, out, err) = refused(flags);
    assert_eq!((code, err.as_str()), (Some(1), ""), "{out}");
    let line = out.lines().find(|line| line.contains("level=fatal"));
    assert!(line.is_some_and(|line| line.contains(text)), "{out}");
}

#[rstest]
#[case(&["--no-such-flag"])]
#[case(&["--store-engine=paper"])]
#[case(&["--port=x"])]
fn flags_that_do_not_exist_end_it_with_the_usage(#[case] flags: &[&str]) {
    let (code, out, err) = refused(flags);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("--help"), "{err}");
}
