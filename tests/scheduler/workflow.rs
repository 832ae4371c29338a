//! Workflows of an official SDK, on our scheduler and placement, while both the scheduler and the
//! application are killed.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Daprd, Process, Redis, Scratch, Spawn, Tool, http, sdks, soon, until};
use serde_json::{Value, json};

use crate::processes::{Placement, Scheduler};
use crate::versions;

/// The application, in Python.
struct App {
    process: Process,
    folder: Scratch,
    grpc_port: u16,
}

impl App {
    fn start(grpc_port: u16) -> Result<Self> {
        let folder = Scratch::new("workflow")?;
        folder.write("app.py", include_str!("workflow.py"))?;
        folder.write("executions", "")?;
        let process = run(&folder, grpc_port)?;
        Ok(Self { process, folder, grpc_port })
    }

    /// Ends it as a crash would, and starts it again.
    fn crash(&mut self) -> Result<()> {
        self.process.kill();
        self.process = run(&self.folder, self.grpc_port)?;
        Ok(())
    }

    /// The activities that were executed, in order.
    fn executions(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(self.folder.path().join("executions"))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn run(folder: &Scratch, grpc_port: u16) -> Result<Process> {
    Spawn::new("app", sdks::python()?, folder.path())
        .arg(folder.path().join("app.py").to_string_lossy().into_owned())
        .env("DAPR_GRPC_PORT", grpc_port.to_string())
        .env("EXECUTIONS", folder.path().join("executions").to_string_lossy().into_owned())
        .start()
}

/// A sidecar whose workflows outlive it and the application: their state is in Redis.
fn sidecar(
    version: Tool,
    redis: &Redis,
    scheduler: &Scheduler,
    placement: &Placement,
    folder: &Scratch,
) -> Result<Daprd> {
    folder.write("store.yaml", redis.actor_state())?;
    let mut daprd = Daprd::builder("orders")
        .version(version)
        .arg(format!("--resources-path={}", folder.path().display()))
        .arg(format!("--scheduler-host-address={}", scheduler.address()))
        .arg(format!("--placement-host-address={}", placement.address()))
        .arg("--dapr-internal-grpc-listen-address=127.0.0.1")
        .env("DAPR_HOST_IP", "127.0.0.1")
        .start()?;
    daprd.wait_ready(soon())?;
    Ok(daprd)
}

/// What `workflow.py` says of its progress, in this order.
const STATUSES: [&str; 4] = ["timer", "event", "child", "retries"];

/// One instance of the workflow.
struct Instance<'a> {
    daprd: &'a Daprd,
    id: &'static str,
}

impl Instance<'_> {
    fn post(&self, path: &str, body: &Value) -> Result<()> {
        let answer = http::post(self.daprd.http_port, path, body)?;
        ensure!(answer.is_success(), "{path}: {} {}", answer.status, answer.body);
        Ok(())
    }

    fn start(&self) -> Result<()> {
        let path = format!("/v1.0/workflows/dapr/order/start?instanceID={}", self.id);
        until(soon(), "the workflow to be taken", || Ok(self.post(&path, &json!("")).ok()))
    }

    fn approve(&self) -> Result<()> {
        let path = format!("/v1.0/workflows/dapr/{}/raiseEvent/approval", self.id);
        self.post(&path, &json!("approved"))
    }

    fn state(&self) -> Result<Value> {
        let answer = http::get(self.daprd.http_port, &format!("/v1.0/workflows/dapr/{}", self.id))?;
        ensure!(answer.is_success(), "{}: {}", answer.status, answer.body);
        answer.json()
    }

    /// Waits until its history has this custom status or a later one: what came before it was
    /// acknowledged.
    fn reaches(&self, status: &str) -> Result<()> {
        let place = |status: &str| STATUSES.iter().position(|known| *known == status);
        let wanted = place(status).context("no such status")?;
        until(soon(), &format!("the status {status}"), || {
            let state = self.state()?;
            let now = state["properties"]["dapr.workflow.custom_status"].as_str();
            Ok(now.and_then(place).filter(|now| *now >= wanted).map(drop))
        })
        .with_context(|| format!("{:?}", self.state()))
    }
}

#[test]
fn a_workflow_completes_although_scheduler_and_app_are_killed() -> Result<()> {
    completes(Tool::DAPRD)
}

/// Those that keep reminders in the scheduler.
#[test]
fn workflows_of_older_sidecars_complete_too() -> Result<()> {
    for version in versions::sidecars().filter(|version| *version != Tool::DAPRD) {
        completes(version).with_context(|| format!("{version:?}"))?;
    }
    Ok(())
}

fn completes(version: Tool) -> Result<()> {
    let redis = Redis::start(None)?;
    let mut scheduler = Scheduler::start();
    let placement = Placement::start();
    let resources = Scratch::new("resources")?;
    let daprd = sidecar(version, &redis, &scheduler, &placement, &resources)?;
    let mut app = App::start(daprd.grpc_port)?;
    let instance = Instance { daprd: &daprd, id: "order-1" };

    instance.start()?;
    instance.reaches("timer")?;
    ensure!(app.executions()? == ["first"], "{:?}", app.executions()?);
    scheduler.crash();
    app.crash()?;
    instance.reaches("event")?;
    scheduler.crash();
    instance.approve()?;
    instance.reaches("child")?;
    app.crash()?;
    scheduler.crash();
    instance.reaches("retries")?;
    scheduler.crash();
    let state = until(soon(), "the workflow to complete", || {
        let state = instance.state()?;
        Ok((state["runtimeStatus"] == "COMPLETED").then_some(state))
    })
    .with_context(|| format!("{:?}\n{}", instance.state(), app.process.log()))?;

    let want = ["first", "inner", "flaky", "flaky", "flaky", "last"];
    ensure!(app.executions()? == want, "{:?}", app.executions()?);
    let output = state["properties"]["dapr.workflow.output"].as_str().context("no output")?;
    let want = json!(["first done", "approved", "inner done", "flaky done", "last done"]);
    ensure!(serde_json::from_str::<Value>(output)? == want, "{output}");
    Ok(())
}
