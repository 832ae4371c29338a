//! `cargo xtask chart` and `chart-repo`: the chart as a package for others to install.

use std::path::PathBuf;

use anyhow::Result;
use blackbox::{chart_repo, environment};
use clap::Args;

use crate::output::print;

/// Packages the chart with a default registry, and updates the index of a chart repository beside
/// it: a folder that any web server can serve.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Registry of the control plane images, as given to `cargo xtask image --push`
    #[arg(long, value_name = "REGISTRY")]
    registry: String,
    /// Folder of the package and the index
    #[arg(long, value_name = "DIR", default_value = "target/charts")]
    repo: PathBuf,
}

/// Writes the chart repository that the official `dapr` CLI installs and upgrades from: serve the
/// folder by HTTP and set `DAPR_HELM_REPO_URL` to its address. CLIs up to 1.17 also need a chart of
/// Dapr's dashboard, which is archived; ours installs nothing.
#[derive(Debug, Args)]
pub(crate) struct RepoFlags {
    /// Folder to write the repository to
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Registry of the control plane images; without it each user has to name one, for example with
    /// `dapr init -k --image-registry`
    #[arg(long, value_name = "REGISTRY")]
    registry: Option<String>,
    /// Also push both charts to this folder of a registry, such as `oci://registry.example.com/charts`
    #[arg(long, value_name = "URL")]
    push: Option<String>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let repo = environment::workspace().join(&flags.repo); // an absolute path is unchanged
    let package = chart_repo::add_chart(&repo, Some(&flags.registry))?;
    print(&format!("{}", package.display()))
}

pub(crate) fn repository(flags: &RepoFlags) -> Result<()> {
    let repo = environment::workspace().join(&flags.folder);
    let charts = [
        chart_repo::add_chart(&repo, flags.registry.as_deref())?,
        chart_repo::add_dashboard(&repo, flags.registry.as_deref())?,
    ];
    if let Some(folder) = &flags.push {
        charts.iter().try_for_each(|chart| chart_repo::push(chart, folder))?;
    }
    print(&format!("{}", repo.join("index.yaml").display()))
}
