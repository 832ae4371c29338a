//! Scenario `scheduler-herd`: many jobs that are due at one instant.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::Service;
use blackbox::progress::say;
use runtime::clock::{monotonic, now};

use super::{Fixture, accounts, delivered, or_none, prepared};
use crate::clients::delivery_log::DeliveryLog;
use crate::clients::job_streams::{JobStreams, Log};
use crate::clients::jobs::{Calls, Due, Load, Record};
use crate::environment::programs::Programs;
use crate::environment::scheduler::Scheduler;
use crate::environment::test_env::Running;
use crate::environment::usage;
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

/// Time limit for all deliveries.
const LIMIT: Duration = Duration::from_secs(30);
/// Minimum time between the last call and the instant.
const QUIET: Duration = Duration::from_secs(1);
/// Factor by which calls may be slower than the first ones.
const SLOWER: f64 = 1.5;

/// Delivery of many jobs that are due at one instant.
#[derive(Debug)]
pub struct SchedulerHerd;

impl Scenario for SchedulerHerd {
    fn description(&self) -> Description {
        Description {
            name: "scheduler-herd",
            about: "10,000 and then 100,000 jobs due at one instant, scheduled long before, \
                 delivered on 3 streams that acknowledge at once: first and last delivery after \
                 the instant. A job is lost when it was not delivered within 30 s",
            services: &[Service::Scheduler],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        prepared(programs, size, measure)
    }
}

fn measure(fixture: &Fixture, side: Side, _: bool) -> Result<Vec<Reading>> {
    let counts = fixture.size.pick(vec![10_000, 100_000], vec![1_000]);
    let scheduler = Scheduler::start(&fixture.programs, side)?;
    let mut readings = Vec::new();
    for count in counts {
        let measured = fixture.runtime.block_on(herd(scheduler.running()?, count));
        readings.extend(or_none(measured, side, &format!("{count} jobs")));
    }
    Ok(readings)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a load")]
async fn herd(scheduler: &Running, count: usize) -> Result<Vec<Reading>> {
    let app = format!("app-{count}");
    let log = Arc::new(DeliveryLog::new(count));
    let streams = JobStreams::open(scheduler, &app, Log::Deliveries(log.clone())).await?;
    let calls = Calls::open(&scheduler.address()).await?;
    let wait = Duration::from_secs_f64(SLOWER * count as f64 / calls.rate(&app).await?) + QUIET;
    let (instant, due) = (monotonic() + wait, now() + wait);
    let load =
        Load::new(&app, 0..count, Due::Once(due.to_string().into()), Record::Log(log.clone()));
    calls.schedule_all(&load, wait).await?;
    ensure!(monotonic() < instant, "not scheduled within {wait:?}");
    let before = scheduler.cpu()?;
    tokio::time::sleep_until(instant.into()).await;
    if let Err(error) = delivered(&log, u64::try_from(count)?, LIMIT).await {
        say(format_args!("{count} jobs: {error:#}"));
    }
    let cpu = scheduler.cpu()?.saturating_sub(before);
    drop(streams);
    let (first, last) = log.span().context("nothing was delivered")?;
    ensure!(first >= instant, "a job was delivered {:?} early", instant - first);
    let what = format!("{count} jobs");
    let reading = |name: &str, unit, value| Reading::new(format!("{what}: {name}"), unit, value);
    let after = |at| usage::milliseconds(at - instant);
    let mut readings = vec![
        reading("first delivered", Unit::Milliseconds, after(first)),
        reading("last delivered", Unit::Milliseconds, after(last)),
        reading("CPU", Unit::CpuMilliseconds, usage::milliseconds(cpu)),
    ];
    readings.extend(accounts(&what, log.deliveries()));
    Ok(readings)
}
