//! The operator's watchdog and the injector: pods that were created while the injector was down.

use anyhow::Result;
use blackbox::injector_fixture::{NAMESPACE, Rights, names_of};
use blackbox::{ApiCluster, Deadline, InjectorFixture, Ports, Process, environment, http, until};
use serde_json::{Value, json};

use crate::START;

const COMPLETE: &str = "dapr_operator_watchdog_passes_total{result=\"complete\"}";
const UNPROVEN: &str = "dapr_operator_watchdog_passes_total{result=\"unproven\"}";
const DELETED: &str = "dapr_operator_watchdog_deleted_pods_total";

fn deployment(name: &str, replicas: u32, containers: &Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": {
                    "dapr.io/enabled": "true", "dapr.io/app-id": name}},
                "spec": {"containers": containers},
            },
        },
    })
}

/// The namespace of the Job and the task run.
const ORCHARD: &str = "orchard";

/// The UIDs of the pods in [`ORCHARD`].
fn orchard_pods(api: &ApiCluster) -> Result<Vec<String>> {
    let list = api.get(&["pods", "-n", ORCHARD])?;
    Ok(uids(list["items"].as_array().map(Vec::as_slice).unwrap_or_default()))
}

fn apply(api: &ApiCluster, namespace: &str, object: &Value) -> Result<()> {
    let args = ["apply", "-n", namespace, "-f", "-"];
    api.cluster().kubectl_with_input(&args, &object.to_string()).map(drop)
}

/// Pods of one app, terminating ones excluded.
fn pods(api: &ApiCluster, namespace: &str, app: &str) -> Result<Vec<Value>> {
    let list = api.get(&["pods", "-n", namespace, "-l", &format!("app={app}")])?;
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    Ok(pods.into_iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect())
}

fn uids(pods: &[Value]) -> Vec<String> {
    let mut uids: Vec<_> = pods.iter().map(|pod| pod["metadata"]["uid"].to_string()).collect();
    uids.sort();
    uids
}

/// The value of a series of the process with this metrics port; 0 for one that does not exist.
fn metric(port: u16, series: &str) -> f64 {
    http::metric(port, series).unwrap().unwrap_or_default()
}

/// The operator with the rights that the chart grants it, and nothing else of the chart.
fn start_operator(it: &InjectorFixture, metrics_port: u16) -> Result<Process> {
    let chart = environment::workspace().join("charts/dapr");
    let rights = it.api.cluster().helm(&[
        "template",
        "dapr",
        &chart.to_string_lossy(),
        "--namespace",
        NAMESPACE,
        "--set",
        "global.controlPlane.registry=registry.example/trilby",
        "--show-only",
        "templates/operator/rbac.yaml",
    ])?;
    it.api.apply(&rights)?;
    let ports = Ports { metrics: metrics_port, ..Ports::free()? };
    let mut operator = it
        .spawn_operator(ports)?
        .args(["--watch-interval", "1s", "--max-pod-restarts-per-minute", "60"])
        .env("ENABLE_WEBHOOKS", "false")
        .start()?;
    operator.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(START))?;
    Ok(operator)
}

const APPS: &str = "apps";

/// Pods that must not be deleted: without controller, with a sidecar of their own, and where the
/// webhook is not called.
fn spared(api: &ApiCluster) -> Result<Vec<Value>> {
    let mut all = pods(api, APPS, "bare")?;
    all.extend(pods(api, APPS, "own")?);
    all.extend(pods(api, "kube-system", "system")?);
    Ok(all)
}

/// Creates pods that request a sidecar; returns those that the injector should have received, and
/// those that must not be deleted.
fn make_pods(api: &ApiCluster) -> Result<(Vec<String>, Vec<String>)> {
    api.kubectl(&["create", "namespace", APPS])?;
    until(Deadline::seconds(START), "the namespace's service account", || {
        Ok(api.kubectl(&["get", "serviceaccount", "default", "-n", APPS]).ok())
    })?;
    let app = json!([{"name": "app", "image": "app"}]);
    apply(api, APPS, &deployment("web", 3, &app))?;
    let with_sidecar = json!([{"name": "app", "image": "app"}, {"name": "daprd", "image": "d"}]);
    apply(api, APPS, &deployment("own", 1, &with_sidecar))?;
    apply(api, "kube-system", &deployment("system", 1, &app))?;
    let mut bare = blackbox::injector_fixture::pod("bare", &json!({"dapr.io/enabled": "true"}));
    bare["metadata"]["labels"] = json!({"app": "bare"});
    apply(api, APPS, &bare)?;
    until(Deadline::seconds(START), "the pods", || {
        let (naked, spared) = (pods(api, APPS, "web")?, spared(api)?);
        Ok((naked.len() == 3 && spared.len() == 3).then_some((uids(&naked), uids(&spared))))
    })
}

#[test]
fn pods_created_without_the_injector_are_replaced_once_it_works_and_no_others() {
    let mut it = InjectorFixture::start(Rights::Ours).unwrap();
    it.injector.process.kill();
    let (naked, untouchable) = make_pods(&it.api).unwrap();
    assert_eq!(names_of(&pods(&it.api, APPS, "web").unwrap()[0]), ["app"], "not naked");
    let metrics = environment::free_port().unwrap();
    let operator = start_operator(&it, metrics).unwrap();
    let passes = |series: &str, more: f64| {
        let before = metric(metrics, series);
        let passed = || Ok((metric(metrics, series) >= before + more).then_some(()));
        until(Deadline::seconds(START), series, passed)
            .unwrap_or_else(|error| panic!("{error:#}\n{}", operator.log()));
    };
    // It finds them, cannot verify injection, and deletes no pod.
    passes(UNPROVEN, 3.0);
    assert_eq!(uids(&pods(&it.api, APPS, "web").unwrap()), naked, "deleted too early");

    it.restart_injector().unwrap();
    let web = until(Deadline::seconds(START), "every pod to have its sidecar", || {
        let web = pods(&it.api, APPS, "web")?;
        let all = web.iter().all(|pod| names_of(pod) == ["app", "daprd"]);
        Ok((web.len() == 3 && all).then_some(web))
    });
    let web = web.unwrap_or_else(|error| panic!("{error:#}\n{}", operator.log()));
    assert!(uids(&web).iter().all(|uid| !naked.contains(uid)));
    passes(COMPLETE, 2.0); // these passes have covered all pods
    assert_eq!(uids(&spared(&it.api).unwrap()), untouchable, "{}", operator.log());
    assert_eq!(uids(&pods(&it.api, APPS, "web").unwrap()), uids(&web), "{}", operator.log());
    assert!((metric(metrics, DELETED) - 3.0).abs() < f64::EPSILON, "{}", operator.log());

    let events = it.api.get(&["events", "-n", APPS]).unwrap();
    let missing = events["items"].as_array().into_iter().flatten();
    let missing: Vec<_> = missing.filter(|event| event["reason"] == "SidecarMissing").collect();
    assert_eq!(missing.len(), 1, "once per owner");
    assert_eq!(missing[0]["involvedObject"]["kind"], "ReplicaSet");
}

/// Case 28: a Job that counts a deletion as its failure, and a pod of a controller that creates no
/// second one.
#[test]
fn pods_that_their_controller_does_not_replace_get_one_event_and_are_left_alone() {
    let mut it = InjectorFixture::start(Rights::Ours).unwrap();
    it.injector.process.kill();
    it.api.kubectl(&["create", "namespace", ORCHARD]).unwrap();
    let account = || Ok(it.api.kubectl(&["get", "serviceaccount", "default", "-n", ORCHARD]).ok());
    until(Deadline::seconds(START), "the namespace's service account", account).unwrap();
    it.api
        .apply(include_str!("../fixtures/cases/28-watchdog-and-one-shot-owners/pods.yaml"))
        .unwrap();
    let stand_in = it.api.get(&["configmap", "taskrun-stand-in", "-n", ORCHARD]).unwrap();
    let mut pod =
        blackbox::injector_fixture::pod("taskrun-pod", &json!({"dapr.io/enabled": "true"}));
    pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap",
        "name": "taskrun-stand-in", "uid": stand_in["metadata"]["uid"], "controller": true}]);
    apply(&it.api, ORCHARD, &pod).unwrap();
    let before = until(Deadline::seconds(START), "the pod of the Job", || {
        Ok(Some(orchard_pods(&it.api)?).filter(|pods| pods.len() == 2))
    });
    let before = before.unwrap();
    it.restart_injector().unwrap();
    let metrics = environment::free_port().unwrap();
    let operator = start_operator(&it, metrics).unwrap();
    let events = || -> Result<Vec<(String, String)>> {
        let events = it.api.get(&["events", "-n", ORCHARD])?;
        let events = events["items"].as_array().into_iter().flatten();
        let ours = events.filter(|event| event["reason"] == "SidecarMissing");
        let mut kinds: Vec<_> = ours
            .map(|e| (e["involvedObject"]["kind"].to_string(), e["message"].to_string()))
            .collect();
        kinds.sort();
        Ok(kinds)
    };
    let two = || Ok(Some(events()?).filter(|events: &Vec<_>| events.len() == 2));
    let recorded = until(Deadline::seconds(START), "an Event for each controller", two)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", operator.log()));
    let passed = metric(metrics, COMPLETE);
    until(Deadline::seconds(START), "two more passes", || {
        Ok((metric(metrics, COMPLETE) >= passed + 2.0).then_some(()))
    })
    .unwrap();
    assert_eq!(orchard_pods(&it.api).unwrap(), before, "{}", operator.log());
    assert_eq!(events().unwrap(), recorded, "one Event for each");
    for ((kind, message), want) in recorded.iter().zip(["ConfigMap", "Job.batch"]) {
        assert!(kind.contains(want.split('.').next().unwrap()), "{kind}");
        assert!(message.contains(&format!("because a {want} may not replace it")), "{message}");
    }
    assert!(metric(metrics, DELETED).abs() < f64::EPSILON, "{}", operator.log());
}
