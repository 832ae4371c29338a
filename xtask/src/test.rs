//! `cargo xtask test`: every test, set-up included.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::common::{self, Host};
use blackbox::demo::tour::Observers;
use blackbox::progress::{say, step};
use blackbox::{Tool, environment, node_cluster, packages, sdks, tools};
use clap::Args;

use crate::cargo_tool::CargoTool;
use crate::{check, nextest};

/// Every test: static checks, unit and package tests, black-box suites against a real
/// kube-apiserver and the official daprd, and, as root, the demo on a cluster with real pods.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Flags {
    /// Skip the static checks (format, lints, layering)
    #[arg(long)]
    no_check: bool,
    /// Skip the tests on a node with real pods, which need root and take minutes
    #[arg(long)]
    no_e2e: bool,
    /// Only unit and package tests: no cluster, no peers, only this workspace is built
    #[arg(long)]
    quick: bool,
    /// Also test with the official sidecars 1.14 and 1.16, which are built first (minutes each)
    #[arg(long)]
    every_sidecar: bool,
    /// Upgrade from the reference and back with `global.ha.enabled`, not with one pod of a service
    #[arg(long)]
    high_availability: bool,
    /// Arguments for `cargo nextest run`, for example a name filter
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Peers of the black-box suites, beside the programs of a cluster.
const PEERS: [Tool; 15] = [
    Tool::KUBE_APISERVER,
    Tool::ETCD,
    Tool::KUBE_CONTROLLER_MANAGER,
    Tool::KUBECTL,
    Tool::HELM,
    Tool::DAPRD,
    Tool::DAPR_CLI,
    Tool::CRANE,
    Tool::COSIGN,
    Tool::ETCDCTL,
    Tool::REFERENCE_OPERATOR,
    Tool::REFERENCE_PLACEMENT,
    Tool::REFERENCE_SCHEDULER, // part of the bundle for machines without a cluster
    Tool::REFERENCE_SENTRY,
    Tool::REFERENCE_INJECTOR,
];

/// Percentage by which the heap of a Go program grows until it collects garbage, 100 by default. The
/// programs of a test live for seconds: an API server that starts then uses a fifth less CPU time.
const GOGC: &str = "400";

/// `tasks` are the names of all tasks.
pub(crate) fn run(flags: &Flags, tasks: BTreeSet<String>) -> Result<()> {
    let on_a_node = environment::is_root() && !flags.no_e2e && !flags.quick;
    if !flags.no_check {
        check::quick(tasks)?;
    }
    let runner = CargoTool::NEXTEST.provide()?;
    if !flags.quick {
        prepare(on_a_node, flags.every_sidecar)?;
    }
    let mut test = Command::new(runner);
    test.current_dir(environment::workspace()).args(["nextest", "run", "--workspace"]);
    test.env("GOGC", GOGC);
    let mut host = Host::new()?;
    if flags.quick {
        test.args(["--exclude", "blackbox"]);
    } else {
        let programs = programs()?;
        environment::set_programs(&programs);
        test.env(environment::PROGRAMS, programs);
        test.env(common::SOCKET, host.socket());
    }
    if on_a_node {
        test.args(["--run-ignored", "all"]);
    } else {
        say("tests that need root (real pods, a small disk) are ignored");
    }
    if flags.every_sidecar {
        test.env(tools::EVERY_SIDECAR, "1");
    }
    if flags.high_availability {
        test.env("TRILBY_HIGH_AVAILABILITY", "1");
    }
    let mut tests = test.args(&flags.rest).spawn().context("run cargo nextest")?;
    let status = host.serve(&mut tests)?;
    list_slowest()?;
    ensure!(status.success(), "tests failed: {status}");
    Ok(())
}

/// Builds what takes long before the tests, with visible progress.
fn prepare(on_a_node: bool, every_sidecar: bool) -> Result<()> {
    packages::require_for_tests()?;
    step("programs of the test clusters", || {
        let wanted: Vec<Tool> = PEERS
            .into_iter()
            .chain(on_a_node.then_some(node_cluster::TOOLS).into_iter().flatten())
            .chain([Tool::DAPRD_1_15]) // an older sidecar
            .chain(
                every_sidecar.then_some([Tool::DAPRD_1_16, Tool::DAPRD_1_14]).into_iter().flatten(),
            )
            .collect();
        tools::provide(&wanted)
    })?;
    if on_a_node {
        Observers::provide()?;
    }
    sdks::provide()
}

/// The folder with the development builds of our programs, all up to date. They are built together
/// with the tests: cargo then chooses one set of features for the dependencies of both, and builds
/// tokio, hyper, tonic and kube once instead of twice.
fn programs() -> Result<PathBuf> {
    step("development builds of the programs and the tests", || {
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(environment::workspace()).args([
            "build",
            "--workspace",
            "--bins",
            "--tests",
            "--locked",
        ]);
        let status = build.status().context("run cargo build")?;
        ensure!(status.success(), "the programs or the tests do not compile, see above");
        Ok(environment::target_folder().join("debug"))
    })
}

fn list_slowest() -> Result<()> {
    let target = environment::target_folder();
    say("the slowest tests:");
    for line in nextest::slowest(&target)? {
        say(line);
    }
    Ok(())
}
