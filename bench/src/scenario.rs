//! What a row of the benchmark is.

use anyhow::{Result, bail};
use blackbox::Service;
use serde::{Deserialize, Serialize};

use crate::{environment::programs::Programs, flags::Target};

/// Whose services are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The Go control plane.
    Reference,
    /// Ours.
    Trilby,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Reference, Self::Trilby];

    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Trilby => "trilby",
        }
    }
}

/// How large the loads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// As the rows describe.
    Full,
    /// A tenth or so, for a first look.
    Quick,
}

impl Size {
    /// One of two values.
    pub fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// The unit of a reading; it also says which direction is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Requests in a second: more is better.
    #[serde(rename = "/s")]
    PerSecond,
    /// Milliseconds of the wall clock.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Milliseconds of processor time.
    #[serde(rename = "CPU ms")]
    CpuMilliseconds,
    /// 1,000,000 bytes.
    #[serde(rename = "MB")]
    Megabytes,
    /// 1,000 bytes.
    #[serde(rename = "kB")]
    Kilobytes,
    /// A plain number; fewer is better.
    #[serde(rename = "")]
    Count,
}

impl Unit {
    /// How it is printed.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Milliseconds => "ms",
            Self::CpuMilliseconds => "CPU ms",
            Self::Megabytes => "MB",
            Self::Kilobytes => "kB",
            Self::Count => "",
        }
    }

    /// Whether a larger value is the better one.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond)
    }
}

/// One measured value of one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What was measured, the same words in every round and on both sides.
    pub metric: String,
    /// Of what.
    pub unit: Unit,
    /// How much.
    pub value: f64,
}

impl Reading {
    /// A reading.
    pub fn new(metric: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { metric: metric.into(), unit, value }
    }
}

/// One row: a load and what is reported of it.
pub trait Scenario {
    /// Its name, as in `--only`.
    fn name(&self) -> &'static str;

    /// The load and its conditions in one or two sentences, for the list and the report.
    fn about(&self) -> &'static str;

    /// The services that it starts, so that they are built before the clock runs.
    fn services(&self) -> &'static [Service];

    /// Sets up what both sides share; not measured.
    ///
    /// # Errors
    /// When something that the row needs does not start.
    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>>;

    /// Puts the load on a service that already runs, wherever that is.
    ///
    /// # Errors
    /// When the service cannot be reached, or the row starts what it measures itself.
    fn load(&self, target: &Target) -> Result<Vec<Reading>> {
        bail!(
            "row {} starts what it measures; there is no load for {}",
            self.name(),
            target.address
        )
    }
}

/// A row that is set up.
pub trait Prepared {
    /// One round of one side: starts its services, warms up, measures, ends them.
    ///
    /// # Errors
    /// When the side does not start or the load cannot be put on it. Refused or failed requests
    /// are readings, not errors.
    fn round(&mut self, side: Side) -> Result<Vec<Reading>>;
}
