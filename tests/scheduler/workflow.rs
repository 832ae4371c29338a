//! Workflows of an official SDK, on our scheduler and placement, while both the scheduler and the
//! application are killed, the store of the scheduler is full ([`full_store`]), and the command line
//! removes them ([`purge`]).

mod full_store;
mod purge;

use std::fs;

use anyhow::{Context as _, Result, ensure};
use blackbox::{
    Daprd, DaprdBuilder, Process, Redis, Scratch, Spawn, Tool, http, sdks, soon, until,
};
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

/// An application with workflows on our placement and a scheduler. Their state is in Redis.
struct Fixture {
    app: App,
    daprd: Daprd,
    scheduler: Scheduler,
    redis: Redis,
    _placement: Placement,
    _resources: Scratch,
}

impl Fixture {
    fn start(scheduler: Scheduler, version: Tool, app_id: &str) -> Result<Self> {
        Self::start_by(scheduler, Daprd::builder(app_id).version(version))
    }

    /// The same with a sidecar that is configured further.
    fn start_by(scheduler: Scheduler, sidecar: DaprdBuilder) -> Result<Self> {
        let (redis, placement) = (Redis::start(None)?, Placement::start());
        let resources = Scratch::new("resources")?;
        resources.write("store.yaml", redis.actor_state())?;
        let mut daprd = sidecar
            .resources(resources.path())
            .scheduler(&scheduler.address())
            .placement(&placement.address())
            .on_loopback()
            .start()?;
        daprd.wait_ready(soon())?;
        let app = App::start(daprd.grpc_port)?;
        Ok(Self { app, daprd, scheduler, redis, _placement: placement, _resources: resources })
    }

    fn instance(&self, id: &'static str) -> Instance {
        Instance { port: self.daprd.http_port, id }
    }

    /// Waits until an instance has completed, each of its activities executed as often as it should.
    fn completes(&self, instance: &Instance) -> Result<()> {
        let state = until(soon(), "the workflow to complete", || {
            let state = instance.state()?;
            Ok((state["runtimeStatus"] == "COMPLETED").then_some(state))
        })
        .with_context(|| format!("{:?}\n{}", instance.state(), self.app.process.log()))?;
        let want = ["first", "inner", "flaky", "flaky", "flaky", "last"];
        ensure!(self.app.executions()? == want, "{:?}", self.app.executions()?);
        let output = state["properties"]["dapr.workflow.output"].as_str().context("no output")?;
        let want = json!(["first done", "approved", "inner done", "flaky done", "last done"]);
        ensure!(serde_json::from_str::<Value>(output)? == want, "{output}");
        Ok(())
    }
}

/// What `workflow.py` says of its progress, in this order.
const STATUSES: [&str; 4] = ["timer", "event", "child", "retries"];

/// One instance of the workflow.
struct Instance {
    /// Of the sidecar's HTTP API.
    port: u16,
    id: &'static str,
}

impl Instance {
    fn post(&self, path: &str, body: &Value) -> Result<()> {
        let answer = http::post(self.port, path, body)?;
        ensure!(answer.is_success(), "{path}: {} {}", answer.status, answer.body);
        Ok(())
    }

    fn try_start(&self) -> Result<()> {
        let path = format!("/v1.0/workflows/dapr/order/start?instanceID={}", self.id);
        self.post(&path, &json!(""))
    }

    fn start(&self) -> Result<()> {
        until(soon(), "the workflow to be taken", || Ok(self.try_start().ok()))
    }

    fn approve(&self) -> Result<()> {
        let path = format!("/v1.0/workflows/dapr/{}/raiseEvent/approval", self.id);
        self.post(&path, &json!("approved"))
    }

    fn state(&self) -> Result<Value> {
        let answer = http::get(self.port, &format!("/v1.0/workflows/dapr/{}", self.id))?;
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
    let mut fixture = Fixture::start(Scheduler::start(), version, "orders")?;
    let instance = fixture.instance("order-1");
    instance.start()?;
    instance.reaches("timer")?;
    ensure!(fixture.app.executions()? == ["first"], "{:?}", fixture.app.executions()?);
    fixture.scheduler.crash();
    fixture.app.crash()?;
    instance.reaches("event")?;
    fixture.scheduler.crash();
    instance.approve()?;
    instance.reaches("child")?;
    fixture.app.crash()?;
    fixture.scheduler.crash();
    instance.reaches("retries")?;
    fixture.scheduler.crash();
    fixture.completes(&instance)
}
