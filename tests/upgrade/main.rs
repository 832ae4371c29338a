//! From Dapr's own control plane to ours, and back, with `helm upgrade` as the README says it: on a
//! node with real pods, whose applications call each other and their actors all the time.
//!
//! One cluster serves the whole file, so it is one test with named steps. It needs root.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

mod cli;
mod client;
mod picture;
mod releases;

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::{self, CONTROL_PLANE, Demo};
use blackbox::progress::{say, step};
use blackbox::{Deadline, NodeCluster, environment, image_profile, reference, until};
use serde_json::{Value, json};

use crate::{client::Report, picture::Picture};

/// A pod on a busy machine: its image is there, its sidecar has to get a certificate.
const TIMEOUT: u64 = 180;
/// The application of the test's own pods: Node.js with a script.
const NODE_JS: &str = "localhost/trilby-sample-node:1";

/// Dapr's own scheduler, which goes on beside ours.
const SCHEDULER: &str = "statefulset/dapr-scheduler-server";
/// All that belongs to it.
const SCHEDULER_OBJECTS: [&str; 7] = [
    SCHEDULER,
    "service/dapr-scheduler-server",
    "service/dapr-scheduler-server-a",
    "poddisruptionbudget/dapr-scheduler-server-disruption-budget",
    "serviceaccount/dapr-scheduler",
    "clusterrole/dapr-scheduler",
    "clusterrolebinding/dapr-scheduler",
];

/// Whose control plane it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Reference,
    Trilby,
}

impl Side {
    /// How the images of its control plane pods begin.
    fn registry(self) -> &'static str {
        match self {
            Self::Reference => reference::REGISTRY,
            Self::Trilby => demo::LOCAL,
        }
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
        reference::import_images(&node)
    })?;
    let demo = demo::on_cluster(cluster, environment::workspace(), "hello");

    step("install the reference", || install_reference(&demo))?;
    is_all_of(&demo, Side::Reference)?;
    step("deploy the sample", || demo.deploy())?;
    demo.pods()?;
    step("start the client", || client::start(&demo))?;
    step("keep the scheduler", || keep_scheduler(&demo))?;

    change_to(&demo, Side::Trilby)?;
    change_to(&demo, Side::Reference)?;
    cli::goes_all_the_way(&node, &demo)
}

/// What the user of this installation has chosen, on either side: certificates that live so shortly
/// that running sidecars ask each of the sentries for one, and the cluster's image of daprd.
fn settings() -> [String; 3] {
    [
        format!("dapr_sidecar_injector.image.name={}", demo::daprd_image()),
        "global.mtls.workloadCertTTL=2m".to_owned(),
        "global.mtls.allowedClockSkew=30s".to_owned(),
    ]
}

/// The official chart, with a scheduler that needs no volume.
fn install_reference(demo: &Demo) -> Result<()> {
    let chart = reference::chart()?;
    let chart = chart.to_str().context("the chart's path is no UTF-8")?;
    let mut sets = settings().to_vec();
    sets.push(format!("global.registry={}", reference::REGISTRY));
    sets.push(format!("global.tag={}", reference::tag()));
    sets.push("dapr_scheduler.cluster.inMemoryStorage=true".to_owned());
    let mut args = vec!["install", "dapr", chart, "--namespace", CONTROL_PLANE];
    args.extend(["--create-namespace", "--wait", "--timeout", "4m"]);
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    demo.cluster().helm(&args).map(drop)
}

/// Helm deletes nothing that says so; Dapr's chart takes it back later.
fn keep_scheduler(demo: &Demo) -> Result<()> {
    let args = ["-n", CONTROL_PLANE, "annotate", "--overwrite"];
    let keep = "helm.sh/resource-policy=keep";
    demo.cluster().kubectl(&[&args[..], &SCHEDULER_OBJECTS, &[keep]].concat()).map(drop)
}

/// Exchanges the control plane, and looks at everything that somebody might miss.
fn change_to(demo: &Demo, side: Side) -> Result<()> {
    let certificate = demo.svid()?;
    let before = Picture::take(demo)?;
    client::forget(demo)?;
    step(&format!("helm upgrade to {side:?}"), || upgrade(demo, side))?;
    is_all_of(demo, side)?;
    step("actors and invocations go on", || client::goes_on(demo))?;
    step("running sidecars hear of a new Component", || new_component(demo, side))?;
    step("a running sidecar gets its next certificate", || next_certificate(demo, &certificate))?;
    step("a new pod gets its sidecar", || new_pod(demo, side))?;
    demo.orders_go_on()?;
    before.is_kept_in(&Picture::take(demo)?)?;
    let report = Report::take(demo)?;
    say(format_args!("meanwhile: {report}"));
    report.no_invocation_failed()?;
    step("a sidecar that starts again gets ready", || starts_again(demo))
}

/// What the README says, with the names of the cluster's images.
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
            ["global.registry=", "global.tag=", &ours, "global.scheduler.external=true"].to_vec()
        }
    };
    let mut args = vec!["upgrade", "dapr", chart, "--namespace", CONTROL_PLANE];
    args.extend(["--reset-then-reuse-values", "--wait", "--timeout", "4m"]);
    args.extend(sets.iter().flat_map(|set| ["--set", *set]));
    demo.cluster().helm(&args).map(drop)
}

/// Every workload of that side is rolled out, and no pod of the other one is left but its scheduler.
fn is_all_of(demo: &Demo, side: Side) -> Result<()> {
    for service in demo::SERVICES {
        let wait = ["-n", CONTROL_PLANE, "rollout", "status", service, "--timeout=2m"];
        demo.cluster().kubectl(&wait)?;
    }
    let other = |image: &str| {
        image.rsplit_once('/').is_none_or(|(registry, _)| registry != side.registry())
    };
    until(Deadline::seconds(TIMEOUT), &format!("the pods of {side:?} alone"), || {
        let selector = "app!=dapr-scheduler-server";
        let pods = demo.cluster().get(&["-n", CONTROL_PLANE, "pods", "-l", selector])?;
        let pods = pods["items"].as_array().context("no pods")?;
        let images = pods.iter().filter_map(|pod| pod["spec"]["containers"][0]["image"].as_str());
        let all = images.clone().count() >= demo::SERVICES.len() - 1; // without the scheduler
        Ok((all && !images.into_iter().any(other)).then_some(()))
    })
}

/// The arguments of a pod stay what they were when it was made, the scheduler's address included.
fn starts_again(demo: &Demo) -> Result<()> {
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

/// A sidecar that was there before asks the new sentry, and the CA is still the same.
fn next_certificate(demo: &Demo, before: &Value) -> Result<()> {
    until(Deadline::seconds(TIMEOUT), "another certificate of the same issuer", || {
        let now = demo.svid()?;
        ensure!(now["issuer"] == before["issuer"], "the issuer was {before}, is {now}");
        Ok((now["serial"] != before["serial"]).then_some(()))
    })
}

/// It gets Ready, which takes sentry, operator and injector, and calls an application and an actor.
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
