//! Scenario `attacks`: memory of a service and latencies of its clients while others misbehave.
//! The attacks are in `cases.rs`.

mod cases;
mod victims;

use std::time::Duration;

use anyhow::{Context as _, Result};
use blackbox::Service;
use blackbox::progress::say;
use tokio::runtime::Runtime;

use crate::clients::attackers::{self, Door};
use crate::clients::load::{self, Caller, Outcome};
use crate::environment::memory_group::MemoryGroup;
use crate::environment::programs::Programs;
use crate::environment::test_env::{Running, TestEnv};
use crate::environment::usage::{Peak, megabytes};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use cases::Case;

/// Victims, who share the requests.
const COUNT: usize = 4;
/// Time limit for an attack to reach its size, before victims are measured.
const RISE: Duration = Duration::from_secs(30);

/// Memory and latencies under attack. Its parts are the attacks.
pub struct Attacks(Vec<Case>);

struct Attacked {
    cases: Vec<Case>,
    env: TestEnv,
    programs: Programs,
    measured: Duration,
    runtime: Runtime,
}

impl Attacks {
    /// All attacks.
    pub fn all() -> Self {
        Self(cases::all())
    }

    /// The services that are attacked and the authority, or all when several are attacked.
    fn services(&self) -> &'static [Service] {
        use Service::{Injector, Operator, Placement, Scheduler, Sentry};
        let alone = |one: Service| self.0.iter().all(|case| case.service == one);
        match Service::ALL.into_iter().find(|one| alone(*one)) {
            None => &Service::ALL,
            Some(Sentry) => &[Sentry],
            Some(Injector) => &[Sentry, Injector],
            Some(Operator) => &[Sentry, Operator],
            Some(Placement) => &[Sentry, Placement],
            Some(Scheduler) => &[Sentry, Scheduler],
        }
    }
}

impl Scenario for Attacks {
    fn description(&self) -> Description {
        Description {
            name: "attacks",
            about: "Attacks on one service after the other, each on a fresh process with the \
                 memory limit of the chart (as root): four victims with another address make 50 \
                 requests/s (placement: join and wait for the table, 20 a second) before the \
                 attack and during it. Memory is compared with twice the idle memory and the \
                 budget in docs/limits.md",
            services: self.services(),
            ..Description::OURS
        }
    }

    fn parts(&self, words: &[&str]) -> Option<Box<dyn Scenario>> {
        let named = |case: &&Case| words.iter().any(|word| case.name.contains(word));
        let cases: Vec<_> = self.0.iter().filter(named).cloned().collect();
        if cases.is_empty() { None } else { Some(Box::new(Self(cases))) }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let env = TestEnv::start(programs)?;
        cases::prepare(&env)?;
        let measured = size.pick(Duration::from_secs(10), Duration::from_secs(3));
        let (programs, runtime) = (programs.clone(), load::runtime()?);
        let cases = self.0.clone();
        Ok(Box::new(Attacked { cases, env, programs, measured, runtime }))
    }
}

impl Prepared for Attacked {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        for case in &self.cases {
            say(format_args!("attacks: {}", case.name));
            let measured = self.runtime.block_on(self.attack(side, case));
            readings.extend(measured.with_context(|| case.name)?);
        }
        Ok(readings)
    }
}

impl Attacked {
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    async fn measure<C: Caller>(
        &self,
        case: &Case,
        service: &Running,
        door: &Door,
        per_second: f64,
        victims: impl AsyncFn() -> Result<Vec<C>>,
    ) -> Result<Vec<Reading>> {
        let group = MemoryGroup::of(case.service)?;
        if let Some(group) = &group {
            group.add(service.pid())?;
        }
        let quiet = load::open(victims().await?, per_second, self.measured).await?;
        let idle = service.memory()?.rss;
        let peak = Peak::watch(service.pid());
        let attackers = attackers::start(door, &case.attacks, case.connections)?;
        let connections = attackers.rise(RISE).await;
        let loud = load::open(victims().await?, per_second, self.measured).await?;
        let attacked = peak.finish().rss;
        drop(attackers);
        let mut readings = vec![Reading::new(
            case.metric("attackers' connections"),
            Unit::Amount,
            connections as f64,
        )];
        readings.extend(memory_readings(case, idle, attacked));
        readings.extend(victim_readings(case, &quiet, &loud));
        if let Some(group) = group {
            let kills = f64::from(group.kills()?);
            readings.push(Reading::new(case.metric("killed for memory"), Unit::Count, kills));
        }
        Ok(readings)
    }
}

fn memory_readings(case: &Case, idle: u64, attacked: u64) -> Vec<Reading> {
    let reading = |what, value| Reading::new(case.metric(what), Unit::Megabytes, value);
    let (idle, attacked) = (megabytes(idle), megabytes(attacked));
    let share = attacked / (2.0 * idle + case.budget);
    vec![
        reading("idle RSS", idle),
        reading("peak RSS", attacked),
        reading("budget", case.budget),
        Reading::new(case.metric("part of what it may use"), Unit::Count, share),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn victim_readings(case: &Case, quiet: &Outcome, loud: &Outcome) -> Vec<Reading> {
    let latency = |what, value| Reading::new(case.metric(what), Unit::Milliseconds, value);
    let [calm, slow] = [quiet, loud].map(|outcome| outcome.quantile_ms(0.99));
    vec![
        latency("victim p50, quiet", quiet.quantile_ms(0.5)),
        latency("victim p50", loud.quantile_ms(0.5)),
        latency("victim p99, quiet", calm),
        latency("victim p99", slow),
        Reading::new(case.metric("victim p99, times quiet"), Unit::Count, slow / calm),
        Reading::new(case.metric("victim errors"), Unit::Count, loud.failed() as f64),
    ]
}
