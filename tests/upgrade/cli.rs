//! The same upgrade with the official CLI, and its effect on running pods.

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::{self, CONTROL_PLANE, Demo};
use blackbox::progress::step;
use blackbox::{DaprCli, Deadline, NodeCluster, until};

use crate::snapshot::Snapshot;
use crate::{SCHEDULER, Side, TIMEOUT, settings, wait_rolled_out};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Upgrades from the reference to ours by `dapr upgrade`, then runs every other command that needs
/// running pods.
pub(crate) fn run(node: &NodeCluster, demo: &Demo) -> Result<()> {
    let network = Some(node.network_handle());
    let cli = DaprCli::with_repository(demo.cluster().clone(), network, Some(demo::LOCAL))?
        // The CLI must not wait for hosts outside of the test cluster.
        .env("HTTPS_PROXY", "http://127.0.0.1:1")
        .env("NO_PROXY", "10.89.0.1");
    let before = Snapshot::take(demo)?;
    step("dapr upgrade", || upgrade(&cli))?;
    wait_rolled_out(demo, Side::Trilby)?;
    demo.orders_go_on()?;
    before.is_kept_in(&Snapshot::take(demo)?)?;
    step("dapr status, list, logs", || check_reads(&cli))?;
    step("dapr mtls renew-certificate", || renew_certificate(&cli, demo))?;
    step("dapr uninstall", || uninstall(&cli, demo))
}

/// `dapr upgrade` drops the release's values, as its output says, so they are passed again.
fn upgrade(cli: &DaprCli) -> Result<()> {
    let settings = settings().join(",") + ",global.scheduler.external=true";
    let args = ["upgrade", "-k", "--runtime-version", VERSION, "--set", &settings];
    let said = cli.run(&args)?;
    ensure!(said.contains("Dapr control plane successfully upgraded"), "{said}");
    Ok(())
}

fn check_reads(cli: &DaprCli) -> Result<()> {
    let status = cli.run(&["status", "-k"])?;
    for service in demo::SERVICES.into_iter().filter(|service| *service != SCHEDULER) {
        let (_, name) = service.split_once('/').context("a workload has a kind")?;
        let row = status.lines().find(|line| line.trim_start().starts_with(name));
        let row = row.with_context(|| format!("no row {name} in:\n{status}"))?;
        let words: Vec<_> = row.split_whitespace().collect();
        let wanted = [name, CONTROL_PLANE, "True", "Running", "1", VERSION];
        ensure!(words.starts_with(&wanted), "{row}");
    }
    let list = cli.run(&["list", "-k"])?;
    for app in ["nodeapp", "pythonapp", "actorapp", "client"] {
        ensure!(list.contains(app), "no {app} in:\n{list}");
    }
    let log = cli.run(&["logs", "-k", "-a", "nodeapp", "-n", "hello"])?;
    ensure!(log.contains("app_id=nodeapp"), "no log of the sidecar:\n{log}");
    Ok(())
}

/// The CLI generates a new CA and restarts the control plane. Applications must be restarted: its
/// certificates share no root with the previous ones.
fn renew_certificate(cli: &DaprCli, demo: &Demo) -> Result<()> {
    let root = || -> Result<String> {
        let data = demo.cluster().get(&["-n", CONTROL_PLANE, "secret", "dapr-trust-bundle"])?;
        Ok(data["data"]["ca.crt"].as_str().unwrap_or_default().to_owned())
    };
    let before = root()?;
    let args = ["mtls", "renew-certificate", "-k", "--valid-until", "90", "--restart"];
    let said = cli.run(&args)?;
    ensure!(said.contains("successfully"), "{said}");
    ensure!(root()? != before, "the root is still the same");
    wait_rolled_out(demo, Side::Trilby)?;
    demo.kubectl(&["rollout", "restart", "deployment"])?;
    for app in ["nodeapp", "pythonapp", "actorapp"] {
        demo.kubectl(&["rollout", "status", &format!("deployment/{app}"), "--timeout=3m"])?;
    }
    demo.pods()?;
    demo.orders_go_on()?;
    demo.count("1").map(drop)
}

/// Applications continue with their certificates.
fn uninstall(cli: &DaprCli, demo: &Demo) -> Result<()> {
    let said = cli.run(&["uninstall", "-k"])?;
    ensure!(said.contains("Dapr has been removed successfully"), "{said}");
    until(Deadline::seconds(TIMEOUT), "the control plane's pods to be gone", || {
        let selector = "app!=dapr-scheduler-server"; // no part of the release any more
        let pods = demo.cluster().get(&["-n", CONTROL_PLANE, "pods", "-l", selector])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    demo.orders_go_on().map(drop)
}
