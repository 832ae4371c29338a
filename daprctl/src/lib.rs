//! A person's command. `check` checks an installation of the Dapr control plane, Trilby or the
//! reference, and names a remedy for each problem; `sidecars` lists what runs; `dashboard` opens the
//! dashboard.
//!
//! ```text
//!  cluster ──► Facts ──► checks::findings ──► Report ──► table or JSON, exit code
//!  (reads, two dry runs)   (pure)
//!     ├──► SidecarFacts ──► sidecars::rows ──► table or JSON
//!     └──► port_forward ──► a browser
//!  files ──► lint::findings ──► text, JSON, SARIF, GitHub
//! ```
//! Start reading at `checks::findings`, then `Facts`; `sidecars` is the same in small.
//!
//! Invariants: the command changes nothing in the cluster. A right that the caller lacks makes only
//! the checks that need it `unknown`. Private keys are read to compare them with their
//! certificates and stay in `identity::stored::Stored`, which prints none. Deliberately absent:
//! repairs.

mod checks;
mod cluster;
mod config;
mod definitions;
mod documents;
mod error;
mod facts;
mod finding;
mod lint;
mod pods;
mod report;
mod sidecars;
mod terminal;

pub use cluster::port_forward::PortForwardError;
pub use config::{
    ClusterFlags, Command, CompletionFlags, Config, DashboardFlags, Flags, LintFlags, ManFlags,
    Mode, Output, SidecarFlags,
};
pub use documents::{completion, man};
pub use error::CommandError;

use std::time::Duration;

use runtime::clock;

use cluster::Cluster;
use report::Report;
use terminal::print;

/// Timeout of a call to the API server, of which a webhook can take 30 s.
const CALL_LIMIT: Duration = Duration::from_secs(40);
/// Pause between two runs with `--wait`.
const PAUSE: Duration = Duration::from_secs(2);

/// Runs the checks, prints the report and returns whether no check failed.
///
/// # Errors
/// There are no usable credentials, or standard output is closed. Problems of the cluster are
/// findings.
pub async fn check(config: Config) -> Result<bool, CommandError> {
    let (file, context) = (config.kubeconfig.as_deref(), config.context.as_deref());
    let client = kubernetes::user_client(file, context, CALL_LIMIT).await?;
    let cluster = Cluster::new(client, config.namespace.clone());
    let deadline = clock::monotonic() + config.wait;
    let report = loop {
        let report = match Box::pin(cluster.facts(config.mode)).await {
            Ok(facts) => Report::new(&facts, checks::findings(&facts)),
            Err(error) => Report::unreachable(&config.namespace, &error),
        };
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

/// Checks manifests and prints what is wrong; returns whether nothing is, warnings aside unless they
/// count.
///
/// # Errors
/// A file cannot be read, or standard output is closed. What is not YAML is a finding.
pub fn lint(flags: &LintFlags) -> Result<bool, CommandError> {
    let files = lint::documents::read(&flags.files)?;
    let findings = lint::findings(&files, clock::now());
    print(&lint::output::print(flags.output, &findings, files.len()).map_err(CommandError::Json)?)?;
    let counts = |level| level == lint::Level::Error || flags.strict;
    Ok(!findings.iter().any(|finding| counts(finding.level)))
}

/// Lists the sidecars and returns true.
///
/// # Errors
/// There are no usable credentials, Pods cannot be listed, or standard output is closed. What a single
/// sidecar does not answer is part of the list.
pub async fn sidecars(flags: SidecarFlags) -> Result<bool, CommandError> {
    let cluster = connect(&flags.cluster, flags.control_plane).await?;
    let asked = if flags.offline { cluster::Ask::Nobody } else { cluster::Ask::Sidecars };
    let facts = cluster.sidecars(flags.namespace.as_deref(), asked).await?;
    let rows = sidecars::rows(&facts);
    let text = match flags.output {
        Output::Table => sidecars::to_table(&rows),
        Output::Json => sidecars::to_json(&facts, &rows).map_err(CommandError::Json)?,
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
    let cluster = connect(&flags.cluster, flags.namespace).await?;
    let forward = cluster.forward_to_dashboard(flags.port).await?;
    let address = forward.address();
    print(&format!(
        "The dashboard is at http://{address}/ until this command is stopped (Ctrl-C).\n"
    ))?;
    if !flags.no_browser {
        terminal::open_browser(&format!("http://{address}/"));
    }
    forward.run().await;
    Ok(true)
}

async fn connect(flags: &ClusterFlags, namespace: String) -> Result<Cluster, CommandError> {
    let (file, context) = (flags.kubeconfig.as_deref(), flags.context.as_deref());
    let client = kubernetes::user_client(file, context, CALL_LIMIT).await?;
    Ok(Cluster::new(client, namespace))
}
