//! Scenario `scheduler-schedule`: calls of `ScheduleJob`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use blackbox::Service;
use runtime::clock::monotonic;

use super::{Fixture, each, number, prepared};
use crate::clients::jobs::{Acknowledged, Calls, Due, Load, Record};
use crate::clients::load;
use crate::environment::programs::Programs;
use crate::environment::scheduler::Scheduler;
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

const CALLERS: [usize; 4] = [1, 16, 64, 256];
/// Calls for this long are not measured, for each number of callers.
const WARM_UP: Duration = Duration::from_millis(500);
/// Time limit for a restarted scheduler to list its jobs.
const LIMIT: Duration = Duration::from_mins(1);

/// Latency and cost of `ScheduleJob`.
#[derive(Debug)]
pub struct SchedulerSchedule;

impl Scenario for SchedulerSchedule {
    fn description(&self) -> Description {
        Description {
            name: "scheduler-schedule",
            about: "ScheduleJob of jobs due in 24 hours by 1, 16, 64 and 256 callers on 8 \
                 connections, each as fast as it is answered, for 4 s after 0.5 s that do not \
                 count. Then the scheduler is killed and started again, and lists its jobs: those \
                 that were acknowledged and are missing are lost",
            services: &[Service::Scheduler],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        prepared(programs, size, measure)
    }
}

fn measure(fixture: &Fixture, side: Side, _: bool) -> Result<Vec<Reading>> {
    let measured = fixture.size.pick(Duration::from_secs(4), Duration::from_secs(1));
    let mut scheduler = Scheduler::start(&fixture.programs, side)?;
    let (mut readings, mut all) = (Vec::new(), Vec::new());
    for callers in CALLERS {
        let running = scheduler.running()?;
        let app = format!("app-{callers}");
        let acknowledged = Acknowledged::default();
        let record = Record::List(acknowledged.clone());
        let jobs = Load::new(&app, 0..usize::MAX, Due::far(), record);
        let before = running.cpu()?;
        let outcome = fixture.runtime.block_on(async {
            let calls = Calls::open(&running.address()).await?;
            load::closed(calls.callers(callers, &jobs), WARM_UP, measured).await
        })?;
        let cpu = running.cpu()?.saturating_sub(before);
        let what = format!("{callers} callers");
        readings.extend(outcome.readings(&what));
        let count = u64::try_from(acknowledged.count())?;
        let metric = format!("{what}: CPU per call");
        readings.push(Reading::new(metric, Unit::CpuMilliseconds, each(cpu, count)));
        all.push((app, acknowledged));
    }
    scheduler.kill();
    let address = scheduler.restart()?.address();
    let lost = fixture.runtime.block_on(async {
        let calls = Calls::open(&address).await?;
        let mut lost = 0;
        for (app, acknowledged) in &all {
            lost += acknowledged.missing(listed(&calls, app).await?);
        }
        anyhow::Ok(lost)
    })?;
    let metric = "acknowledged, and lost by kill -9";
    readings.push(Reading::new(metric, Unit::Count, number(u64::try_from(lost)?)));
    Ok(readings)
}

/// The jobs of an app, as soon as the scheduler lists them.
pub(super) async fn listed(calls: &Calls, app: &str) -> Result<Vec<usize>> {
    let begin = monotonic();
    loop {
        match calls.list(app).await {
            Ok(jobs) => return Ok(jobs),
            Err(error) if begin.elapsed() > LIMIT => {
                return Err(anyhow::Error::msg(error)).context("list the jobs");
            }
            Err(_) => tokio::time::sleep(super::POLL).await,
        }
    }
}
