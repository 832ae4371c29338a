//! `cargo xtask check`: the checks of a change besides the tests. Start at [`run`]; each module below
//! is one check of the sources.

mod chart_readme;
pub(crate) mod docs;
mod empty_docs;
mod imports;
pub(crate) mod layering;
mod names;
mod schemas;
mod sizes;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::progress::{say, step};
use blackbox::{Service, Tool, environment};
use clap::Args;

use crate::cargo_tool::CargoTool;
use crate::component_types;

const CHART_README: &str = "charts/dapr/README.md";

/// Format, lints, layering, documentation, dependencies, chart, and each package alone.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Only format, lints, layering and generated files
    #[arg(long)]
    quick: bool,
    /// Skip the check that needs the network: the comparison with the database of advisories
    #[arg(long)]
    offline: bool,
}

/// `tasks` are the names of all tasks.
pub(crate) fn run(flags: &Flags, tasks: BTreeSet<String>) -> Result<()> {
    quick(tasks)?;
    if flags.quick {
        return Ok(());
    }
    step("documentation", || {
        cargo_with(
            &["doc", "--workspace", "--no-deps", "--quiet"],
            &[("RUSTDOCFLAGS", "-D warnings")],
        )
    })?;
    step("dependencies", || dependencies(flags.offline))?;
    step("the data about official components", component_types::check)?;
    step("chart lint", || {
        let charts = environment::workspace().join("charts");
        let mut helm = Command::new(Tool::HELM.path()?);
        helm.arg("lint").args([charts.join("dapr"), charts.join("dapr-dashboard")]);
        run_quietly(helm.args(["--set", "global.controlPlane.registry=localhost"]))
    })?;
    for package in Service::ALL.map(Service::package).into_iter().chain(["daprctl", "dashboard"]) {
        step(&format!("{package} alone"), || cargo(&["check", "--quiet", "--package", package]))?;
    }
    Ok(())
}

/// The part that `cargo xtask test` runs first. `tasks` are the names of all tasks.
pub(crate) fn quick(tasks: BTreeSet<String>) -> Result<()> {
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("layering", || layering::check(&environment::workspace()))?;
    step("names", || names::check(&environment::workspace(), docs::sources()))?;
    step("empty documentation", || empty_docs::check(&environment::workspace(), docs::sources()))?;
    step("imports", || imports::check(&environment::workspace(), docs::sources()))?;
    step("sizes", || sizes::check(&environment::workspace(), docs::sources()))?;
    step("the chart's custom resources are those of crds/", chart_crds)?;
    step("the chart's README has its values", chart_readme)?;
    step("the JSON Schemas are those of crds/", || schemas::check(&environment::workspace()))?;
    step("what documentation names exists", || docs::check(&environment::workspace(), tasks))?;
    step("lints", || {
        cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])
    })
}

/// Copies the custom resource definitions into the chart, where Helm expects them, writes their
/// JSON Schemas, and lists the values in its README.
pub(crate) fn generate() -> Result<()> {
    let root = environment::workspace();
    let readme = root.join(CHART_README);
    let text = chart_readme::render(&root)?;
    std::fs::write(&readme, text).with_context(|| format!("write {}", readme.display()))?;
    for (source, copy) in crds(&root)? {
        std::fs::copy(&source, &copy)
            .with_context(|| format!("copy {} to {}", source.display(), copy.display()))?;
    }
    schemas::write(&root)
}

fn chart_readme() -> Result<()> {
    let root = environment::workspace();
    let same = std::fs::read_to_string(root.join(CHART_README))? == chart_readme::render(&root)?;
    ensure!(same, "{CHART_README} does not list the values as they are: run `cargo xtask gen`");
    Ok(())
}

fn chart_crds() -> Result<()> {
    for (source, copy) in crds(&environment::workspace())? {
        let same = std::fs::read(&source)? == std::fs::read(&copy).unwrap_or_default();
        ensure!(
            same,
            "{} differs from {}: run `cargo xtask gen`",
            copy.display(),
            source.display()
        );
    }
    Ok(())
}

/// Each definition and its copy in the chart.
fn crds(root: &Path) -> Result<Vec<(std::path::PathBuf, std::path::PathBuf)>> {
    let chart = root.join("charts/dapr/crds");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root.join("crds")).context("read crds/")? {
        let entry = entry?;
        files.push((entry.path(), chart.join(entry.file_name())));
    }
    ensure!(!files.is_empty(), "crds/ is empty");
    Ok(files)
}

/// Checks licences, sources, duplicate and banned packages; and advisories, whose database is
/// fetched from the network.
fn dependencies(offline: bool) -> Result<()> {
    let deny = CargoTool::DENY.provide()?;
    let check = |what: &[&str]| {
        let mut command = Command::new(&deny);
        command.current_dir(environment::workspace());
        run_quietly(command.args(["--log-level", "warn", "check"]).args(what))
    };
    check(&["licenses", "bans", "sources"])?;
    if offline {
        say("--offline: packages are not compared with the database of advisories");
        return Ok(());
    }
    check(&["advisories"])
        .context("without access to the database of advisories, run `cargo xtask check --offline`")
}

fn cargo(args: &[&str]) -> Result<()> {
    cargo_with(args, &[])
}

fn cargo_with(args: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(environment::workspace()).args(args);
    run_quietly(cargo.envs(variables.iter().copied()))
}

fn run_quietly(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
