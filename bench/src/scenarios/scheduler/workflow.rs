//! Scenario `scheduler-workflow`: workflows of an official SDK through an official sidecar.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::{
    Daprd, Deadline, Process, Redis, Scratch, Service, Spawn, environment, sdks, soon, until,
};
use serde::Deserialize;

use super::{Fixture, each, number, prepared};
use crate::environment::programs::Programs;
use crate::environment::scheduler::Scheduler;
use crate::environment::test_env::{Running, Start};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

const WORKFLOWS: u32 = 200;
/// Activities of a workflow, one after the other.
const STEPS: u32 = 5;
/// Time limit for all workflows.
const LIMIT: Duration = Duration::from_mins(1);

/// Rate of activities of an official SDK.
#[derive(Debug)]
pub struct SchedulerWorkflow;

impl Scenario for SchedulerWorkflow {
    fn description(&self) -> Description {
        Description {
            name: "scheduler-workflow",
            about: "200 workflows at once of Dapr's Python SDK, each with 5 activities one after \
                 the other that do nothing, through official daprd with its state in Redis, on the \
                 scheduler of a side and the reference's placement, in plain text: activities in a \
                 second, after one workflow that does not count. A workflow that has not completed \
                 after 60 s is an error",
            services: &[Service::Scheduler],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        sdks::python()?;
        prepared(programs, size, measure)
    }
}

/// The application's last line of output.
#[derive(Debug, PartialEq, Deserialize)]
struct Ended {
    seconds: f64,
    completed: u32,
}

fn measure(fixture: &Fixture, side: Side, _: bool) -> Result<Vec<Reading>> {
    let workflows = fixture.size.pick(WORKFLOWS, WORKFLOWS / 10);
    let folder = Scratch::new("bench")?;
    let redis = Redis::start(None)?;
    let placement = start_placement(&folder)?;
    let scheduler = Scheduler::start(&fixture.programs, side)?;
    let daprd = start_sidecar(&folder, &redis, &placement, scheduler.running()?)?;
    let before = scheduler.running()?.cpu()?;
    let mut app = start_app(&folder, daprd.grpc_port, workflows)?;
    let limit = Deadline::after(2 * LIMIT);
    until(limit, "the application to end", || Ok(app.exit_status())).with_context(|| app.log())?;
    let cpu = scheduler.running()?.cpu()?.saturating_sub(before);
    let ended = ended(&app.log())?;
    let steps = u64::from(ended.completed) * u64::from(STEPS);
    let reading = |name: &str, unit, value| Reading::new(name, unit, value);
    Ok(vec![
        reading("steps", Unit::PerSecond, number(steps) / ended.seconds),
        reading("errors", Unit::Count, f64::from(workflows - ended.completed)),
        reading("CPU of the scheduler per step", Unit::CpuMilliseconds, each(cpu, steps)),
    ])
}

fn start_placement(folder: &Scratch) -> Result<Running> {
    let program = Service::Placement.reference().path()?;
    let peers =
        format!("--initial-cluster=dapr-placement-0=127.0.0.1:{}", environment::free_port()?);
    let start = Start::new("placement", Service::Placement, &program, folder.path())?;
    Ok(start.args(&[&peers]).ready()?.0)
}

fn start_sidecar(
    folder: &Scratch,
    redis: &Redis,
    placement: &Running,
    scheduler: &Running,
) -> Result<Daprd> {
    folder.write("resources/store.yaml", redis.actor_state())?;
    let mut daprd = Daprd::builder("workflows")
        .resources(&folder.path().join("resources"))
        .scheduler(&scheduler.address())
        .placement(&placement.address())
        .on_loopback()
        .start()?;
    daprd.wait_ready(soon())?;
    Ok(daprd)
}

fn start_app(folder: &Scratch, grpc_port: u16, workflows: u32) -> Result<Process> {
    let program = folder.write("app.py", include_str!("workflow.py"))?;
    Spawn::new("app", sdks::python()?, folder.path())
        .arg(program)
        .env("DAPR_GRPC_PORT", grpc_port.to_string())
        .env("WORKFLOWS", workflows.to_string())
        .env("STEPS", STEPS.to_string())
        .env("LIMIT", LIMIT.as_secs().to_string())
        .start()
}

/// Parses the last line of the application's log.
fn ended(log: &str) -> Result<Ended> {
    let line = log.lines().rev().find_map(|line| serde_json::from_str::<Ended>(line).ok());
    let ended = line.with_context(|| format!("the application printed no result:\n{log}"))?;
    ensure!(ended.seconds > 0.0, "the workflows took no time: {ended:?}");
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_json_is_the_result() {
        let log = "a line\n{\"seconds\": 2.5, \"completed\": 199}\nanother\n";
        assert_eq!(ended(log).unwrap(), Ended { seconds: 2.5, completed: 199 });
        assert!(ended("a line\n").is_err());
        assert!(ended("{\"seconds\": 0.0, \"completed\": 1}").is_err());
    }
}
