//! The command line tool. `check` checks an installation of the Dapr control plane, Trilby or the
//! reference, and names a remedy for each problem; `sidecars` lists what runs; `dashboard` opens
//! the dashboard.
//!
//! ```text
//!  cluster ──► Facts ──► checks::findings ──► Report ──► table or JSON, exit code
//!  (reads, two dry runs)   (pure)
//!     ├──► SidecarFacts ──► sidecars::rows ──► table or JSON
//!     └──► port_forward ──► a browser, or jobs ──► table, JSON, YAML, files
//!  files ──► lint::findings ──► text, JSON, SARIF, GitHub
//! ```
//! Start reading at `checks::findings`, then `Facts`; `sidecars` is a smaller example.
//!
//! Invariants: only `jobs delete` and `jobs import` change anything, and they name what they
//! change. A right that the caller lacks makes only the checks that need it `unknown`. Private keys
//! are read to compare them with their certificates and stay in `identity::stored::Stored`, which
//! prints none. Deliberately absent: repairs.

mod bundle;
mod checks;
mod cluster;
mod config;
mod definitions;
mod documents;
mod error;
mod facts;
mod jobs;
mod lint;
mod output;
mod pods;
mod sidecars;

pub use bundle::{BundleError, BundleFlags};
pub use cluster::{ClusterFlags, PortForwardError};
pub use config::{
    Command, CompletionFlags, Config, DashboardFlags, Flags, LintFlags, ManFlags, Output,
    SidecarFlags,
};
pub use documents::ManError;
pub use error::CommandError;
pub use facts::Mode;
pub use facts::answers::Ask;
pub use jobs::{FileError, JobsError, JobsFlags};

use std::time::Duration;

use runtime::clock;

use cluster::Cluster;

/// Pause between two runs with `--wait`.
const PAUSE: Duration = Duration::from_secs(2);

/// Runs the checks, prints the report and returns whether no check failed.
///
/// # Errors
/// There are no usable credentials, or standard output is closed. Problems of the cluster are
/// findings.
pub async fn check(config: Config) -> Result<bool, CommandError> {
    let (file, context) = (config.kubeconfig.as_deref(), config.context.as_deref());
    let cluster = Cluster::connect(file, context, config.namespace).await?;
    let deadline = clock::monotonic() + config.wait;
    let report = loop {
        let report = cluster.report(config.mode).await;
        if report.success() || clock::monotonic() >= deadline {
            break report;
        }
        tokio::time::sleep(PAUSE).await;
    };
    let text = match config.output {
        Output::Table => report.to_table(),
        Output::Json => report.to_json().map_err(CommandError::Json)?,
    };
    print(&text)?;
    Ok(report.success())
}

/// Checks manifests and prints what is wrong; returns whether nothing is, warnings aside unless
/// they count.
///
/// # Errors
/// A file cannot be read, or standard output is closed. What is not YAML is a finding.
pub fn lint(flags: &LintFlags) -> Result<bool, CommandError> {
    let files = lint::documents::read(&flags.files)?;
    let findings = lint::findings(&files, clock::now());
    let text =
        lint::output::print(flags.output, &findings, files.len()).map_err(CommandError::Json)?;
    print(&text)?;
    let counts = |level| level == lint::Level::Error || flags.strict;
    Ok(!findings.iter().any(|finding| counts(finding.level)))
}

/// Lists the sidecars and returns true.
///
/// # Errors
/// There are no usable credentials, Pods cannot be listed, or standard output is closed. What a
/// single sidecar does not answer is part of the list.
pub async fn sidecars(flags: SidecarFlags) -> Result<bool, CommandError> {
    let cluster = flags.cluster.connect(flags.control_plane).await?;
    let asked = if flags.offline { Ask::Nobody } else { Ask::Sidecars };
    let facts = cluster.sidecars(flags.namespace.as_deref(), asked).await?;
    let rows = sidecars::rows(&facts);
    let text = match flags.output {
        Output::Table => sidecars::to_table(&rows),
        Output::Json => format!("{:#}\n", sidecars::to_value(&facts, &rows)),
    };
    print(&text)?;
    Ok(true)
}

/// Forwards a port of this machine to the dashboard until the process is stopped. The address is
/// printed, and opened in a browser unless that is switched off.
///
/// # Errors
/// There are no usable credentials, no dashboard is running, or the port is taken.
pub async fn dashboard(flags: DashboardFlags) -> Result<bool, CommandError> {
    let cluster = flags.cluster.connect(flags.namespace).await?;
    let forward = cluster.forward_to_dashboard(flags.port).await?;
    let address = forward.address();
    print(&format!(
        "The dashboard is at http://{address}/ until this command is stopped (Ctrl-C).\n"
    ))?;
    if !flags.no_browser {
        output::terminal::open_browser(&format!("http://{address}/"));
    }
    forward.run().await;
    Ok(true)
}

/// Lists, shows, deletes, exports or imports what the scheduler has stored, and returns true.
///
/// # Errors
/// The scheduler's client port does not answer, a job is missing, or a file cannot be used.
pub async fn jobs(flags: JobsFlags) -> Result<bool, CommandError> {
    let mut text = String::new();
    let done = jobs::run(&flags, &mut text).await;
    let printed = print(&text);
    done?;
    printed?;
    Ok(true)
}

/// Writes what a maintainer asks for into one file, without secrets, and returns true.
///
/// # Errors
/// There are no usable credentials, or the file cannot be written. What the caller cannot read is
/// named in the list of contents.
pub async fn support_bundle(flags: BundleFlags) -> Result<bool, CommandError> {
    print(&bundle::run(flags).await?)?;
    Ok(true)
}

/// Prints the completion script of a shell and returns true.
///
/// # Errors
/// Standard output is closed.
pub fn completion(flags: &CompletionFlags) -> Result<bool, CommandError> {
    print(&documents::completion(flags.shell))?;
    Ok(true)
}

/// Writes the manual pages and returns true.
///
/// # Errors
/// The folder cannot be created or written.
pub fn man(flags: &ManFlags) -> Result<bool, CommandError> {
    documents::man(&flags.folder)?;
    Ok(true)
}

fn print(text: &str) -> Result<(), CommandError> {
    output::terminal::print(text).map_err(CommandError::Write)
}
