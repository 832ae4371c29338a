//! `cargo xtask test`: every test, with all set-up included.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::progress::step;
use blackbox::{Service, Tool, environment, node_bed, packages, peer_images, tools};
use clap::Args;

use crate::check;

/// Every test: static checks, unit and package tests, black-box suites against a real
/// kube-apiserver and the official daprd, and, as root, the demo on a cluster with real pods.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Leave out the static checks (format, lints, layering)
    #[arg(long)]
    no_check: bool,
    /// Leave out the end-to-end test, which needs root and takes minutes
    #[arg(long)]
    no_e2e: bool,
    /// Also with the official sidecars 1.14 and 1.16, which are built first (minutes each)
    #[arg(long)]
    every_sidecar: bool,
    /// Arguments for `cargo test`, for example a name filter
    #[arg(last = true)]
    rest: Vec<String>,
}

/// What the black-box suites need beside the bed's own programs.
const PEERS: [Tool; 13] = [
    Tool::KUBE_APISERVER,
    Tool::ETCD,
    Tool::KUBE_CONTROLLER_MANAGER,
    Tool::KUBECTL,
    Tool::HELM,
    Tool::DAPRD,
    Tool::DAPR_CLI,
    Tool::CRANE,
    Tool::REFERENCE_OPERATOR,
    Tool::REFERENCE_PLACEMENT,
    Tool::REFERENCE_SCHEDULER, // part of the bundle for machines without a cluster
    Tool::REFERENCE_SENTRY,
    Tool::REFERENCE_INJECTOR,
];

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let end_to_end = environment::is_root() && !flags.no_e2e;
    if !flags.no_check {
        check::quick()?;
    }
    prepare(end_to_end, flags.every_sidecar)?;
    let mut test = Command::new(env!("CARGO"));
    test.current_dir(environment::workspace());
    test.args(["test", "--workspace", "--no-fail-fast"]);
    if !end_to_end {
        // Every target but `e2e`, which says itself that it is skipped when not root.
        test.env(node_bed::SKIP, "1");
    }
    if flags.every_sidecar {
        test.env(tools::EVERY_SIDECAR, "1");
    }
    let status = test.args(&flags.rest).status().context("run cargo test")?;
    ensure!(status.success(), "tests failed: {status}");
    Ok(())
}

/// Builds what takes long before the tests, where its progress can be seen.
fn prepare(end_to_end: bool, every_sidecar: bool) -> Result<()> {
    packages::require_for_tests()?;
    step("programs of the test bed", || {
        let wanted: Vec<Tool> = PEERS
            .into_iter()
            .chain(end_to_end.then_some(node_bed::TOOLS).into_iter().flatten())
            .chain([Tool::DAPRD_1_15]) // an older sidecar
            .chain(
                every_sidecar.then_some([Tool::DAPRD_1_16, Tool::DAPRD_1_14]).into_iter().flatten(),
            )
            .collect();
        tools::provide(&wanted)
    })?;
    if end_to_end {
        step("release builds of the services", || {
            for service in Service::ALL {
                peer_images::service(service, service.binary(), "release")?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
