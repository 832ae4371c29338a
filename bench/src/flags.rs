//! The command line of `cargo xtask bench`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::{environment::authority::Authority, scenario::Size};

/// Measures the services against the reference control plane.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
pub struct Flags {
    /// What to do instead of a run of all rows
    #[command(subcommand)]
    pub task: Option<Task>,
    /// Which rows and how often
    #[command(flatten)]
    pub run: Run,
}

/// Other things than a run.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Names the rows and what they measure
    List,
    /// Puts one row's load on a service that already runs
    Load(Target),
    /// Writes the report and its pictures from the JSON of a run
    Report {
        /// What a run wrote with `--json`; several runs of different rows make one report
        #[arg(required = true)]
        json: Vec<PathBuf>,
        /// The folder of the report
        #[arg(long, default_value = "docs")]
        docs: PathBuf,
    },
}

/// A run of rows.
#[derive(Debug, Args)]
pub struct Run {
    /// Only rows whose name contains this; may be repeated
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
    /// Also writes docs/performance.md and its pictures
    #[arg(long)]
    pub report: bool,
    /// Cargo's profile for our own services
    #[arg(long, default_value = "release")]
    pub profile: String,
}

impl Run {
    /// How often each side is measured.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(self.size().pick(3, 1))
    }

    /// How large the loads are.
    pub fn size(&self) -> Size {
        if self.quick { Size::Quick } else { Size::Full }
    }
}

/// A service that runs somewhere, and the way in.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The row whose load it is
    pub scenario: String,
    /// `host:port` of the service
    #[arg(long)]
    pub address: String,
    /// The trust anchors of its control plane (PEM)
    #[arg(long, value_name = "FILE")]
    pub anchors: Option<PathBuf>,
    /// `host:port` of the sentry that gives the load its certificates
    #[arg(long)]
    pub sentry: Option<String>,
    /// The control plane's trust domain
    #[arg(long, default_value = "cluster.local")]
    pub trust_domain: String,
    /// The control plane's namespace
    #[arg(long, default_value = "dapr-system")]
    pub namespace: String,
    /// The namespace of the apps that sidecars are of
    #[arg(long, default_value = "default")]
    pub apps: String,
    /// The cluster, for a load that makes or changes objects
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// A cut load
    #[arg(long)]
    pub quick: bool,
}

impl Target {
    /// The trust anchors (PEM).
    ///
    /// # Errors
    /// When no file is named, or it cannot be read.
    pub fn anchors(&self) -> Result<String> {
        let file = self.anchors.as_ref().context("--anchors FILE is needed")?;
        fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
    }

    /// The way into the cluster.
    ///
    /// # Errors
    /// When no file is named.
    pub fn kubeconfig(&self) -> Result<&Path> {
        self.kubeconfig.as_deref().context("--kubeconfig FILE is needed")
    }

    /// Who gives the load its certificates: without `--sentry`, the service itself is the sentry.
    ///
    /// # Errors
    /// As [`Target::anchors`].
    pub fn authority(&self) -> Result<Authority> {
        Ok(Authority {
            sentry: self.sentry.clone().unwrap_or_else(|| self.address.clone()),
            anchors: self.anchors()?,
            trust_domain: self.trust_domain.clone(),
            namespace: self.namespace.clone(),
        })
    }

    /// How large the load is.
    pub fn size(&self) -> Size {
        if self.quick { Size::Quick } else { Size::Full }
    }
}
