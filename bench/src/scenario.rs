//! The interface of a row of the benchmark.

use anyhow::{Result, bail};
use blackbox::Service;
use serde::{Deserialize, Serialize};

use crate::environment::programs::Programs;
pub use crate::side::Side;
pub use crate::size::Size;
use crate::target::Target;

/// The unit of a reading; it decides whether more is better.
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
    /// A plain number; more is better.
    #[serde(rename = "more")]
    Amount,
}

impl Unit {
    /// Its symbol in tables.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::Milliseconds => "ms",
            Self::CpuMilliseconds => "CPU ms",
            Self::Megabytes => "MB",
            Self::Kilobytes => "kB",
            Self::Count | Self::Amount => "",
        }
    }

    /// Whether a larger value is the better one.
    pub const fn more_is_better(self) -> bool {
        matches!(self, Self::PerSecond | Self::Amount)
    }
}

/// One measured value of one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Name of the metric, equal in every round and on both sides.
    pub metric: String,
    /// Unit of the value.
    pub unit: Unit,
    /// Measured in that unit.
    pub value: f64,
}

impl Reading {
    /// A value of a metric.
    pub fn new(metric: impl Into<String>, unit: Unit, value: f64) -> Self {
        Self { metric: metric.into(), unit, value }
    }
}

/// What a row is.
#[derive(Clone, Copy, Debug)]
pub struct Description {
    /// Its name, as in `--only`.
    pub name: &'static str,
    /// Description of the load in one or two sentences, for the list and the report.
    pub about: &'static str,
    /// The services that it starts, which are built before anything is measured.
    pub services: &'static [Service],
    /// The sides that have figures in it.
    pub sides: &'static [Side],
    /// Whether it runs only when `--only` names it: it takes long and compares nothing.
    pub is_only_named: bool,
}

impl Description {
    /// A row with every side.
    pub const COMPARED: Self = Self {
        name: "",
        about: "",
        services: &[],
        sides: &[Side::Reference, Side::Baseline, Side::Trilby],
        is_only_named: false,
    };

    /// A row of ours alone, also at an older commit.
    pub const OURS: Self = Self { sides: &[Side::Baseline, Side::Trilby], ..Self::COMPARED };
}

/// One row: a load and what is reported of it.
pub trait Scenario {
    /// What the row is.
    fn description(&self) -> Description;

    /// The row with only those of its parts whose names contain one of the words; `None` when no
    /// part's name does, or the row has no parts.
    fn parts(&self, _words: &[&str]) -> Option<Box<dyn Scenario>> {
        None
    }

    /// Sets up what both sides share. Not measured.
    ///
    /// # Errors
    /// When a dependency of the row does not start.
    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>>;

    /// Puts the load on a running service.
    ///
    /// # Errors
    /// When the service cannot be reached, or the row starts what it measures itself.
    fn load(&self, target: &Target) -> Result<Vec<Reading>> {
        bail!(
            "row {} starts what it measures; there is no load for {}",
            self.description().name,
            target.address
        )
    }
}

/// A row that is set up.
pub trait Prepared {
    /// One round of one side: starts its services, warms up, measures, stops them.
    ///
    /// # Errors
    /// When the side does not start or the load cannot be put on it. Refused or failed requests
    /// are readings, not errors.
    fn round(&mut self, side: Side) -> Result<Vec<Reading>>;
}
