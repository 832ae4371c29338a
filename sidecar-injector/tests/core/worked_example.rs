//! The hello-kubernetes tutorial, byte for byte: the answers of Dapr 1.18.3 for its two pods.

use serde_json::{Value, json};

use crate::setting::{context, inject, patched, settings};

const SIDECAR: &str = r#"{
  "name": "daprd",
  "image": "ghcr.io/dapr/daprd:1.18.3",
  "imagePullPolicy": "IfNotPresent",
  "args": [
    "/daprd",
    "--dapr-http-port", "3500",
    "--dapr-grpc-port", "50001",
    "--dapr-internal-grpc-port", "50002",
    "--dapr-listen-addresses", "[::1],127.0.0.1",
    "--dapr-public-port", "3501",
    "--app-id", "nodeapp",
    "--app-protocol", "http",
    "--log-level", "info",
    "--dapr-graceful-shutdown-seconds", "-1",
    "--mode", "kubernetes",
    "--control-plane-address", "dapr-api.dapr-system.svc.cluster.local:443",
    "--sentry-address", "dapr-sentry.dapr-system.svc.cluster.local:443",
    "--app-port", "3000",
    "--enable-metrics",
    "--metrics-port", "9090",
    "--placement-host-address", "dapr-placement-server.dapr-system.svc.cluster.local:50005",
    "--enable-api-logging=true",
    "--enable-mtls",
    "--scheduler-host-address", "dapr-scheduler-server-a.dapr-system.svc.cluster.local:443"
  ],
  "env": [
    {"name": "NAMESPACE", "value": "default"},
    {"name": "DAPR_TRUST_ANCHORS", "value": "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"},
    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    {"name": "DAPR_CONTROLPLANE_NAMESPACE", "value": "dapr-system"},
    {"name": "DAPR_CONTROLPLANE_TRUST_DOMAIN", "value": "cluster.local"}
  ],
  "ports": [
    {"name": "dapr-http", "containerPort": 3500},
    {"name": "dapr-grpc", "containerPort": 50001},
    {"name": "dapr-internal", "containerPort": 50002},
    {"name": "dapr-metrics", "containerPort": 9090}
  ],
  "readinessProbe": {
    "httpGet": {"path": "/v1.0/healthz", "port": 3501},
    "initialDelaySeconds": 1, "timeoutSeconds": 1, "periodSeconds": 1, "failureThreshold": 5
  },
  "livenessProbe": {
    "tcpSocket": {"port": 3501},
    "initialDelaySeconds": 180, "timeoutSeconds": 3, "periodSeconds": 10, "failureThreshold": 5
  },
  "securityContext": {
    "allowPrivilegeEscalation": false, "runAsNonRoot": true, "readOnlyRootFilesystem": true
  },
  "volumeMounts": [
    {"name": "dapr-identity-token", "mountPath": "/var/run/secrets/dapr.io/sentrytoken", "readOnly": true}
  ]
}"#;

const TOKEN_VOLUME: &str = r#"{
  "name": "dapr-identity-token",
  "projected": {
    "defaultMode": 420,
    "sources": [
      {"serviceAccountToken": {
        "audience": "spiffe://cluster.local/ns/dapr-system/dapr-sentry",
        "expirationSeconds": 7200,
        "path": "token"
      }}
    ]
  }
}"#;

fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn tutorial_pod(name: &str, port: Option<&str>, env: Option<Value>) -> Value {
    let mut annotations = json!({
        "dapr.io/enabled": "true",
        "dapr.io/app-id": format!("{name}app"),
        "dapr.io/enable-api-logging": "true",
    });
    if let Some(port) = port {
        annotations["dapr.io/app-port"] = json!(port);
    }
    let mut container = json!({"name": name, "image": "tutorial"});
    if let Some(env) = env {
        container["env"] = env;
    }
    json!({
        "metadata": {
            "generateName": format!("{name}app-7d9c8b6f5-"),
            "labels": {"app": name, "pod-template-hash": "7d9c8b6f5"},
            "annotations": annotations,
        },
        "spec": {"containers": [container], "volumes": [{"name": "kube-api-access-x2x4z"}]},
    })
}

#[test]
fn the_node_pod_gets_these_operations_and_no_others() {
    let pod =
        tutorial_pod("node", Some("3000"), Some(json!([{"name": "APP_PORT", "value": "3000"}])));
    let (patch, warnings) = inject(&pod, &context(&settings()));
    let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
    let env = |name: &str, value: &str| {
        add("/spec/containers/0/env/-", json!({"name": name, "value": value}))
    };
    let want = json!([
        add("/spec/volumes/-", value(TOKEN_VOLUME)),
        add("/spec/containers/-", value(SIDECAR)),
        add("/metadata/labels/dapr.io~1sidecar-injected", json!("true")),
        add("/metadata/labels/dapr.io~1app-id", json!("nodeapp")),
        add("/metadata/labels/dapr.io~1metrics-enabled", json!("true")),
        env("DAPR_HTTP_PORT", "3500"),
        env("DAPR_GRPC_PORT", "50001"),
        env("APP_PROTOCOL", "http"),
    ]);
    // As text: the order of members is part of the answer, so that two answers can be compared.
    let text = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    assert_eq!(text(&json!(patch)), text(&want));
    assert_eq!(warnings, Vec::<String>::new());
}

#[test]
fn the_python_pod_differs_by_app_id_and_port_only() {
    let pod = tutorial_pod("python", None, None);
    let (patch, warnings) = inject(&pod, &context(&settings()));
    let mut sidecar = value(&SIDECAR.replace("nodeapp", "pythonapp"));
    sidecar["args"].as_array_mut().unwrap().retain(|arg| arg != "--app-port" && arg != "3000");
    let patch = json!(patch);
    assert_eq!(patch[1]["value"], sidecar);
    assert_eq!(
        patch.as_array().unwrap().last(),
        Some(&json!({"op": "add", "path": "/spec/containers/0/env", "value": [
            {"name": "DAPR_HTTP_PORT", "value": "3500"},
            {"name": "DAPR_GRPC_PORT", "value": "50001"},
            {"name": "APP_PROTOCOL", "value": "http"},
        ]}))
    );
    assert!(warnings.is_empty());
}

#[test]
fn the_answer_is_the_same_each_time() {
    let pod = tutorial_pod("node", Some("3000"), None);
    let text = || json!(inject(&pod, &context(&settings())).0).to_string();
    assert_eq!(text(), text());
}

#[test]
fn the_patched_pod_as_a_whole() {
    let pod = tutorial_pod("node", Some("3000"), None);
    insta::assert_json_snapshot!(patched(&pod, &context(&settings())));
}
