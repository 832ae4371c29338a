//! A scheduler that shares its store with others, and a sidecar of the test that counts every
//! delivery.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use blackbox::tools::path_with_etcd;
use blackbox::{
    Process, Scratch, Spawn, Tool, build_binary, environment, movable_clock, soon, until,
};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::scheduler_client::SchedulerClient;
use proto::scheduler::watch_jobs_request::WatchJobRequestType;
use proto::scheduler::{
    GetJobRequest, Job, JobTargetMetadata, KnownMetadata, ListJobsRequest, NamedJob,
    ScheduleJobRequest, TargetJob, WatchHostsRequest, WatchJobsRequest, WatchJobsRequestInitial,
    WatchJobsRequestResult,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::etcd_server::EtcdServer;

/// Time limit of a call.
const CALL: Duration = Duration::from_secs(30);

/// Jobs whose names begin so are answered with a failure.
pub(crate) const FAILS: &str = "fails";

/// Which program a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Reference,
}

/// A scheduler that shares an etcd with others.
pub(crate) struct Member {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) health: u16,
    pub(crate) metrics: u16,
    pub(crate) id: String,
    pub(crate) flags: Vec<String>,
    kind: Kind,
    folder: Scratch,
    /// Seconds by which its wall clock is ahead.
    ahead: i64,
}

impl Member {
    pub(crate) fn start(kind: Kind, number: usize, etcd: &EtcdServer) -> Result<Self> {
        Self::start_with(kind, number, &etcd.endpoint(), &[])
    }

    /// One over the external etcd at that endpoint, with more flags.
    pub(crate) fn start_with(
        kind: Kind,
        number: usize,
        endpoint: &str,
        flags: &[String],
    ) -> Result<Self> {
        let mut all = external(number, endpoint);
        all.extend(flags.iter().cloned());
        let mut member = Self::spawn(kind, number, all)?;
        member.wait_healthy()?;
        Ok(member)
    }

    /// One of ours over the external etcd whose wall clock is so many seconds ahead.
    pub(crate) fn start_ahead(number: usize, etcd: &EtcdServer, ahead: i64) -> Result<Self> {
        let flags = external(number, &etcd.endpoint());
        let mut member = Self::spawn_ahead(Kind::Ours, number, flags, ahead)?;
        member.wait_healthy()?;
        Ok(member)
    }

    /// One whose flags say where its jobs are. It may not be healthy before others run.
    pub(crate) fn spawn(kind: Kind, number: usize, flags: Vec<String>) -> Result<Self> {
        Self::spawn_ahead(kind, number, flags, 0)
    }

    fn spawn_ahead(kind: Kind, number: usize, flags: Vec<String>, ahead: i64) -> Result<Self> {
        let id = id(number);
        let port = || environment::free_port();
        let ports = [port()?, port()?, port()?];
        let folder = Scratch::new("member")?;
        let process = spawn(kind, &id, ports, &flags, &folder, ahead)?;
        let [port, health, metrics] = ports;
        Ok(Self { process, port, health, metrics, id, flags, kind, folder, ahead })
    }

    pub(crate) fn wait_healthy(&mut self) -> Result<()> {
        self.process.wait_for_http(self.health, "/healthz", soon())
    }

    /// Starts it again, as the same or the other program, on its ports, and waits for its health.
    pub(crate) fn restart(&mut self, kind: Kind) -> Result<()> {
        self.start_again(kind)?;
        self.wait_healthy()
    }

    /// The same without the wait.
    pub(crate) fn start_again(&mut self, kind: Kind) -> Result<()> {
        let ports = [self.port, self.health, self.metrics];
        self.kind = kind;
        self.process = spawn(kind, &self.id, ports, &self.flags, &self.folder, self.ahead)?;
        Ok(())
    }

    pub(crate) fn stop(&mut self) -> Result<()> {
        self.process.terminate(soon()).map(drop)
    }

    /// Puts another etcd beside it, for its next start.
    pub(crate) fn replace_etcd(&self, tool: Tool) -> Result<()> {
        std::fs::remove_file(self.folder.path().join("etcd"))?;
        Ok(symlink(tool.path()?, self.folder.path().join("etcd"))?)
    }

    /// Shards that it triggered last while there were so many members, as its log says.
    pub(crate) fn shards(&self, members: usize) -> usize {
        let log = self.process.log();
        let line = log.rsplit_once(&format!("{members} members; this one triggers "));
        line.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()).unwrap_or_default()
    }

    /// Deletes its data, while it does not run.
    pub(crate) fn lose_data(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.folder.path().join("data"))?)
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// Flags of a member over an external etcd.
fn external(number: usize, endpoint: &str) -> Vec<String> {
    vec![
        "--etcd-embed=false".to_owned(),
        format!("--etcd-client-endpoints={endpoint}"),
        format!("--etcd-initial-cluster={}=http://127.0.0.1:1", id(number)),
    ]
}

fn id(number: usize) -> String {
    format!("dapr-scheduler-server-{number}")
}

fn spawn(
    kind: Kind,
    id: &str,
    [port, health, metrics]: [u16; 3],
    flags: &[String],
    folder: &Scratch,
    ahead: i64,
) -> Result<Process> {
    let program: PathBuf = match kind {
        Kind::Ours => build_binary("scheduler")?,
        Kind::Reference => Tool::REFERENCE_SCHEDULER.path()?,
    };
    let mut spawn = Spawn::new("scheduler", program, folder.path());
    if ahead != 0 {
        for (name, value) in movable_clock(folder)? {
            spawn = spawn.env(name, value);
        }
        folder.write("offset", ahead.to_string())?;
    }
    spawn
        .arg(format!("--id={id}"))
        .arg(format!("--port={port}"))
        .arg(format!("--healthz-port={health}"))
        .arg(format!("--metrics-port={metrics}"))
        .arg(format!("--etcd-data-dir={}", folder.path().join("data").display()))
        .arg(format!("--override-broadcast-host-port=127.0.0.1:{port}"))
        .arg("--listen-address=127.0.0.1")
        .args(flags)
        .env("PATH", path_with_etcd(folder.path())?)
        .env_remove("NAMESPACE")
        .start()
}

/// One delivery.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) name: String,
    pub(crate) at: SystemTime,
    /// The port of the scheduler that it came from.
    pub(crate) from: u16,
}

/// Streams to schedulers, opened again where they end, as a sidecar does. They answer each trigger
/// with success and count it.
pub(crate) struct Crowd {
    pub(crate) runtime: Runtime,
    seen: Arc<Mutex<CrowdState>>,
}

#[derive(Default)]
struct CrowdState {
    deliveries: Vec<Delivery>,
    /// Ports whose triggers are not answered yet.
    held: BTreeSet<u16>,
    /// How long an app takes for each job.
    work: Duration,
    /// Hosts that each stream of hosts has seen last.
    hosts: Vec<usize>,
}

impl Crowd {
    /// One stream to each port.
    pub(crate) fn start(ports: &[u16]) -> Result<Self> {
        let crowd = Self { runtime: Runtime::new()?, seen: Arc::default() };
        for port in ports {
            crowd.watch(*port);
        }
        Ok(crowd)
    }

    /// One more stream, which gets the jobs of the app.
    pub(crate) fn watch(&self, port: u16) {
        self.watch_as(port, WatchJobsRequestInitial::default());
    }

    /// One more stream of the app with this first message.
    pub(crate) fn watch_as(&self, port: u16, initial: WatchJobsRequestInitial) {
        let KnownMetadata { app_id, namespace, .. } = metadata();
        let initial = WatchJobsRequestInitial { app_id, namespace, ..initial };
        self.runtime.spawn(watch_jobs(port, initial, self.seen.clone()));
    }

    /// Answers the triggers of a port later, or from now on.
    pub(crate) fn hold(&self, port: u16, held: bool) {
        let ports = &mut self.seen.lock().unwrap().held;
        let _ = if held { ports.insert(port) } else { ports.remove(&port) };
    }

    /// Apps take so long for each job from now on.
    pub(crate) fn work_for(&self, time: Duration) {
        self.seen.lock().unwrap().work = time;
    }

    pub(crate) fn seen(&self) -> Vec<Delivery> {
        self.seen.lock().unwrap().deliveries.clone()
    }

    /// How often each job was delivered.
    pub(crate) fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for delivery in self.seen() {
            *counts.entry(delivery.name).or_default() += 1;
        }
        counts
    }

    pub(crate) fn schedule(&self, port: u16, name: &str, job: Job) -> Result<()> {
        self.schedule_if(port, name, job, true)
    }

    /// Schedules a job, which replaces one of that name if it is to.
    pub(crate) fn schedule_if(
        &self,
        port: u16,
        name: &str,
        job: Job,
        overwrite: bool,
    ) -> Result<()> {
        self.send(port, schedule_request(name, job, overwrite))
    }

    /// Makes a call that schedules a job.
    pub(crate) fn send(&self, port: u16, request: ScheduleJobRequest) -> Result<()> {
        self.runtime.block_on(async {
            let mut client = SchedulerClient::new(channel(port));
            tokio::time::timeout(CALL, client.schedule_job(request)).await??;
            Ok(())
        })
    }

    /// Schedules jobs on one connection, so many calls at a time.
    pub(crate) fn schedule_all(
        &self,
        port: u16,
        callers: usize,
        jobs: impl IntoIterator<Item = (String, Job)>,
    ) -> Result<()> {
        let request = |(name, job): (String, Job)| schedule_request(&name, job, false);
        self.send_all(port, callers, jobs.into_iter().map(request))
    }

    /// Makes calls that schedule jobs, on one connection, so many at a time.
    pub(crate) fn send_all(
        &self,
        port: u16,
        callers: usize,
        requests: impl IntoIterator<Item = ScheduleJobRequest>,
    ) -> Result<()> {
        self.runtime.block_on(async {
            let client = SchedulerClient::new(channel(port));
            let call = async |request| {
                tokio::time::timeout(CALL, client.clone().schedule_job(request)).await??;
                anyhow::Ok(())
            };
            let calls = stream::iter(requests).map(call).buffer_unordered(callers);
            calls.try_collect().await
        })
    }

    /// Reads a job.
    pub(crate) fn get(&self, port: u16, name: &str) -> Result<()> {
        let request = GetJobRequest { name: name.to_owned(), metadata: Some(metadata().into()) };
        self.runtime.block_on(async {
            let mut client = SchedulerClient::new(channel(port));
            tokio::time::timeout(CALL, client.get_job(request)).await??;
            Ok(())
        })
    }

    /// All jobs of the app.
    pub(crate) fn list(&self, port: u16) -> Result<Vec<NamedJob>> {
        let request = ListJobsRequest { metadata: Some(metadata().into()) };
        self.runtime.block_on(async {
            let client = SchedulerClient::new(channel(port));
            let mut client = client.max_decoding_message_size(usize::MAX);
            let answer = tokio::time::timeout(CALL, client.list_jobs(request)).await??;
            Ok(answer.into_inner().jobs)
        })
    }

    /// The first list of hosts that a scheduler sends.
    pub(crate) fn hosts(&self, port: u16) -> Result<Vec<String>> {
        self.runtime.block_on(async {
            let mut client = SchedulerClient::new(channel(port));
            let mut lists = client.watch_hosts(WatchHostsRequest {}).await?.into_inner();
            let list = tokio::time::timeout(Duration::from_secs(30), lists.message()).await??;
            Ok(list.unwrap_or_default().hosts.into_iter().map(|host| host.address).collect())
        })
    }

    /// So many streams of hosts, each on a connection of its own.
    pub(crate) fn watch_hosts(&self, port: u16, count: usize) {
        for _ in 0..count {
            let mut state = self.seen.lock().unwrap();
            let number = state.hosts.len();
            state.hosts.push(0);
            self.runtime.spawn(watch_hosts(port, number, self.seen.clone()));
        }
    }

    /// Waits until each of these streams knows so many hosts. A stream that has ended never does.
    pub(crate) fn wait_for_known_hosts(&self, count: usize) -> Result<()> {
        until(soon(), &format!("{count} hosts on every stream"), || {
            let known = self.seen.lock().unwrap().hosts.clone();
            ensure!(!known.is_empty(), "no stream was opened");
            Ok(known.iter().all(|known| *known == count).then_some(()))
        })
    }

    /// Waits until each of these members knows so many.
    pub(crate) fn wait_for_hosts<'a>(
        &self,
        members: impl IntoIterator<Item = &'a Member>,
        count: usize,
    ) -> Result<()> {
        for member in members {
            until(soon(), &format!("{count} hosts"), || {
                Ok(self.hosts(member.port).is_ok_and(|hosts| hosts.len() == count).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Waits until each of these jobs was delivered so often.
    pub(crate) fn wait_for(&self, names: &[String], count: usize) -> Result<()> {
        until(soon(), &format!("{count} deliveries of each job"), || {
            let counts = self.counts();
            let all = names.iter().all(|name| counts.get(name).is_some_and(|seen| *seen >= count));
            Ok(all.then_some(()))
        })
    }

    /// Waits until each of these jobs was delivered so often again.
    pub(crate) fn wait_for_more(&self, names: &[String], more: usize) -> Result<()> {
        let before = self.counts();
        for name in names {
            let seen = before.get(name).copied().unwrap_or(0);
            self.wait_for(std::slice::from_ref(name), seen + more)?;
        }
        Ok(())
    }

    /// Fails when one of these jobs was delivered more than once.
    pub(crate) fn ensure_once(&self, names: &[String]) -> Result<()> {
        let mut twice = self.counts();
        twice.retain(|name, count| *count > 1 && names.contains(name));
        ensure!(twice.is_empty(), "delivered more than once: {twice:?}");
        Ok(())
    }
}

fn channel(port: u16) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy()
}

fn schedule_request(name: &str, job: Job, overwrite: bool) -> ScheduleJobRequest {
    let (name, job, metadata) = (name.to_owned(), Some(job), Some(metadata().into()));
    ScheduleJobRequest { name, job, metadata, overwrite }
}

pub(crate) fn metadata() -> KnownMetadata {
    let target = JobTargetMetadata { r#type: Some(Type::Job(TargetJob {})) };
    let (app_id, namespace) = ("app".to_owned(), "default".to_owned());
    KnownMetadata { app_id, namespace, target: Some(target), concurrency_key: None }
}

/// Keeps the number of hosts that one stream has seen last; 0 once it has ended.
async fn watch_hosts(port: u16, number: usize, seen: Arc<Mutex<CrowdState>>) {
    let know = |count| seen.lock().unwrap().hosts[number] = count;
    let mut client = SchedulerClient::new(channel(port));
    if let Ok(lists) = client.watch_hosts(WatchHostsRequest {}).await {
        let mut lists = lists.into_inner();
        while let Ok(Some(list)) = lists.message().await {
            know(list.hosts.len());
        }
    }
    know(0);
}

/// Keeps a stream to one scheduler.
async fn watch_jobs(port: u16, initial: WatchJobsRequestInitial, seen: Arc<Mutex<CrowdState>>) {
    loop {
        let _ = keep_stream(port, initial.clone(), &seen).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn keep_stream(
    port: u16,
    initial: WatchJobsRequestInitial,
    seen: &Arc<Mutex<CrowdState>>,
) -> Result<()> {
    let (send, requests) = mpsc::channel(1_024);
    let message = |of| WatchJobsRequest { watch_job_request_type: Some(of) };
    send.send(message(WatchJobRequestType::Initial(initial))).await?;
    let mut client = SchedulerClient::new(channel(port));
    let mut triggers = client.watch_jobs(ReceiverStream::new(requests)).await?.into_inner();
    let mut answers = JoinSet::new();
    while let Some(trigger) = triggers.message().await? {
        let at = runtime::clock::now().into();
        let status = i32::from(trigger.name.starts_with(FAILS));
        let delivery = Delivery { name: trigger.name, at, from: port };
        seen.lock().unwrap().deliveries.push(delivery);
        while seen.lock().unwrap().held.contains(&port) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let result = WatchJobsRequestResult { id: trigger.id, status };
        let result = message(WatchJobRequestType::Result(result));
        if seen.lock().unwrap().work.is_zero() {
            send.send(result).await?;
            continue;
        }
        let (send, seen, begun) = (send.clone(), seen.clone(), Instant::now());
        answers.spawn(async move {
            while begun.elapsed() < seen.lock().unwrap().work {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let _ = send.send(result).await; // the stream may have ended
        });
    }
    Ok(())
}

pub(crate) fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number:03}")).collect()
}

pub(crate) fn once(due: &str) -> Job {
    Job { due_time: Some(due.to_owned()), ..Job::default() }
}

pub(crate) fn every(period: &str) -> Job {
    Job { schedule: Some(format!("@every {period}")), ..Job::default() }
}
