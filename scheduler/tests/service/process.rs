//! The program as a process on its own ports, which can be killed and restarted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;

use proto::etcd::etcdserverpb::kv_client::KvClient;
use proto::etcd::etcdserverpb::lease_client::LeaseClient;
use proto::etcd::etcdserverpb::{LeaseLeasesRequest, RangeRequest, RangeResponse};
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::scheduler_client::SchedulerClient;
use proto::scheduler::{JobMetadata, ListJobsRequest, TargetJob, WatchHostsRequest};
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

const NAMESPACE: &str = "default";

pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) port: u16,
    pub(crate) health: u16,
    pub(crate) client: u16,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    dir: Arc<tempfile::TempDir>,
    log: PathBuf,
}

impl Process {
    /// A process that answers.
    pub(crate) async fn start(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let process = Self::spawn(Arc::new(tempfile::tempdir().unwrap()), flags, env);
        process.wait_ready().await;
        process
    }

    /// One whose directory of the store is a file.
    pub(crate) fn start_with_blocked_store() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = store_folder(dir.path());
        fs::create_dir_all(store.parent().unwrap()).unwrap();
        fs::write(store, "in the way").unwrap();
        Self::spawn(Arc::new(dir), &[], &[("NAMESPACE", NAMESPACE)])
    }

    pub(crate) fn unblock_store(&self) {
        fs::remove_file(store_folder(self.dir.path())).unwrap();
    }

    fn spawn(dir: Arc<tempfile::TempDir>, flags: &[&str], env: &[(&str, &str)]) -> Self {
        let [port, health, metrics, client] = [(); 4].map(|()| testkit::free_port().unwrap());
        let mut all = vec![
            format!("--port={port}"),
            format!("--healthz-port={health}"),
            format!("--metrics-port={metrics}"),
            format!("--etcd-client-port={client}"),
            format!("--etcd-data-dir={}", dir.path().join("data").display()),
            "--listen-address=127.0.0.1".to_owned(),
            "--healthz-listen-address=127.0.0.1".to_owned(),
        ];
        all.extend(flags.iter().map(ToString::to_string));
        let env: Vec<_> =
            env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let log = dir.path().join(format!("log-{health}"));
        let child = run(&all, &env, &log);
        Self { child, port, health, client, flags: all, env, dir, log }
    }

    /// Another process with the same id and directory, on other ports; it need not answer.
    pub(crate) fn second(&self) -> Self {
        Self::spawn(self.dir.clone(), &[], &[])
    }

    /// Restarts it on the same ports, after its end.
    pub(crate) fn restart(&mut self) {
        self.child = run(&self.flags, &self.env, &self.log);
    }

    pub(crate) async fn crash(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.restart();
        self.wait_ready().await;
    }

    pub(crate) async fn wait_ready(&self) {
        let what = "the scheduler answers";
        testkit::eventually(what, async || self.names().await).await;
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = std::sync::Mutex::new(&mut self.child);
        testkit::eventually("the end of the process", async || {
            child.lock().unwrap().try_wait().unwrap().ok_or("it runs")
        })
        .await
    }

    /// The status of a path of the health port, 0 while nothing listens.
    pub(crate) fn health(&self, path: &str) -> u16 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.health)) else { return 0 };
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        let sent = stream.write_all(request.as_bytes());
        if sent.and_then(|()| stream.read_to_string(&mut answer)).is_err() {
            return 0;
        }
        answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Its standard output and standard error.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn channel(&self) -> Channel {
        endpoint(self.port).connect_lazy()
    }

    pub(crate) async fn names(&self) -> Result<BTreeSet<String>, tonic::Status> {
        let mut client = SchedulerClient::new(self.channel());
        let request = ListJobsRequest { metadata: Some(metadata()) };
        let jobs = client.list_jobs(request).await?.into_inner().jobs;
        Ok(jobs.into_iter().map(|job| job.name).collect())
    }

    /// The first answer of `WatchHosts`.
    pub(crate) async fn hosts(&self) -> Vec<String> {
        let mut client = SchedulerClient::new(self.channel());
        let hosts = client.watch_hosts(WatchHostsRequest {}).await.unwrap();
        let first = hosts.into_inner().message().await.unwrap().unwrap();
        first.hosts.into_iter().map(|host| host.address).collect()
    }

    /// A key over the etcd API.
    pub(crate) async fn range(&self, key: &str) -> RangeResponse {
        let mut client = KvClient::new(endpoint(self.client).connect_lazy());
        let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        client.range(request).await.unwrap().into_inner()
    }

    pub(crate) async fn leases(&self) -> usize {
        let mut client = LeaseClient::new(endpoint(self.client).connect_lazy());
        client.lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner().leases.len()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of the store of a process in [`NAMESPACE`].
fn store_folder(dir: &Path) -> PathBuf {
    dir.join("data").join(format!("{NAMESPACE}-dapr-scheduler-server-0"))
}

fn run(flags: &[String], env: &[(String, String)], log: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    Command::new(env!("CARGO_BIN_EXE_scheduler"))
        .args(flags)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub(crate) fn endpoint(port: u16) -> Endpoint {
    Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap()
}

/// The metadata of jobs of `app` in `default`.
pub(crate) fn metadata() -> JobMetadata {
    crate::client::metadata("default", "app", Type::Job(TargetJob {})).into()
}
