//! Every way in which a pod is created, on a real API server with its controllers, other webhooks
//! and the admission guard around our injector.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod neighbour;
mod outages;

use std::sync::OnceLock;

use blackbox::injector_fixture::{CalledWebhook, Guard, names_of, pod};
use blackbox::{Deadline, until};
use rstest::rstest;
use serde_json::{Value, json};

/// Enough for controllers on a busy machine; a `CronJob` waits for the full minute.
const TIMEOUT: u64 = 120;

/// The test cluster of the tests that do not stop the injector, with the guard in force.
fn shared() -> &'static CalledWebhook {
    static SHARED: OnceLock<CalledWebhook> = OnceLock::new();
    SHARED.get_or_init(|| CalledWebhook::common(Guard::Enforced).unwrap())
}

/// A pod template; its pods have no name when the webhook receives them.
pub(crate) fn template(annotations: &Value) -> Value {
    let mut all = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "app"});
    for (key, value) in annotations.as_object().unwrap() {
        all[key] = value.clone();
    }
    json!({
        "metadata": {"labels": {"app": "app"}, "annotations": all},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

fn workload(kind: &str) -> Value {
    let template = template(&json!({}));
    let selector = json!({"matchLabels": {"app": "app"}});
    let mut for_jobs = template.clone();
    for_jobs["spec"]["restartPolicy"] = json!("Never");
    let (version, spec) = match kind {
        "Pod" => ("v1", template["spec"].clone()),
        "ReplicationController" => ("v1", json!({"template": template})),
        "StatefulSet" => {
            ("apps/v1", json!({"serviceName": "app", "selector": selector, "template": template}))
        }
        "Job" => ("batch/v1", json!({"template": for_jobs})),
        "CronJob" => (
            "batch/v1",
            json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": for_jobs}}}),
        ),
        _ => ("apps/v1", json!({"selector": selector, "template": template})),
    };
    let mut metadata = json!({"name": "app"});
    if kind == "Pod" {
        metadata = template["metadata"].clone();
        metadata["name"] = json!("app");
    }
    json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
}

fn first_pod(it: &CalledWebhook, namespace: &str) -> Value {
    let pod = until(Deadline::seconds(TIMEOUT), "a pod", || {
        Ok(it.api.get(&["pods", "-n", namespace])?.pointer("/items/0").cloned())
    });
    pod.unwrap()
}

fn variables(pod: &Value, container: &str) -> Vec<String> {
    let containers = pod["spec"]["containers"].as_array().unwrap();
    let env = containers.iter().find(|c| c["name"] == container).unwrap()["env"].as_array();
    let names = env.into_iter().flatten().filter_map(|v| v["name"].as_str());
    names.map(str::to_owned).collect()
}

const OURS: [&str; 3] = ["DAPR_HTTP_PORT", "DAPR_GRPC_PORT", "APP_PROTOCOL"];

#[rstest]
#[case("Pod")]
#[case("ReplicaSet")]
#[case("ReplicationController")]
#[case("Deployment")]
#[case("StatefulSet")]
#[case("DaemonSet")]
#[case("Job")]
#[case("CronJob")]
fn pods_of_every_workload_get_their_sidecar(#[case] kind: &str) {
    let it = shared();
    if kind == "DaemonSet" {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}});
        it.api.apply(&node.to_string()).unwrap();
    }
    let namespace = it.api.namespace("kind").unwrap();
    let (ok, errors) = it.create(&namespace, &workload(kind), &[]).unwrap();
    assert!(ok, "{errors}");
    let pod = first_pod(it, &namespace);
    assert_eq!(names_of(&pod), ["app", "daprd"]);
    assert_eq!(variables(&pod, "app"), OURS);
    assert_eq!(pod["metadata"]["labels"]["dapr.io/app-id"], "app");
    // A second sidecar, or none, would be stored by now.
    it.api.kubectl(&["delete", kind, "app", "-n", &namespace, "--wait=false"]).unwrap();
}

/// Argo Rollouts: a resource of its own, whose controller creates `ReplicaSets` that it owns.
#[test]
fn pods_of_a_rollout_get_their_sidecar() {
    let it = shared();
    let namespace = it.api.namespace("rollout").unwrap();
    let names = json!({"plural": "rollouts", "singular": "rollout", "kind": "Rollout"});
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let version = json!({"name": "v1alpha1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "rollouts.argoproj.io"},
        "spec": {"group": "argoproj.io", "scope": "Namespaced", "names": names, "versions": [version]},
    });
    it.api.apply(&crd.to_string()).unwrap();
    it.api
        .kubectl(&["wait", "crd", "rollouts.argoproj.io", "--for=condition=Established"])
        .unwrap();
    let mut rollout = workload("Deployment");
    rollout["apiVersion"] = json!("argoproj.io/v1alpha1");
    rollout["kind"] = json!("Rollout");
    let (ok, errors) = it.create(&namespace, &rollout, &[]).unwrap();
    assert!(ok, "{errors}");
    // As its controller does.
    let rollout = it.api.get(&["rollout", "app", "-n", &namespace]).unwrap();
    let mut set = workload("ReplicaSet");
    set["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "app",
        "uid": rollout["metadata"]["uid"], "controller": true,
    }]);
    let (ok, errors) = it.create(&namespace, &set, &[]).unwrap();
    assert!(ok, "{errors}");
    assert_eq!(names_of(&first_pod(it, &namespace)), ["app", "daprd"]);
}

#[test]
fn a_dry_run_shows_the_sidecar_and_leaves_nothing() {
    let it = shared();
    let namespace = it.api.namespace("dry").unwrap();
    let annotations = json!({"dapr.io/enabled": "true", "dapr.io/app-port": "many"});
    for verb in [&["create"][..], &["apply"], &["apply", "--server-side"]] {
        let more = ["-n", &namespace, "--dry-run=server", "-o", "json", "-f", "-"];
        let answer = it.kubectl(&[verb, &more].concat(), &pod("dry", &annotations)).unwrap();
        let shown: Value = serde_json::from_slice(&answer.stdout).unwrap();
        assert_eq!(names_of(&shown), ["app", "daprd"], "{verb:?}");
    }
    let left = it.api.get(&["pods,events", "-n", &namespace]).unwrap();
    assert_eq!(left["items"], json!([]));
}

#[test]
fn a_pod_can_be_applied_again_and_again_on_the_servers_side() {
    let it = shared();
    let namespace = it.api.namespace("apply").unwrap();
    let args = ["apply", "--server-side", "-n", &namespace, "-f", "-"];
    let mut pod = pod("app", &json!({"dapr.io/enabled": "true"}));
    for round in 0..3 {
        pod["metadata"]["labels"] = json!({"round": round.to_string()});
        let answer = it.kubectl(&args, &pod).unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        let stored = it.api.get(&["pod", "app", "-n", &namespace]).unwrap();
        assert_eq!(names_of(&stored), ["app", "daprd"]);
        assert_eq!(stored["metadata"]["labels"]["dapr.io/sidecar-injected"], "true");
        assert_eq!(stored["metadata"]["labels"]["round"], round.to_string());
    }
}

#[test]
fn webhooks_before_and_after_ours_may_switch_injection_on() {
    let it = shared();
    for name in ["a-before-ours", "z-after-ours"] {
        let namespace = it.api.namespace("switch").unwrap();
        neighbour::install(&it.api, name, &namespace, |_| {
            let annotations = json!({"dapr.io/enabled": "true"});
            json!([{"op": "add", "path": "/metadata/annotations", "value": annotations}])
        })
        .unwrap();
        let mut attempt = 0;
        // The API server uses a webhook a moment after its registration.
        let stored = until(Deadline::seconds(TIMEOUT), "the webhook to be called", || {
            attempt += 1;
            let pod = pod(&format!("app-{attempt}"), &Value::Null);
            let (ok, errors) = it.create(&namespace, &pod, &[])?;
            assert!(ok, "{errors}");
            let stored = it.api.get(&["pod", &format!("app-{attempt}"), "-n", &namespace])?;
            Ok(stored.pointer("/metadata/annotations").is_some().then_some(stored))
        });
        assert_eq!(names_of(&stored.unwrap()), ["app", "daprd"], "{name}");
    }
}

#[test]
fn containers_that_other_webhooks_add_are_completed() {
    let it = shared();
    let namespace = it.api.namespace("add").unwrap();
    neighbour::install(&it.api, "a-before-ours-adds", &namespace, |pod| {
        add_container(pod, "early")
    })
    .unwrap();
    neighbour::install(&it.api, "z-after-ours-adds", &namespace, |pod| add_container(pod, "late"))
        .unwrap();
    let sockets = json!({"dapr.io/enabled": "true", "dapr.io/unix-domain-socket-path": "/sockets"});
    let mut attempt = 0;
    let stored = until(Deadline::seconds(TIMEOUT), "both webhooks to be called", || {
        attempt += 1;
        let name = format!("app-{attempt}");
        let (ok, errors) = it.create(&namespace, &pod(&name, &sockets), &[])?;
        assert!(ok, "{errors}");
        let stored = it.api.get(&["pod", &name, "-n", &namespace])?;
        let names = names_of(&stored);
        Ok(["early", "late"].iter().all(|n| names.contains(&(*n).to_owned())).then_some(stored))
    });
    let stored = stored.unwrap();
    assert_eq!(names_of(&stored), ["app", "early", "daprd", "late"]);
    for name in ["app", "early", "late"] {
        assert_eq!(variables(&stored, name), OURS, "{name}");
        let containers = stored["spec"]["containers"].as_array().unwrap();
        let container = containers.iter().find(|c| c["name"] == name).unwrap();
        assert!(container["volumeMounts"].to_string().contains("/sockets"), "{name}: {container}");
    }
    let volumes = stored["spec"]["volumes"].as_array().unwrap();
    let of_others: Vec<_> = volumes.iter().filter(|v| v["emptyDir"] == json!({})).collect();
    assert_eq!(of_others.len(), 2, "{volumes:?}");
}

/// The patch of a mesh's injector: a container and a volume, unless they exist.
fn add_container(pod: &Value, name: &str) -> Value {
    if names_of(pod).iter().any(|present| present == name) {
        return json!([]);
    }
    let mut patch = vec![
        json!({"op": "add", "path": "/spec/containers/-", "value": {"name": name, "image": name}}),
    ];
    if pod["spec"].get("volumes").is_none() {
        patch.push(json!({"op": "add", "path": "/spec/volumes", "value": []}));
    }
    let volume = json!({"name": format!("{name}-data"), "emptyDir": {}});
    patch.push(json!({"op": "add", "path": "/spec/volumes/-", "value": volume}));
    patch.into()
}
