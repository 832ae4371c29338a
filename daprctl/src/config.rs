//! Flags of the command, and what they come to.

use std::path::PathBuf;
use std::time::Duration;

use resources::go_duration;

/// Looks at an installation of the Dapr control plane.
#[derive(Debug, clap::Parser)]
#[command(name = "daprctl", version = runtime::VERSION)]
pub enum Command {
    /// Check a cluster before, or an installation after, and say what to do about what is wrong.
    /// Nothing is changed: objects are read, and two are offered to the API server as dry runs
    Check(Flags),
}

/// What the checks are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A cluster that is to get a control plane.
    Before,
    /// An installation.
    After,
}

/// How the findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Lines for people, in groups.
    Table,
    /// One JSON object, see docs/check.md.
    Json,
}

/// The command line of `daprctl check`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Check whether the control plane can be installed, instead of an installation
    #[arg(long)]
    pre: bool,
    /// Namespace of the control plane
    #[arg(short, long, value_name = "NAME", default_value = "dapr-system")]
    namespace: String,
    /// How to print: table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    /// Check again, until there is no error or this time is over, such as 5m
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = go_duration::parse)]
    wait: Duration,
    /// Path of a kubeconfig, instead of `KUBECONFIG` and ~/.kube/config
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, instead of its current one
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// Before or after.
    pub mode: Mode,
    /// Namespace of the control plane.
    pub namespace: String,
    /// How to print.
    pub output: Output,
    /// For how long errors may go away.
    pub wait: Duration,
    /// Where the credentials are, if not where kubectl looks.
    pub kubeconfig: Option<PathBuf>,
    /// Which cluster of them, if not the current one.
    pub context: Option<String>,
}

impl Flags {
    /// Every combination is a legal one.
    pub fn into_config(self) -> Config {
        let Self { pre, namespace, output, wait, kubeconfig, context } = self;
        let mode = if pre { Mode::Before } else { Mode::After };
        Config { mode, namespace, output, wait, kubeconfig, context }
    }
}
