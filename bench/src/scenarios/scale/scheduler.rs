//! Row `scale-scheduler`: many jobs that are due tomorrow, in the embedded store.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use blackbox::Service;
use runtime::clock::monotonic;

use super::Readings;
use crate::clients::jobs::{Calls, Due, Load, Record};
use crate::clients::load;
use crate::environment::programs::Programs;
use crate::environment::scheduler::Scheduler;
use crate::environment::usage::{megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::scenarios::scheduler::restart;

/// Time limit for all jobs of a size.
const SCHEDULING: Duration = Duration::from_mins(15);
/// Pause before an idle scheduler is measured.
const SETTLE: Duration = Duration::from_secs(3);

/// Jobs in the store, up to a million.
#[derive(Debug)]
pub struct ScaleScheduler;

struct Stored {
    programs: Programs,
    sizes: [usize; 3],
    runtime: tokio::runtime::Runtime,
}

impl Scenario for ScaleScheduler {
    fn description(&self) -> Description {
        Description {
            name: "scale-scheduler",
            about: "10,000, 100,000 and 1,000,000 jobs of 256 bytes, due in 24 hours, scheduled by \
                 64 callers at one member with the embedded store; then the scheduler is killed \
                 and started again, until a new job, due at once, is delivered",
            services: &[Service::Scheduler],
            is_only_named: true,
            ..Description::OURS
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let sizes = size.pick([10_000, 100_000, 1_000_000], [1_000, 3_000, 10_000]);
        Ok(Box::new(Stored { programs: programs.clone(), sizes, runtime: load::runtime()? }))
    }
}

impl Prepared for Stored {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        for count in self.sizes {
            readings.extend(self.jobs(side, count)?);
        }
        Ok(readings)
    }
}

impl Stored {
    fn jobs(&self, side: Side, count: usize) -> Result<Vec<Reading>> {
        let mut readings = Readings::new(count, "jobs");
        let mut scheduler = Scheduler::start(&self.programs, side)?;
        thread::sleep(SETTLE);
        let running = scheduler.running()?;
        let (idle, before) = (running.memory()?.rss, running.cpu()?);
        let begin = monotonic();
        let outcome = self.runtime.block_on(async {
            let jobs = Load::new("far", 0..count, Due::far(), Record::Nothing);
            Calls::open(&running.address()).await?.schedule_all(&jobs, SCHEDULING).await
        })?;
        let accepted = outcome.answered();
        ensure!(accepted == u64::try_from(count)?, "{accepted} of {count} jobs");
        readings.add("scheduled in", Unit::Milliseconds, milliseconds(begin.elapsed()));
        readings.cpu("scheduled", running.cpu()?.saturating_sub(before));
        thread::sleep(SETTLE);
        readings.memory("RSS", running, idle)?;
        scheduler.kill();
        let took = restart::start(&self.runtime, &mut scheduler, "after-kill")?;
        readings.add("restarted in", Unit::Milliseconds, took);
        readings.cpu("restarted", scheduler.running()?.cpu()?);
        thread::sleep(SETTLE);
        readings.memory("RSS after the restart", scheduler.running()?, idle)?;
        scheduler.stop()?;
        readings.add("on disk", Unit::Megabytes, megabytes(scheduler.disk_bytes()?));
        Ok(readings.all)
    }
}
