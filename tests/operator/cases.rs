//! Objects from public reports (`tests/fixtures/cases`), applied to a cluster.
use std::collections::BTreeSet;

use blackbox::until;
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::timeout;

macro_rules! case {
    ($path:literal) => {
        include_str!(concat!("../fixtures/cases/", $path))
    };
}

/// Applies the objects of a case in another namespace.
fn apply(fixture: &Fixture, namespace: &str, text: &str) {
    fixture
        .apply(namespace, &text.replace("namespace: orchard", &format!("namespace: {namespace}")));
}

fn service(fixture: &Fixture, namespace: &str, app_id: &str) -> Option<Value> {
    fixture.api.get(&["service", &format!("{app_id}-dapr"), "-n", namespace]).ok()
}

/// A ready pod of a workload, with the label of the injector. No kubelet runs: its status is written.
fn ready_pod(fixture: &Fixture, namespace: &str, workload: &str, app_id: &str, ip: &str) {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": workload, "labels":
        {"app": workload, "dapr.io/app-id": app_id}}, "spec": {"containers":
        [{"name": "c", "image": "localhost/pause:1"}]}});
    fixture.apply(namespace, &pod.to_string());
    let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}]}})
    .to_string();
    let args = ["patch", "pod", workload, "-n", namespace, "--subresource=status", "-p", &status];
    fixture.api.kubectl(&args).unwrap();
}

/// The addresses of the ready pods that the Service of an app selects: its endpoints. Without nodes no
/// controller writes objects of kind `EndpointSlice`.
fn addresses(fixture: &Fixture, namespace: &str, app_id: &str) -> BTreeSet<String> {
    let Some(service) = service(fixture, namespace, app_id) else { return BTreeSet::new() };
    let selector = service["spec"]["selector"].as_object().cloned().unwrap_or_default();
    let list = fixture.api.get(&["pods", "-n", namespace]).unwrap();
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let selected = pods.iter().filter(|pod| {
        selector.iter().all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value))
    });
    selected.filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)).collect()
}

/// Case 03: a canary release. From the first pod on the Service has endpoints in every step.
#[test]
fn service_of_a_canary_release_always_leads_to_the_pods_that_exist() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("canary").unwrap();
    let ips = |want: &[&str], what: &str| {
        until(timeout(), what, || {
            let now = addresses(fixture, &namespace, "kiosk");
            Ok(now.iter().eq(want.iter()).then_some(()))
        })
        .unwrap();
    };
    let service = || service(fixture, &namespace, "kiosk");
    let scale = |replicas: &str| {
        let args = ["scale", "deployment", "kiosk", "-n", &namespace, "--replicas", replicas];
        fixture.api.kubectl(&args).unwrap();
    };
    let canary = case!("03-service-of-scaled-down-twin/canary.yaml");
    apply(fixture, &namespace, &canary.replace("replicas: 0", "replicas: 1"));
    ready_pod(fixture, &namespace, "kiosk", "kiosk", "10.9.0.1");
    ips(&["10.9.0.1"], "the pod of the author");
    let made = service().unwrap();
    assert_eq!(made["spec"]["selector"], json!({"app": "kiosk"}), "alone, as with Dapr");

    apply(fixture, &namespace, case!("03-service-of-scaled-down-twin/primary.yaml"));
    ready_pod(fixture, &namespace, "kiosk-primary", "kiosk", "10.9.0.2");
    ips(&["10.9.0.1", "10.9.0.2"], "both");
    scale("0");
    fixture.api.kubectl(&["delete", "pod", "kiosk", "-n", &namespace]).unwrap();
    ips(&["10.9.0.2"], "the primary");
    let owner = |service: &Value| service["metadata"]["ownerReferences"][0]["name"].clone();
    let handed_over = until(timeout(), "the primary to own the service", || {
        Ok(service().filter(|service| owner(service) == "kiosk-primary"))
    });
    let handed_over = handed_over.unwrap();
    assert_eq!(handed_over["spec"]["selector"], json!({"dapr.io/app-id": "kiosk"}));
    assert_eq!(handed_over["metadata"]["uid"], made["metadata"]["uid"]);

    // The next analysis. A Service that appears later proves that the changes were observed.
    scale("1");
    scale("0");
    apply(fixture, &namespace, case!("03-service-of-scaled-down-twin/revisions.yaml"));
    let tally = until(timeout(), "the service of the revisions", || {
        let tally = crate::cases::service(fixture, &namespace, "tally");
        Ok(tally.filter(|service| owner(service) == "tally-00002-deployment"))
    });
    assert_eq!(tally.unwrap()["spec"]["selector"], json!({"dapr.io/app-id": "tally"}));
    let now = service().unwrap();
    assert_eq!(now["metadata"]["resourceVersion"], handed_over["metadata"]["resourceVersion"]);
    ips(&["10.9.0.2"], "the primary still");

    // The garbage collector keeps a Service that has another owner.
    fixture.api.kubectl(&["delete", "deployment", "kiosk", "-n", &namespace]).unwrap();
    let alone = until(timeout(), "the selector of the only workload", || {
        Ok(service().filter(|s| s["spec"]["selector"] == json!({"app": "kiosk-primary"})))
    });
    assert_eq!(alone.unwrap()["metadata"]["uid"], made["metadata"]["uid"]);
    ips(&["10.9.0.2"], "the primary to the end");
}

/// Case 21.
#[test]
fn workload_that_is_selected_by_expressions_has_a_service() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("scored").unwrap();
    apply(fixture, &namespace, case!("21-selector-of-expressions/deployment.yaml"));
    let made = until(timeout(), "the service", || Ok(service(fixture, &namespace, "scored")));
    assert_eq!(made.unwrap()["spec"]["selector"], json!({"score-workload": "scored"}));
}
