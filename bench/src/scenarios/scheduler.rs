//! Scenarios of the scheduler: one member with its own store, in [`members`] three on an etcd; both
//! sides durable, in plain text, jobs with a payload of 256 bytes, calls on 8 connections, 3 streams.

pub mod herd;
pub mod members;
pub mod oneshot;
pub mod restart;
pub mod schedule;
pub mod ticks;
pub mod workflow;

use std::time::Duration;

use anyhow::{Result, bail};
use blackbox::progress::say;
use runtime::clock::monotonic;

use crate::clients::delivery_log::{Deliveries, DeliveryLog};
use crate::clients::load;
use crate::environment::programs::Programs;
use crate::scenario::{Prepared, Reading, Side, Size, Unit};

/// Interval between polls of the log.
const POLL: Duration = Duration::from_millis(1);

/// Input of every round.
struct Fixture {
    programs: Programs,
    size: Size,
    runtime: tokio::runtime::Runtime,
}

/// A round of one side; the last argument says whether it is the side's first.
type Measure = fn(&Fixture, Side, bool) -> Result<Vec<Reading>>;

struct Rounds {
    fixture: Fixture,
    measure: Measure,
    begun: Vec<Side>,
}

fn prepared(programs: &Programs, size: Size, measure: Measure) -> Result<Box<dyn Prepared>> {
    let fixture = Fixture { programs: programs.clone(), size, runtime: load::runtime()? };
    Ok(Box::new(Rounds { fixture, measure, begun: Vec::new() }))
}

impl Prepared for Rounds {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let first = !self.begun.contains(&side);
        self.begun.push(side);
        (self.measure)(&self.fixture, side, first)
    }
}

/// The readings, or none when a side does not finish in time.
fn or_none(measured: Result<Vec<Reading>>, side: Side, what: &str) -> Vec<Reading> {
    measured.unwrap_or_else(|error| {
        say(format_args!("{}: {what}: {error:#}", side.name()));
        Vec::new()
    })
}

/// Waits until `count` jobs were delivered.
async fn delivered(log: &DeliveryLog, count: u64, limit: Duration) -> Result<()> {
    let begin = monotonic();
    while log.count() < count {
        if begin.elapsed() > limit {
            bail!("{} of {count} jobs were delivered in {limit:?}", log.count());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Lost and twice, with `what` before each.
fn accounts(what: &str, deliveries: Deliveries) -> [Reading; 2] {
    [("lost", deliveries.lost), ("delivered twice", deliveries.twice)]
        .map(|(name, value)| Reading::new(format!("{what}: {name}"), Unit::Count, number(value)))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn number(value: u64) -> f64 {
    value as f64
}

/// Milliseconds of CPU time for each of `count`.
fn each(cpu: Duration, count: u64) -> f64 {
    cpu.as_secs_f64() * 1e3 / number(count.max(1))
}

/// Microseconds as milliseconds.
fn milliseconds(microseconds: u64) -> f64 {
    number(microseconds) / 1e3
}
