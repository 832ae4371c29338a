//! Scenario `start`: time from the start of the process to ready, memory of an idle service, size
//! of its program.

use std::time::Duration;
use std::{fs, thread};

use anyhow::Result;
use blackbox::Service;

use crate::environment::programs::Programs;
use crate::environment::test_env::TestEnv;
use crate::environment::usage::{megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

/// Start time, idle memory and program size of each service.
#[derive(Debug)]
pub struct Start;

struct Started {
    env: TestEnv,
    programs: Programs,
    settle: Duration,
}

impl Scenario for Start {
    fn description(&self) -> Description {
        Description {
            name: "start",
            about: "Each service as a process against a real API server, with certificates from a \
                 sentry: time until /healthz answers 200; memory after a minute without work; size \
                 of the program",
            services: &Service::ALL,
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let settle = size.pick(Duration::from_mins(1), Duration::from_secs(10));
        let env = TestEnv::start(programs)?;
        Ok(Box::new(Started { env, programs: programs.clone(), settle }))
    }
}

impl Prepared for Started {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        let mut running = Vec::new();
        for service in Service::ALL {
            let name = service.binary();
            let start = self.env.service(&self.programs, side, service, &[])?;
            let (service_running, took) = start.ready()?;
            let metric = format!("{name}: start to ready");
            readings.push(Reading::new(metric, Unit::Milliseconds, milliseconds(took)));
            running.push((service, service_running));
        }
        thread::sleep(self.settle);
        let (mut total, mut four) = ((0, 0), (0, 0));
        for (service, running) in &running {
            let name = service.binary();
            let memory = running.memory()?;
            total = (total.0 + memory.rss, total.1 + memory.anonymous);
            // Results from before the scheduler existed have this sum.
            if *service != Service::Scheduler {
                four = (four.0 + memory.rss, four.1 + memory.anonymous);
            }
            readings.extend(memory_readings(name, memory.rss, memory.anonymous));
            let program = fs::metadata(self.programs.path(side, *service)?)?.len();
            let metric = format!("{name}: program");
            readings.push(Reading::new(metric, Unit::Megabytes, megabytes(program)));
        }
        readings.extend(memory_readings("all four", four.0, four.1));
        readings.extend(memory_readings("all five", total.0, total.1));
        for (_, running) in running {
            running.stop()?;
        }
        Ok(readings)
    }
}

fn memory_readings(who: &str, rss: u64, anonymous: u64) -> [Reading; 2] {
    let reading = |what, bytes| {
        Reading::new(format!("{who}: idle {what}"), Unit::Megabytes, megabytes(bytes))
    };
    [reading("RSS", rss), reading("RssAnon", anonymous)]
}
