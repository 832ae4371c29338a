//! Scenario `scheduler-restart`: many jobs that are due tomorrow.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail};
use blackbox::Service;
use blackbox::progress::say;
use runtime::clock::monotonic;
use tokio::runtime::Runtime;

use super::schedule::listed;
use super::{Fixture, delivered, number, or_none, prepared};
use crate::clients::delivery_log::DeliveryLog;
use crate::clients::job_streams::{JobStreams, Log};
use crate::clients::jobs::{Acknowledged, Calls, Due, Load, Record};
use crate::clients::load::Caller as _;
use crate::environment::programs::Programs;
use crate::environment::scheduler::Scheduler;
use crate::environment::usage::{self, megabytes};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

const FEW: usize = 100_000;
const MANY: usize = 1_000_000;
/// Time limit for a side to accept the jobs.
const SCHEDULING: Duration = Duration::from_secs(90);
/// Time limit from its start to the delivery of a new job.
const LIMIT: Duration = Duration::from_mins(2);
/// Pause after a call that a starting scheduler refused.
const RETRY: Duration = Duration::from_millis(2);
/// Pause before an idle scheduler is measured.
const SETTLE: Duration = Duration::from_secs(3);
const APP: &str = "far";
/// Number of calls until a starting scheduler must accept one.
const ATTEMPTS: usize = 100_000;

/// Memory with many far jobs, and time of a restart with them.
#[derive(Debug)]
pub struct SchedulerRestart;

impl Scenario for SchedulerRestart {
    fn description(&self) -> Description {
        Description {
            name: "scheduler-restart",
            about: "Jobs due in 24 hours on an empty store; then the scheduler is killed and \
                 started again, lists the jobs, and is stopped and started again: from each start \
                 until a new job, due at once and asked for until it is taken, is delivered. \
                 100,000 jobs in each round, 1,000,000 in the first round only; a side that has \
                 not accepted them after 90 s has no more figures of them. Jobs that were \
                 acknowledged and are not listed are lost. Bytes on disk are blocks, preallocated \
                 ones included",
            services: &[Service::Scheduler],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        prepared(programs, size, measure)
    }
}

fn measure(fixture: &Fixture, side: Side, first: bool) -> Result<Vec<Reading>> {
    let few = fixture.size.pick(FEW, FEW / 10);
    let mut readings = far(fixture, side, few)?;
    if first && fixture.size == Size::Full {
        let many = far(fixture, side, MANY);
        readings.extend(or_none(many, side, &format!("{MANY} jobs")));
    }
    Ok(readings)
}

fn far(fixture: &Fixture, side: Side, count: usize) -> Result<Vec<Reading>> {
    let mut scheduler = Scheduler::start(&fixture.programs, side)?;
    let mut readings = Vec::new();
    let mut add = |what: &str, unit, value| {
        readings.push(Reading::new(format!("{count} jobs: {what}"), unit, value));
    };
    thread::sleep(SETTLE);
    add("RSS before", Unit::Megabytes, megabytes(scheduler.running()?.memory()?.rss));
    let acknowledged = Acknowledged::default();
    let address = scheduler.running()?.address();
    fixture.runtime.block_on(async {
        let record = Record::List(acknowledged.clone());
        let jobs = Load::new(APP, 0..count, Due::far(), record);
        Calls::open(&address).await?.schedule_all(&jobs, SCHEDULING).await
    })?;
    let accepted = acknowledged.count();
    add("accepted within 90 s", Unit::Amount, number(u64::try_from(accepted)?));
    add("RSS after scheduling", Unit::Megabytes, megabytes(scheduler.running()?.memory()?.rss));
    if accepted < count {
        say(format_args!("{}: {accepted} of {count} jobs in {SCHEDULING:?}", side.name()));
        return Ok(readings);
    }
    scheduler.kill();
    let took = start(&fixture.runtime, &mut scheduler, "after-kill")?;
    add("kill -9, start until a new job is delivered", Unit::Milliseconds, took);
    add("RSS after the restart", Unit::Megabytes, megabytes(scheduler.running()?.memory()?.rss));
    let address = scheduler.running()?.address();
    let found =
        fixture.runtime.block_on(async { listed(&Calls::open(&address).await?, APP).await })?;
    add("lost", Unit::Count, number(u64::try_from(acknowledged.missing(found))?));
    scheduler.stop()?;
    add("on disk", Unit::Megabytes, megabytes(scheduler.disk_bytes()?));
    let took = start(&fixture.runtime, &mut scheduler, "after-stop")?;
    add("stop, start until a new job is delivered", Unit::Milliseconds, took);
    Ok(readings)
}

/// Starts the scheduler on its data; milliseconds until a new job of `app` was delivered.
pub(in crate::scenarios) fn start(
    runtime: &Runtime,
    scheduler: &mut Scheduler,
    app: &str,
) -> Result<f64> {
    let begin = monotonic();
    let address = scheduler.launch()?.address();
    let log = Arc::new(DeliveryLog::new(ATTEMPTS));
    runtime.block_on(async {
        let _streams = JobStreams::begin(&address, app, &Log::Deliveries(log.clone()));
        schedule(&address, app, &log).await?;
        delivered(&log, 1, LIMIT).await
    })?;
    Ok(usage::milliseconds(begin.elapsed()))
}

/// Schedules a job that is due at once; repeats the call until the scheduler accepts it.
async fn schedule(address: &str, app: &str, log: &Arc<DeliveryLog>) -> Result<()> {
    let begin = monotonic();
    let jobs = Load::new(app, 0..ATTEMPTS, Due::now(), Record::Log(log.clone()));
    let mut refused = String::from("it does not listen");
    while begin.elapsed() < LIMIT {
        if let Ok(calls) = Calls::open(address).await
            && let Some(mut caller) = calls.callers(1, &jobs).pop()
        {
            match caller.call().await {
                Ok(()) => return Ok(()),
                Err(error) => refused = error,
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    bail!("no new job in {LIMIT:?}: {refused}")
}
