//! The process under random load and `kill -9` at random moments: what was acknowledged is what is
//! stored.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::scheduler_client::SchedulerClient;
use proto::scheduler::{
    DeleteJobRequest, Job, JobMetadata, JobTargetMetadata, KnownMetadata, ListJobsRequest,
    ScheduleJobRequest, TargetJob,
};
use testkit::Choice;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// Callers that schedule and delete at once.
const CALLERS: usize = 8;
/// Names of each caller: few, so that names are deleted and scheduled again.
const NAMES: usize = 40;
/// The most calls that are acknowledged before a crash.
const LONGEST_LIFE: usize = 600;

/// What is known of the store from the answers.
#[derive(Default)]
struct Known {
    /// Acknowledged as stored.
    stored: BTreeSet<String>,
    /// Calls without an answer: their jobs may be there or not.
    uncertain: BTreeSet<String>,
    /// Acknowledged calls of this life.
    calls: usize,
}

/// The program on ports of its own, which can be killed and started again.
struct Process {
    child: Child,
    port: u16,
    args: Vec<String>,
    _dir: tempfile::TempDir,
}

impl Process {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [port, health, metrics, client] = free_ports();
        let args = vec![
            format!("--port={port}"),
            format!("--healthz-port={health}"),
            format!("--metrics-port={metrics}"),
            format!("--etcd-client-port={client}"),
            format!("--etcd-data-dir={}", dir.path().display()),
            "--listen-address=127.0.0.1".to_owned(),
            "--healthz-listen-address=127.0.0.1".to_owned(),
            "--log-level=error".to_owned(),
        ];
        let process = Self { child: spawn(&args), port, args, _dir: dir };
        process.wait_ready().await;
        process
    }

    async fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(&self.args);
        self.wait_ready().await;
    }

    async fn wait_ready(&self) {
        testkit::eventually("the scheduler answers", async || self.names().await).await;
    }

    fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.port)).unwrap();
        endpoint.connect_lazy()
    }

    async fn names(&self) -> Result<BTreeSet<String>, tonic::Status> {
        let mut client = SchedulerClient::new(self.channel());
        let request = ListJobsRequest { metadata: Some(metadata()) };
        let jobs = client.list_jobs(request).await?.into_inner().jobs;
        Ok(jobs.into_iter().map(|job| job.name).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(args: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_scheduler"))
        .args(args)
        .env_remove("NAMESPACE")
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Ports that are free now: held together, so that they differ.
fn free_ports() -> [u16; 4] {
    let held = [(); 4].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_20_crashes() {
    run(20, 19).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn what_was_acknowledged_survives_200_crashes() {
    run(200, 1_900).await;
}

async fn run(rounds: u64, seed: u64) {
    let mut choice = Choice::new(seed);
    let mut scheduler = Process::start().await;
    let known = Arc::new(Mutex::new(Known::default()));
    for round in 0..rounds {
        let channel = scheduler.channel();
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let client = SchedulerClient::new(channel.clone());
            callers.spawn(load(client, caller, choice.number(), known.clone()));
        }
        let life = choice.below(LONGEST_LIFE);
        testkit::until("enough calls", async || known.lock().unwrap().calls >= life).await;
        scheduler.crash().await;
        while let Some(ended) = callers.join_next().await {
            ended.unwrap();
        }
        let found = scheduler.names().await.unwrap();
        let mut known = known.lock().unwrap();
        let lost: Vec<_> = known.stored.difference(&found).collect();
        assert!(lost.is_empty(), "round {round}, seed {seed}: lost {lost:?}");
        let new = found.difference(&known.stored);
        let unasked: Vec<_> = new.filter(|name| !known.uncertain.contains(*name)).collect();
        assert!(unasked.is_empty(), "round {round}, seed {seed}: came back {unasked:?}");
        *known = Known { stored: found, ..Known::default() };
    }
    assert!(!known.lock().unwrap().stored.is_empty());
}

fn metadata() -> JobMetadata {
    let target = JobTargetMetadata { r#type: Some(Type::Job(TargetJob {})) };
    let (app_id, namespace) = ("app".to_owned(), "default".to_owned());
    KnownMetadata { app_id, namespace, target: Some(target), concurrency_key: None }.into()
}

/// Schedules and deletes until a call fails, which is the crash.
async fn load(
    mut client: SchedulerClient<Channel>,
    caller: usize,
    seed: u64,
    known: Arc<Mutex<Known>>,
) {
    let mut choice = Choice::new(seed);
    loop {
        let name = format!("{caller}-{}", choice.below(NAMES));
        let puts = choice.below(3) > 0;
        {
            let mut known = known.lock().unwrap();
            known.stored.remove(&name);
            known.uncertain.insert(name.clone());
        }
        let done = if puts {
            let job = Some(Job { due_time: Some("24h".to_owned()), ..Job::default() });
            let (name, metadata) = (name.clone(), Some(metadata()));
            let request = ScheduleJobRequest { name, job, metadata, overwrite: true };
            client.schedule_job(request).await.map(drop)
        } else {
            let request = DeleteJobRequest { name: name.clone(), metadata: Some(metadata()) };
            client.delete_job(request).await.map(drop)
        };
        if done.is_err() {
            return;
        }
        let mut known = known.lock().unwrap();
        known.calls += 1;
        known.uncertain.remove(&name);
        if puts {
            known.stored.insert(name);
        }
    }
}
