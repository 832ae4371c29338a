//! `daprctl check`: checks an installation of the Dapr control plane, Trilby or the reference, and
//! names a remedy for each problem.
//!
//! ```text
//!  cluster ──► Facts ──► checks::findings ──► Report ──► table or JSON, exit code
//!  (reads, two dry runs)   (pure)
//! ```
//! Start reading at `checks::findings`, then `Facts`.
//!
//! Invariants: the command changes nothing in the cluster. A right that the caller lacks makes only
//! the checks that need it `unknown`. Private keys are read to compare them with their
//! certificates and stay in `identity::stored::Stored`, which prints none. Deliberately absent:
//! repairs.

mod checks;
mod cluster;
mod config;
mod definitions;
mod facts;
mod finding;
mod pods;
mod report;

pub use config::{Command, Config, Flags, Mode, Output};

use std::io::Write as _;
use std::time::Duration;

use runtime::clock;

use cluster::Cluster;
use report::Report;

/// Timeout of a call to the API server, of which a webhook can take 30 s.
const CALL_LIMIT: Duration = Duration::from_secs(40);
/// Pause between two runs with `--wait`.
const PAUSE: Duration = Duration::from_secs(2);

/// Why the checks cannot run.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] kubernetes::ClientError),
    /// The report cannot be serialised.
    #[error("print the report as JSON")]
    Json(#[source] serde_json::Error),
    /// Standard output is closed.
    #[error("write to standard output")]
    Write(#[source] std::io::Error),
}

/// Runs the checks, prints the report and returns whether no check failed.
///
/// # Errors
/// There are no usable credentials, or standard output is closed. Problems of the cluster are
/// findings.
pub async fn check(config: Config) -> Result<bool, CheckError> {
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
        Output::Json => report.to_json().map_err(CheckError::Json)?,
    };
    std::io::stdout().lock().write_all(text.as_bytes()).map_err(CheckError::Write)?;
    Ok(report.success())
}
