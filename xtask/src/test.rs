//! `cargo xtask test`: every test, with all set-up included.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use blackbox::{
    Service, Tool, build_daprctl, build_dashboard, environment, node_cluster, packages,
    progress::{say, step},
    python_sdk, tools,
};
use clap::Args;

use crate::{cargo_tool::CargoTool, check, nextest};

/// Every test: static checks, unit and package tests, black-box suites against a real
/// kube-apiserver and the official daprd, and, as root, the demo on a cluster with real pods.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub(crate) struct Flags {
    /// Leave out the static checks (format, lints, layering)
    #[arg(long)]
    no_check: bool,
    /// Leave out the tests on a node with real pods, which need root and take minutes
    #[arg(long)]
    no_e2e: bool,
    /// Only unit and package tests: no cluster, no peers, nothing to build but this workspace
    #[arg(long)]
    quick: bool,
    /// Also with the official sidecars 1.14 and 1.16, which are built first (minutes each)
    #[arg(long)]
    every_sidecar: bool,
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

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let on_a_node = environment::is_root() && !flags.no_e2e && !flags.quick;
    if !flags.no_check {
        check::quick()?;
    }
    let runner = CargoTool::NEXTEST.provide()?;
    if !flags.quick {
        prepare(on_a_node, flags.every_sidecar)?;
    }
    let mut test = Command::new(runner);
    test.current_dir(environment::workspace()).args(["nextest", "run", "--workspace"]);
    if flags.quick {
        test.args(["--exclude", "blackbox"]);
    } else {
        test.env(environment::PROGRAMS, programs()?);
    }
    if on_a_node {
        test.args(["--run-ignored", "all"]);
    } else {
        say("tests that need root (real pods, a small disk) are ignored");
    }
    if flags.every_sidecar {
        test.env(tools::EVERY_SIDECAR, "1");
    }
    let status = test.args(&flags.rest).status().context("run cargo nextest")?;
    list_slowest()?;
    ensure!(status.success(), "tests failed: {status}");
    Ok(())
}

/// Builds what takes long before the tests, where its progress can be seen.
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
    python_sdk::workflow().map(drop)
}

/// The folder with the development builds of our programs, all up to date.
fn programs() -> Result<PathBuf> {
    step("development builds of the services", || {
        for service in Service::ALL {
            service.build()?;
        }
        build_dashboard()?;
        let program = build_daprctl()?;
        program.parent().map(PathBuf::from).context("daprctl has no folder")
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
