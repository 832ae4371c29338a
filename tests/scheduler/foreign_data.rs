//! A directory in which Dapr's own scheduler has jobs: ours does not touch it, and says what keeps
//! the jobs.

use anyhow::{Result, ensure};
use blackbox::{Process, Scratch, Spawn, Tool, TriggerApp, build_binary, environment, http, until};
use rustix::process::Signal;
use serde_json::json;

use crate::processes::{Sidecar, soon};

/// Either scheduler, on the same directory.
struct Member {
    process: Process,
    port: u16,
    health: u16,
}

impl Member {
    fn start(program: std::path::PathBuf, folder: &Scratch) -> Result<Self> {
        let port = || environment::free_port();
        let [port, health, metrics, peer, client] = [port()?, port()?, port()?, port()?, port()?];
        let process = Spawn::new("scheduler", program, folder.path())
            .arg(format!("--port={port}"))
            .arg(format!("--healthz-port={health}"))
            .arg(format!("--metrics-port={metrics}"))
            .arg(format!("--etcd-client-port={client}"))
            .arg(format!("--etcd-initial-cluster=dapr-scheduler-server-0=http://127.0.0.1:{peer}"))
            .arg(format!("--etcd-data-dir={}", folder.path().join("data").display()))
            .args(["--listen-address=127.0.0.1"])
            .env_remove("NAMESPACE")
            .start()?;
        Ok(Self { process, port, health })
    }

    fn healthz(&self) -> Result<u16> {
        Ok(http::get(self.health, "/healthz")?.status)
    }

    fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        until(soon(), "its end", || Ok(self.process.exit_status()))?;
        Ok(())
    }
}

#[test]
fn jobs_of_daprs_own_scheduler_are_kept_and_named() -> Result<()> {
    let folder = Scratch::new("foreign")?;
    let app = TriggerApp::start(&[])?;
    let path = "/v1.0-alpha1/jobs/theirs";

    let mut reference = Member::start(Tool::REFERENCE_SCHEDULER.path()?, &folder)?;
    reference.process.wait_for_http(reference.health, "/healthz", soon())?;
    let sidecar = Sidecar::start_at(Tool::DAPRD, "app", &app, reference.port, None);
    until(soon(), "the job to be taken", || {
        let answer = http::post(sidecar.daprd.http_port, path, &json!({"dueTime": "24h"}))?;
        Ok(answer.is_success().then_some(()))
    })?;
    drop(sidecar);
    reference.stop()?;

    let mut ours = Member::start(build_binary("scheduler")?, &folder)?;
    ours.process.wait_for_log("holds jobs of an etcd", soon())?;
    until(soon(), "health", || Ok(http::get(ours.health, "/livez").ok()))?;
    ensure!(http::get(ours.health, "/livez")?.status == 200, "a restart would not help");
    ensure!(ours.healthz()? == 503, "it serves no jobs");
    let log = ours.process.log();
    for word in ["dapr-0.1/member", "global.scheduler.external=true", "dapr scheduler export"] {
        ensure!(log.contains(word), "{word} is not in {log}");
    }
    ours.stop()?;

    let mut reference = Member::start(Tool::REFERENCE_SCHEDULER.path()?, &folder)?;
    reference.process.wait_for_http(reference.health, "/healthz", soon())?;
    let sidecar = Sidecar::start_at(Tool::DAPRD, "app", &app, reference.port, None);
    until(soon(), "its job to be there", || {
        Ok(http::get(sidecar.daprd.http_port, path)?.is_success().then_some(()))
    })?;
    reference.stop()
}
