//! The group `scale`: how memory and processor time of one service grow with the size of the
//! installation, from a few sizes up to one that no test has otherwise. Ours alone: nothing is
//! compared, so that these rows run only when they are named.
//!
//! A row measures each size on a fresh process and names its readings by
//! [`crate::report::growth::reading`], from which the report fits the exponents.

pub mod operator;
pub mod placement;
pub mod scheduler;
pub mod sentry;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::environment::test_env::Running;
use crate::environment::usage::{megabytes, milliseconds};
use crate::report::growth::reading;
use crate::scenario::{Reading, Unit};

/// Readings of one size.
struct Readings {
    size: usize,
    of: &'static str,
    all: Vec<Reading>,
}

impl Readings {
    fn new(size: usize, of: &'static str) -> Self {
        Self { size, of, all: Vec::new() }
    }

    fn add(&mut self, quantity: &str, unit: Unit, value: f64) {
        self.all.push(reading(self.size, self.of, quantity, unit, value));
    }

    fn cpu(&mut self, quantity: &str, cpu: Duration) {
        self.add(quantity, Unit::CpuMilliseconds, milliseconds(cpu));
    }

    /// The memory of a service now, and what it has more than `idle` bytes.
    fn memory(&mut self, quantity: &str, service: &Running, idle: u64) -> Result<()> {
        let rss = service.memory()?.rss;
        self.add(quantity, Unit::Megabytes, megabytes(rss));
        let more = rss.saturating_sub(idle);
        self.add(&format!("{quantity}, above idle"), Unit::Megabytes, megabytes(more));
        Ok(())
    }
}

/// Checks that this process, and the services that it starts, may open so many files.
fn needs_descriptors(count: u64) -> Result<()> {
    let there = runtime::descriptors::raise();
    ensure!(
        there >= count,
        "{count} open files are needed and {there} allowed: run `ulimit -n {count}` first"
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn number(value: u64) -> f64 {
    value as f64
}
