//! The task runner: `cargo xtask --help`.

mod bench;
mod cargo_tool;
mod check;
mod cluster;
mod component_types;
mod demo;
mod fuzz;
mod nextest;
mod output;
mod release;
mod soak;
mod test;

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs and checks Trilby.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Flags {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install and show the product on a real cluster
    Demo(demo::Flags),
    /// Every test, with all set-up included
    Test(test::Flags),
    /// Format, lints, layering, documentation, dependencies, chart
    Check(check::Flags),
    /// The layering check alone, also of another work tree
    Layering(check::layering::Flags),
    /// The benchmark against the reference control plane
    Bench(bench::Flags),
    /// Package the chart with a registry as its default
    Chart(release::chart::Flags),
    /// What `dapr init --slim --from-dir` installs
    Bundle(release::bundle::Flags),
    /// The command `daprctl` as archives, and its manifest for krew
    Daprctl(release::daprctl::Flags),
    /// The chart repository that the official `dapr` CLI installs from
    ChartRepo(release::chart::RepoFlags),
    /// Update generated files: the chart's copy of crds/, JSON Schemas, the values in its README
    Gen,
    /// Update the operator's table of the official components
    ComponentTypes(component_types::Flags),
    /// A real Kubernetes on this machine
    Cluster(cluster::Flags),
    /// The fuzz targets for a time
    Fuzz(fuzz::Flags),
    /// All services with churn, and whether anything grows
    Soak(soak::Flags),
    /// Container images without a container daemon
    Image(release::image::Flags),
    /// The bill of materials of each service, in `CycloneDX`'s JSON
    Sbom(release::sbom::Flags),
    /// Sign pushed images and a packaged chart, with provenance
    Sign(release::sign::Flags),
    /// Whether two builds of a service in two folders are the same bytes
    Reproducible(release::reproducible::Flags),
}

/// The names of all tasks.
fn task_names() -> BTreeSet<String> {
    let command = <Flags as clap::CommandFactory>::command();
    command.get_subcommands().map(|task| task.get_name().to_owned()).collect()
}

fn main() -> ExitCode {
    let done = match Flags::parse().task {
        Task::Demo(flags) => demo::run(&flags),
        Task::Test(flags) => test::run(&flags, task_names()),
        Task::Check(flags) => check::run(&flags, task_names()),
        Task::Layering(flags) => check::layering::run(&flags),
        Task::Bench(flags) => bench::run(&flags),
        Task::Chart(flags) => release::chart::run(&flags),
        Task::Bundle(flags) => release::bundle::run(&flags),
        Task::Daprctl(flags) => release::daprctl::run(&flags),
        Task::ChartRepo(flags) => release::chart::repository(&flags),
        Task::Gen => check::generate(),
        Task::ComponentTypes(flags) => component_types::run(&flags),
        Task::Cluster(flags) => cluster::run(flags),
        Task::Fuzz(flags) => fuzz::run(&flags),
        Task::Soak(flags) => soak::run(&flags),
        Task::Image(flags) => release::image::run(&flags),
        Task::Sbom(flags) => release::sbom::run(&flags),
        Task::Sign(flags) => release::sign::run(&flags),
        Task::Reproducible(flags) => release::reproducible::run(&flags),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
