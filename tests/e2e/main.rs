//! The demo as a test, on a real cluster with real pods, with failures injected.
//!
//! One cluster serves the whole file, so it is one test with named steps. It needs root.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

mod dashboard;

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::tour::{Observers, Tour};
use blackbox::demo::{self, CONTROL_PLANE, Demo, SERVICES};
use blackbox::progress::{say, step};
use blackbox::{DaprCli, Deadline, NodeCluster, build_daprctl, environment, image_profile, until};
use serde_json::Value;

#[test]
#[ignore = "needs root: runs real Pods"]
fn hello_kubernetes_works_and_survives_the_loss_of_any_control_plane_pod() -> Result<()> {
    let node = NodeCluster::temporary()?;
    let cluster = step("bring up a cluster", || node.up())?;
    let profile = image_profile();
    step("make and import images", || demo::import_images(&node, &profile))?;
    step("make and import the image of the tour", || demo::import_tour_image(&node))?;
    let import = || demo::dashboard::import_image(&node, &profile);
    step("make and import the image of the dashboard", import)?;
    let demo = demo::on_cluster(cluster, environment::workspace(), "hello");

    step("install the chart", || demo.install())?;
    demo.control_plane()?;
    step("helm test", || demo.helm_test())?;
    step("logs have the reference's fields", || log_fields(&demo))?;
    step("deploy the sample", || demo.deploy())?;
    demo.pods()?;
    step("the injected container", || sidecar_arguments(&demo))?;
    step("the sidecar's identity", || demo.svid())?;
    step("the Components", || demo.metadata())?;
    step("orders survive a restart", || demo.order_survives_restart())?;
    step("actors count, each in one place", || actors(&demo))?;
    step("a job arrives on time", || demo.job_arrives("2s", 2_000))?;
    step("a reminder survives the loss of the scheduler", || demo.reminder_survives())?;
    step("daprctl reads the jobs by a port-forward", || jobs_by_port_forward(&demo))?;
    step("the official CLI reads and deletes jobs", || jobs_of_the_official_cli(&demo))?;
    step("the check command finds nothing wrong", || checked(&demo))?;
    step("the dashboard in a browser", || dashboard::shows_the_cluster(&demo))?;
    step("every building block", || every_building_block_works(&demo, &node))?;
    for service in SERVICES {
        step(&format!("the sample works without {service}"), || survives_loss(&demo, service))?;
    }
    step("pods created without injector", || pods_without_sidecar_are_replaced(&demo))?;
    step("a Component whose Secret is missing", || missing_secret(&demo))?;
    step("a pod with an invalid app id", || invalid_app_id(&demo))?;
    step("the sample still works", || demo.orders_go_on())?;
    step("jobs outlive an uninstall", || jobs_outlive_an_uninstall(&demo))?;
    Ok(())
}

/// No check fails, sidecars included. An Event about a Component whose Secret was created later
/// stays for an hour, so only that may be a warning.
fn checked(demo: &Demo) -> Result<()> {
    let mut check = demo.cluster().command(build_daprctl()?);
    let output = check.args(["check", "-o", "json", "--wait", "2m"]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let checks = report["checks"].as_array().context("a report without checks")?;
    let well = |check: &Value| check["status"] == "ok" || check["id"] == "components";
    let bad: Vec<&Value> = checks.iter().filter(|check| !well(check)).collect();
    ensure!(output.status.success() && bad.is_empty(), "{bad:#?}");
    Ok(())
}

/// The tour of the building blocks, in namespaces of its own.
fn every_building_block_works(demo: &Demo, node: &NodeCluster) -> Result<()> {
    let observers = Observers::start(node)?;
    let [tour, other] = Tour::deploy(demo)?;
    tour.take(&other, Some(&observers), |shown| {
        say(shown);
        Ok(())
    })?;
    Tour::remove(demo)
}

fn jobs_by_port_forward(demo: &Demo) -> Result<()> {
    let mut list = demo.cluster().command(build_daprctl()?);
    let output = list.args(["jobs", "list", "-o", "json"]).output()?;
    let jobs: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(jobs["jobs"].is_array(), "{jobs:#}");
    let mut missing = demo.cluster().command(build_daprctl()?);
    let output = missing.args(["jobs", "get", "app/nodeapp/none"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success() && said.contains("no such job"), "{said}");
    Ok(())
}

/// `dapr scheduler -k`, which forwards the port of the scheduler's first pod.
fn jobs_of_the_official_cli(demo: &Demo) -> Result<()> {
    let cli = DaprCli::new(demo.cluster().clone())?;
    let dapr = |args: &[&str]| cli.run(&[&["scheduler"], args, &["-k", "-n", "hello"]].concat());
    demo.schedule_job("listed", "24h")?;
    for args in [&["list", "-o", "json"][..], &["get", "app/nodeapp/listed"]] {
        let said = dapr(args)?;
        ensure!(said.contains("listed"), "{args:?}: {said}");
    }
    dapr(&["delete", "app/nodeapp/listed"])?;
    // It marks an empty list as a failure.
    let left = dapr(&["list"]).unwrap_or_else(|error| format!("{error:#}"));
    ensure!(left.contains("NAME") || left.contains("No jobs found"), "{left}");
    ensure!(!left.contains("app/nodeapp/listed"), "{left}");
    Ok(())
}

/// The volume of the scheduler stays when the chart is removed, and the next one finds it.
fn jobs_outlive_an_uninstall(demo: &Demo) -> Result<()> {
    demo.schedule_job("kept", "24h")?;
    let uninstall = ["uninstall", "dapr", "--namespace", CONTROL_PLANE, "--wait"];
    demo.cluster().helm(&uninstall)?;
    until(Deadline::seconds(120), "the scheduler to be gone", || {
        Ok(names(demo, "app=dapr-scheduler-server")?.is_empty().then_some(()))
    })?;
    demo.install()?;
    demo.control_plane()?;
    let mut get = demo.cluster().command(build_daprctl()?);
    let output = get.args(["jobs", "get", "app/nodeapp/kept", "-n", "hello"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn log_fields(demo: &Demo) -> Result<()> {
    for service in SERVICES {
        let log = demo.cluster().kubectl(&["-n", CONTROL_PLANE, "logs", service])?;
        let line = log.lines().next().with_context(|| format!("{service} logs nothing"))?;
        for key in [
            "time=",
            "level=",
            "msg=",
            "scope=dapr.",
            "type=log",
            "ver=",
            "app_id=dapr-",
            "instance=",
        ] {
            ensure!(line.contains(key), "{service} logs no {key}: {line}");
        }
    }
    Ok(())
}

fn sidecar_arguments(demo: &Demo) -> Result<()> {
    let arguments = demo.sidecar_arguments()?;
    for wanted in ["--app-id nodeapp", "--app-port 3000", "--mode kubernetes", "--enable-mtls"] {
        ensure!(arguments.contains(wanted), "no {wanted} in\n{arguments}");
    }
    Ok(())
}

fn actors(demo: &Demo) -> Result<()> {
    for id in ["1", "2", "3"] {
        let (first, home) = demo.count(id)?;
        let (second, same) = demo.count(id)?;
        ensure!(second == first + 1, "Counter/{id} counted {first}, then {second}");
        ensure!(home == same, "Counter/{id} moved from {home} to {same} for no reason");
    }
    Ok(())
}

/// Deletes the service's pod while orders arrive: they continue before and after it is back.
fn survives_loss(demo: &Demo, service: &str) -> Result<()> {
    let app = service.rsplit('/').next().unwrap_or_default();
    let selector = format!("app={app}");
    let before = names(demo, &selector)?;
    let kubectl = |args: &[&str]| demo.cluster().kubectl(args);
    kubectl(&["-n", CONTROL_PLANE, "delete", "pod", "-l", &selector, "--wait=false"])?;
    demo.orders_go_on()?;
    until(Deadline::seconds(120), "another pod of the service", || {
        let now = names(demo, &selector)?;
        Ok((!now.is_empty() && now != before).then_some(()))
    })?;
    demo.control_plane()?;
    demo.orders_go_on()?;
    demo.count("1")?;
    demo.pods().map(drop)
}

/// Name and uid of each pod: a StatefulSet recreates a pod with the same name.
fn names(demo: &Demo, selector: &str) -> Result<Vec<String>> {
    let list = demo.cluster().get(&["pods", "-n", CONTROL_PLANE, "-l", selector])?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    Ok(pods.iter().map(|p| format!("{}", p["metadata"]["uid"])).collect())
}

/// Pods that are created without injector are replaced when it is back.
/// The guard would deny them, so it only audits meanwhile.
fn pods_without_sidecar_are_replaced(demo: &Demo) -> Result<()> {
    let kubectl = |args: &[&str]| demo.cluster().kubectl(args);
    let guard = |action: &str| {
        let patch = format!(r#"{{"spec": {{"validationActions": ["{action}"]}}}}"#);
        let binding = "validatingadmissionpolicybinding/dapr-sidecar-guard";
        kubectl(&["patch", binding, "--type=merge", "-p", &patch])
    };
    let injectors = |count: &str| {
        let replicas = format!("--replicas={count}");
        kubectl(&["-n", CONTROL_PLANE, "scale", "deployment/dapr-sidecar-injector", &replicas])
    };
    guard("Audit")?;
    injectors("0")?;
    until(Deadline::seconds(120), "the injector to be gone", || {
        Ok(names(demo, "app=dapr-sidecar-injector")?.is_empty().then_some(()))
    })?;
    demo.kubectl(&["delete", "pod", "-l", "app=node", "--wait=false"])?;
    until(Deadline::seconds(120), "a pod without sidecar", || {
        Ok(without_sidecar(demo)?.filter(|count| *count > 0))
    })?;
    injectors("1")?;
    until(Deadline::seconds(240), "every pod to have its sidecar", || {
        Ok(without_sidecar(demo)?.filter(|count| *count == 0))
    })?;
    guard("Deny")?;
    demo.pods()?;
    demo.orders_go_on().map(drop)
}

/// Number of pods of the order service without sidecar, terminating ones excluded;
/// `None` while there is no pod.
fn without_sidecar(demo: &Demo) -> Result<Option<usize>> {
    let pods = demo.app_pods("node")?;
    ensure!(pods.len() < 10, "the watchdog or the owner creates pods without end");
    let without_sidecar = pods.iter().filter(|pod| {
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        !containers.into_iter().any(|container| container["name"] == "daprd")
    });
    Ok((!pods.is_empty()).then(|| without_sidecar.count()))
}

/// An Event on the Component names what is missing; its sidecar keeps the other Components.
fn missing_secret(demo: &Demo) -> Result<()> {
    let component = r#"{"apiVersion":"dapr.io/v1alpha1","kind":"Component",
        "metadata":{"name":"broken","namespace":"hello"},
        "spec":{"type":"state.redis","version":"v1","metadata":[
            {"name":"redisHost","value":"redis:6379"},
            {"name":"redisPassword","secretKeyRef":{"name":"no-such-secret","key":"password"}}]},
        "auth":{"secretStore":"kubernetes"},"scopes":["nodeapp"]}"#;
    demo.cluster().apply(component)?;
    until(Deadline::seconds(60), "an Event that names the Secret", || {
        let events = demo.cluster().get(&[
            "events",
            "-n",
            "hello",
            "--field-selector",
            "involvedObject.name=broken",
        ])?;
        Ok(events.to_string().contains("no-such-secret").then_some(()))
    })?;
    demo.orders_go_on()?;
    let metadata: Value = demo.metadata()?;
    ensure!(!metadata.to_string().contains("\"broken\""), "loaded without its Secret: {metadata}");
    demo.kubectl(&["delete", "component", "broken"]).map(drop)
}

/// The API server reports it to the user; nothing else is affected.
fn invalid_app_id(demo: &Demo) -> Result<()> {
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad-id","namespace":"hello",
        "annotations":{"dapr.io/enabled":"true","dapr.io/app-id":"not.valid"}},
        "spec":{"containers":[{"name":"app","image":"localhost/pause:1"}]}}"#;
    let refused = demo.cluster().apply(pod);
    let words = refused.err().context("a pod with an invalid app id was accepted")?.to_string();
    ensure!(words.contains("not.valid"), "the refusal does not name the app id: {words}");
    demo.orders_go_on().map(drop)
}
