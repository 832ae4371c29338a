//! `cargo xtask chart` and `chart-repo`: the chart as a package for others to install.

use std::path::PathBuf;

use anyhow::Result;
use blackbox::{chart_repo, environment};
use clap::Args;

use crate::output::print;

/// Packages the chart with a registry baked in as the default, and keeps the index of a chart
/// repository beside it: a folder that any web server can serve.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where the control plane images were pushed to with `cargo xtask image --push`
    #[arg(long, value_name = "REGISTRY")]
    registry: String,
    /// Folder of the package and the index
    #[arg(long, value_name = "DIR", default_value = "target/charts")]
    repo: PathBuf,
}

/// Writes the chart repository that the official `dapr` CLI installs and upgrades from: serve the
/// folder by HTTP and set `DAPR_HELM_REPO_URL` to its address. CLIs up to 1.17 also want a chart
/// of Dapr's dashboard, which is archived; theirs installs nothing.
#[derive(Debug, Args)]
pub(crate) struct RepoFlags {
    /// The folder
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Where the control plane images are; without it everybody has to name a registry, for
    /// example with `dapr init -k --image-registry`
    #[arg(long, value_name = "REGISTRY")]
    registry: Option<String>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let repo = environment::workspace().join(&flags.repo); // an absolute folder stays what it is
    let package = chart_repo::add_chart(&repo, Some(&flags.registry))?;
    print(&format!("{}", package.display()))
}

pub(crate) fn repository(flags: &RepoFlags) -> Result<()> {
    let repo = environment::workspace().join(&flags.folder);
    chart_repo::add_chart(&repo, flags.registry.as_deref())?;
    chart_repo::add_dashboard(&repo, flags.registry.as_deref())?;
    print(&format!("{}", repo.join("index.yaml").display()))
}
