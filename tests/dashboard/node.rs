//! The dashboard in a real pod: what reaches it, and what does not.

use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use blackbox::injector_fixture::NAMESPACE;
use blackbox::progress::step;
use blackbox::{
    Architecture, Cluster, DaprCli, Deadline, NodeCluster, browser, build_daprctl, environment,
    image_profile, peer_images, until,
};
use serde_json::Value;

use crate::chart;

/// The port that `dapr dashboard` opens without `-p`.
const CLI_PORT: u16 = 8080;
/// Enough for a pod to start on a machine that others use too.
const START: u64 = 180;

/// A command that runs until it is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(quiet.spawn().context("start a port-forward")?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// One cluster serves all of it, so this is one test with named steps.
#[test]
#[ignore = "needs root: runs real Pods"]
fn a_port_forward_reaches_the_pages_and_nothing_else_does() -> Result<()> {
    let node = NodeCluster::temporary()?;
    let cluster = step("bring up a cluster", || node.up())?;
    step("install the dashboard", || install(&node, &cluster))?;
    let cli = DaprCli::new(cluster.clone())?;
    step("the official CLI opens it", || {
        let _forward = Running::start(cli.command()?.args(["dashboard", "-k"]))?;
        opens(&cluster, CLI_PORT)
    })?;
    step("the official CLI opens it on another port", || {
        let _forward = Running::start(cli.command()?.args(["dashboard", "-k", "-p", "18080"]))?;
        opens(&cluster, 18080)
    })?;
    step("daprctl opens it", || {
        let mut daprctl = cluster.command(build_daprctl()?);
        let args = ["dashboard", "--no-browser", "--port", "18081"];
        let _forward = Running::start(daprctl.args(args))?;
        opens(&cluster, 18081)
    })?;
    step("its address is closed", || closed(&cluster))
}

fn install(node: &NodeCluster, cluster: &Cluster) -> Result<()> {
    let name = format!("localhost/dashboard:{}", env!("CARGO_PKG_VERSION"));
    node.import(&peer_images::dashboard(Architecture::here()?, &name, &image_profile())?)?;
    cluster.kubectl(&["create", "namespace", NAMESPACE])?;
    // The rules that the chart claims to keep.
    let restricted = "pod-security.kubernetes.io/enforce=restricted";
    cluster.kubectl(&["label", "namespace", NAMESPACE, restricted])?;
    let crds = environment::workspace().join("crds");
    cluster.kubectl(&["apply", "--server-side", "-f", &crds.to_string_lossy()])?;
    cluster.apply(&chart(&["global.controlPlane.registry=localhost"])?)?;
    let timeout = format!("--timeout={START}s");
    let rollout = ["rollout", "status", "deployment/dapr-dashboard", "-n", NAMESPACE, &timeout];
    cluster.kubectl(&rollout).map(drop)
}

/// A browser shows the page with the dashboard's own pod, styled.
fn opens(cluster: &Cluster, port: u16) -> Result<()> {
    let url = format!("http://127.0.0.1:{port}/control-plane");
    let page = until(Deadline::seconds(60), "the dashboard in a browser", || {
        let opened = browser::open_inside(cluster, &url)?;
        Ok(Some(opened).filter(|page| page.document.contains("dapr-dashboard-")))
    })?;
    for refused in ["Content Security Policy", "Uncaught", "Failed to load"] {
        ensure!(!page.console.contains(refused), "{}", page.console);
    }
    Ok(())
}

/// The pages listen on the loopback of the pod; only health and metrics answer at its address.
fn closed(cluster: &Cluster) -> Result<()> {
    let pods = cluster.get(&["pods", "-n", NAMESPACE, "-l", "app=dapr-dashboard"])?;
    let address = pods.pointer("/items/0/status/podIP").and_then(Value::as_str);
    let address = address.context("the pod has no address")?;
    let connects = |port: u16| -> Result<bool> {
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        let status = cluster.command("bash").args(["-c", &connect]).stderr(Stdio::null()).status();
        Ok(status?.success())
    };
    ensure!(connects(8081)?, "the health port does not answer");
    ensure!(!connects(8080)?, "the pages answer at the pod's address");
    Ok(())
}
