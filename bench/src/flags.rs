//! The command line of `cargo xtask bench`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::size::Size;
use crate::target::Target;

/// Measures the services against the reference control plane.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub struct Flags {
    /// Task; without one all rows run
    #[command(subcommand)]
    pub task: Option<Task>,
    /// The rows to run and how often
    #[command(flatten)]
    pub run: Run,
}

/// Tasks other than a run.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// List the rows and what they measure
    List,
    /// Put the load of one row on a running service
    Load(Target),
    /// Write the report and its pictures from the JSON of a run
    Report {
        /// Output of `--json`; several runs make one report, each row of the last run that has it
        #[arg(required = true)]
        json: Vec<PathBuf>,
        /// The folder of the report
        #[arg(long, default_value = "docs")]
        docs: PathBuf,
        /// Keep the rows of the stored results that these runs lack
        #[arg(long)]
        keep: bool,
    },
}

/// Options of a run.
#[derive(Debug, Args)]
pub struct Run {
    /// Only the row of this name, or the rows whose name contains it; `ROW/PART` for those parts of
    /// the row whose names contain PART, as `attacks/unfinished`; may be repeated
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Rounds of each side, which take turns [default: 3, of a cut run 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// A cut run: smaller loads, for a first look
    #[arg(long)]
    pub quick: bool,
    /// Writes the results as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Compares with the programs in this folder, built from an older commit, instead of the reference
    #[arg(long, value_name = "DIR", conflicts_with = "report")]
    pub baseline: Option<PathBuf>,
    /// Also writes docs/performance.md and its pictures; with `--only` its other rows stay. Not with
    /// a part of a row
    #[arg(long)]
    pub report: bool,
    /// Cargo's profile for our own services
    #[arg(long, default_value = "release")]
    pub profile: String,
}

impl Run {
    /// Number of rounds of each side.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(self.size().pick(3, 1))
    }

    /// Size of the loads.
    pub fn size(&self) -> Size {
        if self.quick { Size::Quick } else { Size::Full }
    }
}
