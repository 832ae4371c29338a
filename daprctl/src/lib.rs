//! `daprctl check`: what is wrong with an installation of the Dapr control plane, Trilby or the
//! reference, and what to do about it.
//!
//! ```text
//!  cluster ──► Facts ──► checks::findings ──► Report ──► table or JSON, exit code
//!  (reads, two dry runs)      (pure)
//! ```
//! Start reading at [`checks::findings`], then [`Facts`].
//!
//! Invariants: nothing in the cluster is changed. A right that the caller lacks makes its check
//! [`Status::Unknown`] and no other. Keys are read to see whether they fit, and kept by
//! [`identity::stored::Stored`], which prints none of them. Deliberately absent: repairing anything.

pub mod checks;
mod cluster;
mod config;
pub mod definitions;
pub mod facts;
pub mod finding;
mod pods;
mod report;

pub use config::{Command, Config, Flags, Mode, Output};
pub use facts::Facts;
pub use finding::{Finding, Status};
pub use report::Report;

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use runtime::clock;

use cluster::Cluster;

/// Limit of one call to the API server; a webhook may take 30 s of it.
const CALL_LIMIT: Duration = Duration::from_secs(40);
/// Pause between two looks of `--wait`.
const PAUSE: Duration = Duration::from_secs(2);

/// Checks, prints, and returns whether there was no error.
///
/// # Errors
/// There are no usable credentials, or standard output is closed. What the cluster says is a
/// finding and no error.
pub async fn check(config: Config) -> anyhow::Result<bool> {
    let (file, context) = (config.kubeconfig.as_deref(), config.context.as_deref());
    let client = kubernetes::user_client(file, context, CALL_LIMIT).await?;
    let cluster = Cluster::new(client, config.namespace.clone());
    let deadline = clock::monotonic() + config.wait;
    let report = loop {
        let report = match Box::pin(cluster.facts(config.mode)).await {
            Ok(facts) => Report::new(&facts, checks::findings(&facts)),
            Err(unread) => Report::unreachable(&config.namespace, &unread),
        };
        if report.success() || clock::monotonic() >= deadline {
            break report;
        }
        tokio::time::sleep(PAUSE).await;
    };
    let text = match config.output {
        Output::Table => report.to_table(),
        Output::Json => report.to_json()?,
    };
    std::io::stdout().lock().write_all(text.as_bytes()).context("write to standard output")?;
    Ok(report.success())
}
