//! Scenario `scheduler-oneshot`: jobs that are due at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use blackbox::Service;
use blackbox::progress::say;

use super::{Fixture, accounts, delivered, each, milliseconds, number, prepared};
use crate::clients::delivery_log::DeliveryLog;
use crate::clients::job_streams::{JobStreams, Log};
use crate::clients::jobs::{Calls, Due, Load, Record};
use crate::clients::load;
use crate::environment::programs::Programs;
use crate::environment::scheduler::Scheduler;
use crate::environment::test_env::Running;
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

/// Jobs per second.
const RATES: [u32; 2] = [300, 1_000];
const CALLERS: usize = 64;
/// Time limit for the last deliveries.
const LIMIT: Duration = Duration::from_secs(10);

/// Latency of jobs that are due at once.
#[derive(Debug)]
pub struct SchedulerOneshot;

impl Scenario for SchedulerOneshot {
    fn description(&self) -> Description {
        Description {
            name: "scheduler-oneshot",
            about: "Jobs due at once, 300 and then 1,000 in a second whatever the answers do, for \
                 5 s each: from the moment that a job is to be scheduled until it is delivered on \
                 one of 3 streams. A job is lost when it was acknowledged and not delivered within \
                 10 s",
            services: &[Service::Scheduler],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        prepared(programs, size, measure)
    }
}

fn measure(fixture: &Fixture, side: Side, _: bool) -> Result<Vec<Reading>> {
    let measured = fixture.size.pick(Duration::from_secs(5), Duration::from_secs(1));
    let scheduler = Scheduler::start(&fixture.programs, side)?;
    let mut readings = Vec::new();
    for rate in RATES {
        readings.extend(fixture.runtime.block_on(load(scheduler.running()?, rate, measured))?);
    }
    Ok(readings)
}

async fn load(scheduler: &Running, rate: u32, measured: Duration) -> Result<Vec<Reading>> {
    let app = format!("app-{rate}");
    // Callers share the slots, but not the numbers: any of them may serve all slots.
    let jobs = CALLERS * usize::try_from(rate * u32::try_from(measured.as_secs())?)?;
    let log = Arc::new(DeliveryLog::new(jobs));
    let streams = JobStreams::open(scheduler, &app, Log::Deliveries(log.clone())).await?;
    let calls = Calls::open(&scheduler.address()).await?;
    let jobs = Load::new(&app, 0..jobs, Due::now(), Record::Log(log.clone()));
    let before = scheduler.cpu()?;
    let outcome = load::open(calls.callers(CALLERS, &jobs), f64::from(rate), measured).await?;
    if let Err(error) = delivered(&log, outcome.answered(), LIMIT).await {
        say(format_args!("{rate}/s: {error:#}"));
    }
    let cpu = scheduler.cpu()?.saturating_sub(before);
    drop(streams);
    let latencies = log.latencies()?;
    let what = format!("{rate}/s");
    let reading = |name: &str, unit, value| Reading::new(format!("{what}: {name}"), unit, value);
    let quantile = |share| milliseconds(latencies.value_at_quantile(share));
    let mut readings = vec![
        reading("p50", Unit::Milliseconds, quantile(0.5)),
        reading("p99", Unit::Milliseconds, quantile(0.99)),
        reading("errors", Unit::Count, number(outcome.failed())),
    ];
    readings.extend(accounts(&what, log.deliveries()));
    readings.push(reading("CPU per job", Unit::CpuMilliseconds, each(cpu, log.count())));
    Ok(readings)
}
