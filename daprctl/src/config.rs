//! Flags of the command.

use std::path::PathBuf;
use std::time::Duration;

use resources::go_duration;

use crate::bundle::BundleFlags;
use crate::cluster::ClusterFlags;
use crate::facts::Mode;
use crate::facts::answers::Ask;
use crate::jobs::JobsFlags;
use crate::lint::output::LintOutput;

/// Checks an installation of the Dapr control plane, lists its sidecars and jobs, opens its dashboard.
#[derive(Debug, clap::Parser)]
#[command(name = "daprctl", version = runtime::VERSION)]
pub enum Command {
    /// Check a cluster before the installation, or an installation, and print a remedy for each
    /// problem. Nothing is changed: the command reads objects, asks sidecars and creates two objects as
    /// dry runs
    Check(Flags),
    /// List the sidecars: version, readiness, what each loaded and what not
    Sidecars(SidecarFlags),
    /// List, show, delete, export and import what the scheduler has stored: jobs, actor reminders,
    /// timers of workflows
    Jobs(JobsFlags),
    /// Check manifests without a cluster: objects of dapr.io and annotations of pods
    Lint(LintFlags),
    /// Open the dashboard through the API server, by a port-forward to its pod
    Dashboard(DashboardFlags),
    /// Write what a maintainer asks for into one file, without secrets
    SupportBundle(BundleFlags),
    /// Print the completion script of a shell
    Completion(CompletionFlags),
    /// Write the manual pages of this command, one for each subcommand
    Man(ManFlags),
}

/// The command line of `daprctl sidecars`.
#[derive(Debug, clap::Args)]
pub struct SidecarFlags {
    /// The cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
    /// Namespace of the applications. Default: all
    #[arg(short, long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Namespace of the control plane, whose version sidecars are compared with
    #[arg(long, value_name = "NAME", default_value = "dapr-system")]
    pub(crate) control_plane: String,
    /// Do not ask the sidecars: show only what the API server knows
    #[arg(long)]
    pub(crate) offline: bool,
    /// Output format: table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
}

/// The command line of `daprctl lint`.
#[derive(Debug, clap::Args)]
pub struct LintFlags {
    /// Files with manifests in YAML or JSON; - for standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Output format: text, json, sarif, or github for annotations of a pull request
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: LintOutput,
    /// Exit with 1 for warnings too
    #[arg(long)]
    pub(crate) strict: bool,
}

/// The command line of `daprctl dashboard`.
#[derive(Debug, clap::Args)]
pub struct DashboardFlags {
    /// The cluster.
    #[command(flatten)]
    pub(crate) cluster: ClusterFlags,
    /// Namespace of the dashboard
    #[arg(short, long, value_name = "NAME", default_value = "dapr-system")]
    pub(crate) namespace: String,
    /// Port on this machine; 0 takes a free one
    #[arg(short, long, value_name = "PORT", default_value_t = 0)]
    pub(crate) port: u16,
    /// Print the address and open no browser
    #[arg(long)]
    pub(crate) no_browser: bool,
}

/// The command line of `daprctl completion`.
#[derive(Debug, clap::Args)]
pub struct CompletionFlags {
    /// bash, zsh, fish or powershell
    pub(crate) shell: CompletionShell,
}

/// A shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lowercase")]
pub(crate) enum CompletionShell {
    Bash,
    Zsh,
    Fish,
    PowerShell,
}

/// The command line of `daprctl man`.
#[derive(Debug, clap::Args)]
pub struct ManFlags {
    /// Folder of the pages, such as /usr/local/share/man/man1. It is created
    #[arg(value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// A table, grouped.
    Table,
    /// One JSON object, see docs/check.md.
    Json,
}

/// The command line of `daprctl check`.
#[derive(Debug, clap::Args)]
pub struct Flags {
    /// Check whether the control plane can be installed
    #[arg(long)]
    pre: bool,
    /// Namespace of the control plane
    #[arg(short, long, value_name = "NAME", default_value = "dapr-system")]
    namespace: String,
    /// Do not ask the sidecars for their certificates and connections
    #[arg(long)]
    offline: bool,
    /// Output format: table or json
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Output,
    /// Repeat the checks until none fails or this time has passed, for example 5m
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = go_duration::parse)]
    wait: Duration,
    /// Path of the kubeconfig. Default: `KUBECONFIG`, else ~/.kube/config
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig. Default: its current context
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

/// Validated flags.
#[derive(Debug, Clone)]
pub struct Config {
    /// The set of checks.
    pub mode: Mode,
    /// Namespace of the control plane.
    pub namespace: String,
    /// Output format.
    pub output: Output,
    /// Time to repeat the checks while one fails. Default 0: once.
    pub wait: Duration,
    /// Path of the kubeconfig; `None` for the default of kubectl.
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; `None` for its current context.
    pub context: Option<String>,
}

impl Flags {
    /// Converts the flags. Every combination is valid.
    pub fn into_config(self) -> Config {
        let Self { pre, namespace, offline, output, wait, kubeconfig, context } = self;
        let mode = match (pre, offline) {
            (true, _) => Mode::PreInstall,
            (false, true) => Mode::Installed(Ask::Nobody),
            (false, false) => Mode::Installed(Ask::Sidecars),
        };
        Config { mode, namespace, output, wait, kubeconfig, context }
    }
}
