//! Scenario `scheduler-ticks`: a growing number of recurring jobs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use blackbox::Service;
use jiff::Timestamp;
use runtime::clock::{monotonic, now};

use super::{Fixture, each, milliseconds, number, or_none, prepared};
use crate::clients::job_streams::{JobStreams, Log};
use crate::clients::jobs::{Calls, Due, Load, Record};
use crate::clients::tick_log::{PERIOD, TickLog, Window};
use crate::environment::programs::Programs;
use crate::environment::scheduler::Scheduler;
use crate::environment::test_env::Running;
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

/// Number of jobs in each step, those of earlier steps included.
const STEPS: [usize; 12] =
    [5_000, 7_500, 10_000, 12_500, 15_000, 20_000, 30_000, 40_000, 50_000, 60_000, 70_000, 80_000];
/// The step whose figures are compared.
const COMPARED: usize = 10_000;
/// From the first tick of a step's first job until its window begins: all of its jobs tick then.
const SETTLE: Duration = PERIOD;
/// A step's window.
const WINDOW: Duration = Duration::from_secs(3);
/// Minimum time between the last call and the first tick.
const QUIET: Duration = Duration::from_secs(1);
/// Factor by which calls may be slower than the first ones.
const SLOWER: f64 = 1.5;
const APP: &str = "ticks";

/// The largest number of recurring jobs that a scheduler keeps up with.
#[derive(Debug)]
pub struct SchedulerTicks;

impl Scenario for SchedulerTicks {
    fn description(&self) -> Description {
        Description {
            name: "scheduler-ticks",
            about: "Jobs `@every 1s` on 3 streams that acknowledge at once. All are scheduled \
                 before the first is due; every 4 s more of them begin: 5,000, 7,500, 10,000, \
                 12,500, 15,000, 20,000 and so on in steps of 10,000 to 80,000. A step is held \
                 when, in its last 3 s, no tick is late by more than 1 s and 97 % of those due are \
                 delivered; the first step that is not held is the last",
            services: &[Service::Scheduler],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        prepared(programs, size, measure)
    }
}

fn measure(fixture: &Fixture, side: Side, _: bool) -> Result<Vec<Reading>> {
    let steps = fixture.size.pick(STEPS.as_slice(), STEPS.get(..3).unwrap_or_default());
    let scheduler = Scheduler::start(&fixture.programs, side)?;
    let measured = fixture.runtime.block_on(raise(scheduler.running()?, steps));
    Ok(or_none(measured, side, "ticks"))
}

/// Measurements of a step.
struct Step {
    jobs: usize,
    window: Window,
    cpu: Duration,
}

#[expect(clippy::cast_precision_loss, reason = "counts of a load")]
async fn raise(scheduler: &Running, steps: &[usize]) -> Result<Vec<Reading>> {
    let count = steps.last().copied().unwrap_or_default();
    let calls = Calls::open(&scheduler.address()).await?;
    let wait = Duration::from_secs_f64(SLOWER * count as f64 / calls.rate(APP).await?) + QUIET;
    let (begin, origin) = (monotonic() + wait, now() + wait);
    let log = Arc::new(TickLog::new(instants(steps, origin))?);
    let streams = JobStreams::open(scheduler, APP, Log::Ticks(log.clone())).await?;
    let first = log.clone();
    let due = Due::EverySecond(Arc::new(move |job| {
        first.first(job).map(|at| at.to_string()).unwrap_or_default()
    }));
    calls.schedule_all(&Load::new(APP, 0..count, due, Record::Nothing), wait).await?;
    ensure!(monotonic() < begin, "not scheduled within {wait:?}");
    let (mut held, mut compared, mut early) = (None, None, 0);
    for (i, jobs) in (0_u32..).zip(steps.iter().copied()) {
        let step =
            measure_step(scheduler, &log, jobs, begin + (SETTLE + WINDOW) * i + SETTLE).await?;
        early += step.window.early;
        let is_held = step.window.is_held(jobs, WINDOW);
        if jobs == COMPARED {
            compared = Some(readings(&format!("{COMPARED} jobs"), &step));
        }
        if !is_held {
            break;
        }
        held = Some(step);
    }
    drop(streams);
    let jobs = held.as_ref().map_or(0, |step| step.jobs);
    let mut found = vec![
        Reading::new("held", Unit::PerSecond, number(u64::try_from(jobs)?)),
        Reading::new("early", Unit::Count, number(early)),
    ];
    found.extend(held.iter().flat_map(|step| readings("most held", step)));
    found.extend(compared.into_iter().flatten());
    Ok(found)
}

async fn measure_step(
    scheduler: &Running,
    log: &TickLog,
    jobs: usize,
    at: Instant,
) -> Result<Step> {
    tokio::time::sleep_until(at.into()).await;
    let (_, before) = (log.take()?, scheduler.cpu()?);
    tokio::time::sleep_until((at + WINDOW).into()).await;
    let (window, cpu) = (log.take()?, scheduler.cpu()?.saturating_sub(before));
    Ok(Step { jobs, window, cpu })
}

fn readings(what: &str, step: &Step) -> [Reading; 3] {
    let lags = &step.window.lags;
    let reading = |name, unit, value| Reading::new(format!("{what}: {name}"), unit, value);
    let quantile = |share| milliseconds(lags.value_at_quantile(share));
    [
        reading("CPU per tick", Unit::CpuMilliseconds, each(step.cpu, lags.len())),
        reading("lag p50", Unit::Milliseconds, quantile(0.5)),
        reading("lag p99", Unit::Milliseconds, quantile(0.99)),
    ]
}

/// First instant of each job: those that a step adds are spread over its first period.
fn instants(steps: &[usize], origin: Timestamp) -> Vec<Timestamp> {
    let mut instants: Vec<Timestamp> = Vec::new();
    for (i, jobs) in (0_u32..).zip(steps) {
        let begin = origin + (SETTLE + WINDOW) * i;
        let added = u32::try_from(jobs.saturating_sub(instants.len())).unwrap_or(u32::MAX);
        instants.extend((0..added).map(|job| begin + PERIOD * job / added));
    }
    instants
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_that_a_step_adds_are_spread_over_its_first_period() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        let step = i64::try_from((SETTLE + WINDOW).as_millis()).unwrap();
        let want = [0, 500, step, step + 250, step + 500, step + 750].map(at);
        assert_eq!(instants(&[2, 6], at(0)), want);
    }
}
