//! Upgrades from Dapr's own control plane to ours, and back, with `helm upgrade` as in
//! docs/upgrade.md: on a node with real pods, whose applications call each other and their actors
//! all the time, and have jobs, reminders and workflows on the volumes of the scheduler.
//!
//! One cluster serves the whole file, so it is one test with named steps. It needs root.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

mod cli;
mod client;
mod jobs;
mod releases;
mod snapshot;
mod workflow;

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::{self, CONTROL_PLANE, Demo};
use blackbox::progress::{say, step};
use blackbox::{Deadline, NodeCluster, environment, image_profile, reference, until};
use serde_json::{Value, json};

use crate::client::Report;
use crate::snapshot::Snapshot;
use crate::workflow::Workflow;

/// Seconds for a pod on a busy machine: its image is present, its sidecar needs a certificate.
const TIMEOUT: u64 = 180;
/// The application of the test's own pods: Node.js with a script.
const NODE_JS: &str = "localhost/trilby-sample-node:1";

/// The scheduler, which `dapr upgrade` keeps.
const SCHEDULER: &str = "statefulset/dapr-scheduler-server";
/// Its objects.
const SCHEDULER_OBJECTS: [&str; 7] = [
    SCHEDULER,
    "service/dapr-scheduler-server",
    "service/dapr-scheduler-server-a",
    "poddisruptionbudget/dapr-scheduler-server-disruption-budget",
    "serviceaccount/dapr-scheduler",
    "clusterrole/dapr-scheduler",
    "clusterrolebinding/dapr-scheduler",
];

/// The variable that installs both sides with `global.ha.enabled`; `cargo xtask test
/// --high-availability` sets it. The official CLI, for which that changes nothing, is left out then.
fn high_availability() -> bool {
    environment::var("TRILBY_HIGH_AVAILABILITY").is_some()
}

/// The control plane that is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Reference,
    Trilby,
}

impl Side {
    /// Prefix of the images of its control plane pods.
    fn registry(self) -> &'static str {
        match self {
            Self::Reference => reference::REGISTRY,
            Self::Trilby => demo::LOCAL,
        }
    }

    /// Of the jobs that are due while it replaces the other.
    fn name(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Trilby => "trilby",
        }
    }

    /// The workflow whose timer ends while it replaces the other.
    fn workflow(self) -> Workflow {
        Workflow(match self {
            Self::Reference => "back",
            Self::Trilby => "there",
        })
    }
}

#[test]
#[ignore = "needs root: runs real Pods"]
fn an_upgrade_from_the_reference_and_back_disturbs_no_application() -> Result<()> {
    let node = NodeCluster::temporary()?;
    let cluster = step("bring up a cluster", || node.up())?;
    let profile = image_profile();
    step("make and import images", || {
        demo::import_images(&node, &profile)?;
        demo::import_tour_image(&node)?;
        reference::import_images(&node)
    })?;
    let demo = demo::on_cluster(cluster, environment::workspace(), "hello");

    step("install the reference", || install_reference(&demo))?;
    wait_rolled_out(&demo, Side::Reference)?;
    step("deploy the sample", || demo.deploy())?;
    demo.pods()?;
    step("start the client", || client::start(&demo))?;
    step("start jobs and workflows", || start_jobs(&demo))?;

    change_to(&demo, Side::Trilby)?;
    change_to(&demo, Side::Reference)?;
    step("a workflow ends after both", || LONG.approve(&demo))?;
    workflow::report(&demo)?;
    if high_availability() {
        return Ok(());
    }
    step("keep the scheduler", || keep_scheduler(&demo))?;
    cli::run(&node, &demo)
}

/// The user's settings on either side: certificates with a lifetime so short
/// that running sidecars ask each of the sentries for one, and the cluster's image of daprd.
fn settings() -> [String; 4] {
    [
        format!("global.ha.enabled={}", high_availability()),
        format!("dapr_sidecar_injector.image.name={}", demo::daprd_image()),
        "global.mtls.workloadCertTTL=2m".to_owned(),
        "global.mtls.allowedClockSkew=30s".to_owned(),
    ]
}

/// A workflow that waits for its event during both upgrades.
const LONG: Workflow = Workflow("long");

fn start_jobs(demo: &Demo) -> Result<()> {
    workflow::deploy(demo)?;
    jobs::start(demo)?;
    LONG.start(demo)
}

/// The official chart, with its three schedulers.
fn install_reference(demo: &Demo) -> Result<()> {
    let chart = reference::chart()?;
    let chart = chart.to_str().context("the chart's path is no UTF-8")?;
    let mut sets = settings().to_vec();
    sets.push(format!("global.registry={}", reference::REGISTRY));
    sets.push(format!("global.tag={}", reference::tag()));
    let mut args = vec!["install", "dapr", chart, "--namespace", CONTROL_PLANE];
    args.extend(["--create-namespace", "--wait", "--timeout", "4m"]);
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    demo.cluster().helm(&args).map(drop)
}

/// Helm does not delete objects with this annotation; Dapr's chart adopts them later.
fn keep_scheduler(demo: &Demo) -> Result<()> {
    let args = ["-n", CONTROL_PLANE, "annotate", "--overwrite"];
    let keep = "helm.sh/resource-policy=keep";
    demo.cluster().kubectl(&[&args[..], &SCHEDULER_OBJECTS, &[keep]].concat()).map(drop)
}

/// Replaces the control plane, and checks that applications work as before.
fn change_to(demo: &Demo, side: Side) -> Result<()> {
    let certificate = demo.svid()?;
    let before = Snapshot::take(demo)?;
    let during = side.workflow();
    during.start(demo)?;
    jobs::plan(demo, side.name())?;
    client::forget(demo)?;
    step(&format!("helm upgrade to {side:?}"), || upgrade(demo, side))?;
    wait_rolled_out(demo, side)?;
    step("actors and invocations go on", || client::wait_for_answers(demo))?;
    step("running sidecars load a new Component", || new_component(demo, side))?;
    step("a running sidecar gets its next certificate", || next_certificate(demo, &certificate))?;
    step("a new pod gets its sidecar", || new_pod(demo, side))?;
    demo.orders_go_on()?;
    before.is_kept_in(&Snapshot::take(demo)?)?;
    let report = Report::take(demo)?;
    say(format_args!("meanwhile: {report}"));
    report.no_invocation_failed()?;
    step("jobs are delivered", || jobs::nothing_is_lost(demo))?;
    step("a workflow goes on", || during.approve(demo))?;
    step("a sidecar that starts again gets ready", || restart_sidecar(demo))
}

/// The commands of docs/upgrade.md, with the names of the cluster's images.
fn upgrade(demo: &Demo, side: Side) -> Result<()> {
    let chart = match side {
        Side::Reference => reference::chart()?,
        Side::Trilby => environment::workspace().join("charts/dapr"),
    };
    let chart = chart.to_str().context("the chart's path is no UTF-8")?;
    let (registry, tag) = (
        format!("global.registry={}", reference::REGISTRY),
        format!("global.tag={}", reference::tag()),
    );
    let ours = format!("global.controlPlane.registry={}", demo::LOCAL);
    let sets = match side {
        Side::Reference => [registry.as_str(), &tag].to_vec(),
        Side::Trilby => {
            ["global.registry=", "global.tag=", &ours, "dapr_scheduler.replicaCount=3"].to_vec()
        }
    };
    let mut args = vec!["upgrade", "dapr", chart, "--namespace", CONTROL_PLANE];
    args.extend(["--reset-then-reuse-values", "--wait", "--timeout", "4m"]);
    if high_availability() {
        // Dapr's has volumes and ours has none, which Kubernetes does not change in place. Pods
        // without volumes cannot become those of a set with volumes, so they end on the way back.
        let placement = "statefulset/dapr-placement-server";
        let cascade = match side {
            Side::Trilby => "--cascade=orphan",
            Side::Reference => "--cascade=foreground",
        };
        demo.cluster().kubectl(&["-n", CONTROL_PLANE, "delete", placement, cascade])?;
    }
    args.extend(sets.iter().flat_map(|set| ["--set", *set]));
    demo.cluster().helm(&args).map(drop)
}

/// Every workload of that side is rolled out, and only the scheduler of the other side is left.
fn wait_rolled_out(demo: &Demo, side: Side) -> Result<()> {
    for service in demo::SERVICES {
        let wait = ["-n", CONTROL_PLANE, "rollout", "status", service, "--timeout=2m"];
        demo.cluster().kubectl(&wait)?;
    }
    let other = |image: &str| {
        image.rsplit_once('/').is_none_or(|(registry, _)| registry != side.registry())
    };
    until(Deadline::seconds(TIMEOUT), &format!("only pods of {side:?}"), || {
        let selector = "app!=dapr-scheduler-server";
        let pods = demo.cluster().get(&["-n", CONTROL_PLANE, "pods", "-l", selector])?;
        let pods = pods["items"].as_array().context("no pods")?;
        let images = pods.iter().filter_map(|pod| pod["spec"]["containers"][0]["image"].as_str());
        let all = images.clone().count() >= demo::SERVICES.len() - 1; // without the scheduler
        Ok((all && !images.into_iter().any(other)).then_some(()))
    })
}

/// The arguments of a pod never change, the scheduler's address included.
fn restart_sidecar(demo: &Demo) -> Result<()> {
    let sidecar = || -> Result<Value> {
        let pods = demo.app_pods("python")?;
        let pod = pods.into_iter().next().context("no pod")?;
        let statuses = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        statuses.into_iter().find(|one| one["name"] == "daprd").context("no sidecar")
    };
    let before = sidecar()?;
    let stop = "import urllib.request as r; r.urlopen(r.Request(\
        'http://127.0.0.1:3500/v1.0/shutdown', method='POST'))";
    demo.kubectl(&["exec", "deployment/pythonapp", "-c", "python", "--", "python3", "-c", stop])?;
    until(Deadline::seconds(TIMEOUT), "the sidecar to be ready again", || {
        let now = sidecar()?;
        let again = now["restartCount"].as_i64() > before["restartCount"].as_i64();
        Ok((again && now["ready"] == true).then_some(()))
    })?;
    demo.orders_go_on().map(drop)
}

/// The operator's stream to sidecars that are older than it.
fn new_component(demo: &Demo, side: Side) -> Result<()> {
    let name = format!("late-{side:?}").to_lowercase();
    demo.apply(
        &json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": name},
            "spec": {"type": "state.in-memory", "version": "v1", "metadata": []},
            "scopes": ["nodeapp"],
        })
        .to_string(),
    )?;
    let loaded = || anyhow::Ok(demo.metadata()?["components"].to_string().contains(&name));
    until(Deadline::seconds(TIMEOUT), "the sidecar to load it", || Ok(loaded()?.then_some(())))?;
    demo.kubectl(&["delete", "component", &name])?;
    until(Deadline::seconds(TIMEOUT), "the sidecar to forget it", || Ok((!loaded()?).then_some(())))
}

/// A sidecar from before requests a certificate from the new sentry, and the CA is the same.
fn next_certificate(demo: &Demo, before: &Value) -> Result<()> {
    until(Deadline::seconds(TIMEOUT), "another certificate of the same issuer", || {
        let now = demo.svid()?;
        ensure!(now["issuer"] == before["issuer"], "the issuer was {before}, is {now}");
        Ok((now["serial"] != before["serial"]).then_some(()))
    })
}

/// It gets Ready, which needs sentry, operator and injector, and calls an application and an actor.
fn new_pod(demo: &Demo, side: Side) -> Result<()> {
    let name = format!("new-{side:?}").to_lowercase();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": {
            "dapr.io/enabled": "true", "dapr.io/app-id": name,
        }},
        "spec": {"containers": [{
            "name": "app", "image": NODE_JS, "imagePullPolicy": "IfNotPresent",
            "args": ["-e", "setInterval(() => {}, 1000)"],
        }], "terminationGracePeriodSeconds": 1},
    });
    demo.apply(&pod.to_string())?;
    let ready = format!("pod/{name}");
    demo.kubectl(&["wait", "--for=condition=Ready", &ready, "--timeout=3m"])?;
    let pod = demo.cluster().get(&["-n", "hello", &ready])?;
    ensure!(pod["spec"]["containers"][1]["name"] == "daprd", "no sidecar: {}", pod["spec"]);
    for (method, path) in [
        ("GET", "/v1.0/invoke/nodeapp/method/order"),
        ("PUT", "/v1.0/actors/Counter/new/method/increment"),
    ] {
        let script = format!(
            "fetch('http://127.0.0.1:3500{path}', {{method: '{method}'}})\
             .then(async a => console.log(a.status, await a.text()))"
        );
        let answer = demo.kubectl(&["exec", &name, "-c", "app", "--", "node", "-e", &script])?;
        ensure!(answer.starts_with("200 "), "{method} {path}: {answer}");
    }
    demo.kubectl(&["delete", "pod", &name]).map(drop)
}
