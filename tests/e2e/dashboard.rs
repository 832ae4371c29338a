//! The dashboard of the demo's cluster in Chromium: every page, the owners of actors as official
//! sidecars choose them, and a planted secret that is nowhere.

use std::fs;
use std::process::Command;

use anyhow::{Result, ensure};
use blackbox::demo::dashboard::Dashboard;
use blackbox::demo::{CONTROL_PLANE, Demo};
use blackbox::{Scratch, build_daprctl, environment, process};
use serde_json::json;

/// In a Component: nowhere else.
const PLANTED: &str = "pl4nted-s3cret-0815";

/// Every page, and words that it must show.
const PAGES: [(&str, &[&str]); 17] = [
    ("/", &["Needs attention", "1.18.3", "mTLS", " left"]),
    ("/apps", &["nodeapp", "pythonapp", "actorapp", "Deployment nodeapp", ">on<"]),
    (
        "/apps/hello/nodeapp",
        &["statestore", ">loaded<", "spiffe://public/ns/hello/nodeapp", " left", "kind: Pod"],
    ),
    ("/components", &["state.redis v1", "pubsub.redis v1"]),
    ("/components/hello/statestore", &["nodeapp", "actorapp", ">loaded<", "secretKeyRef"]),
    ("/components/hello/planted", &["redisPassword", "(hidden)"]),
    ("/configurations", &["daprsystem"]),
    ("/subscriptions/hello/orders", &["/events/orders", "nodeapp"]),
    ("/resiliencies", &["Resiliency"]),
    ("/httpendpoints", &["HTTPEndpoint"]),
    ("/workflowaccesspolicies", &["WorkflowAccessPolicy"]),
    ("/mcpservers", &["MCPServer"]),
    ("/graph", &["pythonapp", "nodeapp"]),
    ("/topics", &["orders", "pubsub"]),
    ("/actors", &["Counter", "actorapp", "hello: "]),
    ("/control-plane", &["dapr-operator-", "dapr-scheduler-server-0"]),
    ("/certificates", &["BEGIN CERTIFICATE", "Root", "Issuer"]),
];

pub(crate) fn shows_the_cluster(demo: &Demo) -> Result<()> {
    demo.install_dashboard()?;
    let planted = json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": "planted", "namespace": "hello"}, "scopes": ["nobody"],
        "spec": {"type": "state.redis", "version": "v1", "metadata": [
            {"name": "redisHost", "value": "redis:6379"},
            {"name": "redisPassword", "value": PLANTED}]}});
    demo.cluster().apply(&planted.to_string())?;
    let pages = demo.forward_to_dashboard()?;
    for (path, wanted) in PAGES {
        let page = pages.open(path, wanted)?.document;
        ensure!(!page.contains(PLANTED), "{path} shows the secret: {page}");
        ensure!(!page.contains("cannot be"), "{path}: {page}");
    }
    owners(demo, &pages)?;
    jobs(demo, &pages)?;
    pictures(&pages)?;
    nowhere_else(demo)?;
    demo.kubectl(&["delete", "component", "planted"]).map(drop)
}

/// The page names the pod that an actor answers from: official sidecars chose it.
fn owners(demo: &Demo, pages: &Dashboard) -> Result<()> {
    for id in ["1", "2", "3", "alice", "order-42"] {
        let (_, host) = demo.count(id)?;
        let path = format!("/actors?namespace=hello&type=Counter&id={id}");
        pages.open(&path, &[&format!("<tr><td>{host}</td>")])?;
    }
    Ok(())
}

/// A job of tomorrow is the next; the reminder of before was answered.
fn jobs(demo: &Demo, pages: &Dashboard) -> Result<()> {
    demo.schedule_job("tomorrow", "24h")?;
    // The link is that of its application, in the counts that the scheduler's pod gives.
    let wanted = ["in 23 hours", "<td>Actor reminders and workflows</td>", " ago", "/apps/hello/"];
    pages.open("/jobs", &wanted).map(drop)
}

/// Artefacts of the test.
fn pictures(pages: &Dashboard) -> Result<()> {
    let folder = environment::target_folder().join("dashboard");
    fs::create_dir_all(&folder)?;
    for (name, path) in
        [("demo", "/"), ("demo-app", "/apps/hello/nodeapp"), ("demo-graph", "/graph")]
    {
        pages.draw(path, 1200, &folder.join(format!("{name}.png")))?;
    }
    Ok(())
}

/// Neither in the dashboard's log nor in a support bundle with the logs of the control plane.
fn nowhere_else(demo: &Demo) -> Result<()> {
    let logs = ["-n", CONTROL_PLANE, "logs", "deployment/dapr-dashboard"];
    let log = demo.cluster().kubectl(&logs)?;
    ensure!(log.contains("Dashboard is at") && !log.contains(PLANTED), "{log}");
    let folder = Scratch::new("bundle")?;
    let file = folder.path().join("bundle.tar.gz");
    let mut command = demo.cluster().command(build_daprctl()?);
    let said = process::output(command.args(["support-bundle", "--file"]).arg(&file))?;
    let text = process::output(Command::new("tar").arg("-xzOf").arg(&file))?;
    for part in ["\"planted\"", "scope=dapr.", "dapr-dashboard"] {
        ensure!(text.contains(part), "{part} is not in the bundle: {said}");
    }
    ensure!(!text.contains(PLANTED), "the bundle holds the secret");
    Ok(())
}
