//! Manifests from public reports (`tests/fixtures/cases`), applied to a cluster: what the API server
//! stores after the webhook, and what controllers and users are told.

use anyhow::Context as _;
use blackbox::injector_fixture::names_of;
use blackbox::{Deadline, until};
use serde_json::{Value, json};

use super::{START, container, shared};

macro_rules! case {
    ($path:literal) => {
        include_str!(concat!("../fixtures/cases/", $path))
    };
}

/// Applies the objects of a case in a namespace of their own.
fn apply(text: &str) -> String {
    let it = shared();
    let namespace = it.api.namespace("orchard").unwrap();
    let text = text.replace("namespace: orchard", &format!("namespace: {namespace}"));
    it.api.apply(&text).unwrap();
    namespace
}

/// The pod that a controller made for a workload.
fn pod_of(namespace: &str, app: &str) -> Value {
    until(Deadline::seconds(START), &format!("the pod of {app}"), || {
        let selector = format!("app={app}");
        let list = shared().api.get(&["pods", "-n", namespace, "-l", &selector])?;
        Ok(list["items"].as_array().and_then(|items| items.first().cloned()))
    })
    .unwrap()
}

fn args(pod: &Value) -> Vec<&str> {
    let args = container(pod, "daprd")["args"].as_array().unwrap();
    args.iter().filter_map(Value::as_str).collect()
}

/// What kubectl prints for the pod of a workload's template.
fn warnings(text: &str, workload: &str) -> String {
    let it = shared();
    let namespace = it.api.namespace("warned").unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let found = documents.iter().find(|object| object["metadata"]["name"] == workload);
    let template = &found.context("no such workload").unwrap()["spec"]["template"];
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"],
        "spec": template["spec"]});
    pod["metadata"]["name"] = json!(workload);
    let more = ["create", "-n", &namespace, "--dry-run=server", "-f", "-"];
    let output = it.kubectl(&more, &pod).unwrap();
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn case_04_a_windows_pod_is_admitted_with_its_sidecar() {
    let namespace = apply(case!("04-windows-pod-os/pod.yaml"));
    let pod = pod_of(&namespace, "cashier");
    assert_eq!(names_of(&pod), ["cashier", "daprd"]);
    let security = &container(&pod, "daprd")["securityContext"];
    assert_eq!(*security, json!({"runAsNonRoot": true}));
}

#[test]
fn case_16_ports_that_are_taken_are_warned_about() {
    let text = case!("16-ports-already-taken/pods.yaml");
    let gateway = warnings(text, "gateway");
    for says in [
        "port 9090 of container gateway is also the metrics port of daprd",
        "set dapr.io/metrics-port to another port",
        "port 50001 of container agent is also the gRPC API of daprd",
        "port 3500 of container agent is also the HTTP API of daprd",
    ] {
        assert!(gateway.contains(says), "{says}: {gateway}");
    }
    let edge = warnings(text, "edge");
    let says = "hostNetwork: daprd uses ports 3500, 3501, 9090, 50001, 50002 of the node";
    assert!(edge.contains(says), "{edge}");
}

#[test]
fn case_17_pods_without_a_token_do_not_use_the_builtin_secret_store() {
    let namespace = apply(case!("17-no-service-account-token/pod.yaml"));
    for app in ["by-account", "by-pod"] {
        let pod = pod_of(&namespace, app);
        assert!(args(&pod).contains(&"--disable-builtin-k8s-secret-store"), "{app}");
    }
}

/// The reason that the `ReplicaSet` of a workload creates no pod.
fn refusal(namespace: &str, workload: &str) -> String {
    until(Deadline::seconds(START), &format!("the refusal of {workload}"), || {
        let selector = "--field-selector=reason=FailedCreate";
        let list = shared().api.get(&["events", "-n", namespace, selector])?;
        let all = list["items"].as_array().into_iter().flatten();
        let about = all.filter(|event| {
            let name = event["involvedObject"]["name"].as_str();
            name.is_some_and(|name| name.starts_with(workload))
        });
        let mut notes = about.filter_map(|event| event["message"].as_str());
        Ok(notes.find(|note| note.contains("dapr.io/")).map(str::to_owned))
    })
    .unwrap()
}

#[test]
fn case_20_a_refusal_names_the_annotations_that_are_meant() {
    let namespace = apply(case!("20-annotations-of-old/deployments.yaml"));
    let vintage = refusal(&namespace, "vintage");
    for (old, new) in [("id", "app-id"), ("port", "app-port"), ("protocol", "app-protocol")] {
        let says =
            format!("unknown annotation \"dapr.io/{old}\" is ignored; did you mean dapr.io/{new}?");
        assert!(vintage.contains(&says), "{says}: {vintage}");
    }
    let slip = refusal(&namespace, "slip");
    assert!(slip.contains("did you mean dapr.io/app-id?"), "{slip}");
}

#[test]
fn case_32_an_empty_config_is_removed() {
    let namespace = apply(case!("32-config-annotation-empty/pod.yaml"));
    let pod = pod_of(&namespace, "blank");
    assert_eq!(pod["metadata"]["annotations"]["dapr.io/config"], Value::Null);
    let args = args(&pod);
    assert!(!args.contains(&"--config"), "{args:?}");
    assert!(args.windows(2).any(|two| two == ["--log-level", "info"]), "{args:?}");
    let says = warnings(case!("32-config-annotation-empty/pod.yaml"), "blank");
    assert!(says.contains("dapr.io/config is empty and was removed"), "{says}");
}
