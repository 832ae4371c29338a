//! Settings of Namespaces for the sidecars of their pods, through a real kube-apiserver.

use blackbox::injector_fixture::{names_of, pod};
use blackbox::{Deadline, until};
use serde_json::{Value, json};

use super::{START, container, enabled, shared};

/// The stored pod, once it is as expected; the watch sees a Namespace a moment after its creation.
fn pod_that(namespace: &str, object: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let args = ["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-"];
    until(Deadline::seconds(START), "the namespace to have its way", || {
        let output = shared().kubectl(&args, object)?;
        let stored: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok(wanted(&stored).then_some(stored))
    })
    .unwrap()
}

#[test]
fn a_restricted_namespace_with_defaults_admits_its_injected_pods() {
    let it = shared();
    let namespace = it.api.namespace("strict").unwrap();
    let api = &it.api;
    let enforce = "pod-security.kubernetes.io/enforce=restricted";
    api.kubectl(&["label", "namespace", &namespace, enforce]).unwrap();
    api.kubectl(&["annotate", "namespace", &namespace, "dapr.io/log-level=debug"]).unwrap();
    let mut object = pod("strict", &enabled(&json!({})));
    object["spec"]["securityContext"] =
        json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    object["spec"]["containers"][0]["securityContext"] =
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let stored = pod_that(&namespace, &object, |stored| names_of(stored) == ["app", "daprd"]);
    let sidecar = container(&stored, "daprd");
    assert_eq!(sidecar["securityContext"]["capabilities"], json!({"drop": ["ALL"]}));
    let args = sidecar["args"].as_array().unwrap();
    assert!(args.windows(2).any(|two| two == ["--log-level", "debug"]), "{args:?}");
    assert_eq!(
        stored["metadata"]["annotations"]["dapr.io/applied-defaults"],
        r#"{"namespace":{"dapr.io/log-level":"debug"}}"#
    );
}

#[test]
fn a_namespace_switches_its_pods_on_and_off() {
    let it = shared();
    let namespace = it.api.namespace("switch").unwrap();
    it.api.kubectl(&["label", "namespace", &namespace, "dapr.io/injection=enabled"]).unwrap();
    let object = pod("opted", &json!({"dapr.io/app-id": "opted"}));
    let stored = pod_that(&namespace, &object, |stored| names_of(stored) == ["app", "daprd"]);
    assert_eq!(stored["metadata"]["annotations"]["dapr.io/enabled"], "true");

    let off = ["label", "namespace", &namespace, "dapr.io/injection=disabled", "--overwrite"];
    it.api.kubectl(&off).unwrap();
    let object = pod("asks", &enabled(&json!({})));
    let stored = pod_that(&namespace, &object, |stored| names_of(stored) == ["app"]);
    assert_eq!(
        stored["metadata"]["annotations"]["dapr.io/injection-skipped"],
        "namespace-disabled"
    );
}
