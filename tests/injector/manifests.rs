//! `injector inject` against the webhook: both must produce the same pod.

use std::io::Write as _;
use std::process::{Command, Stdio};

use blackbox::build_binary;
use blackbox::injector_fixture::{SETTINGS, pod};
use serde_json::{Value, json};

use super::{enabled, shared};

/// What the API server would store of an object.
fn dry_run(namespace: &str, object: &Value) -> Value {
    let args = ["create", "-n", namespace, "--dry-run=server", "-o", "json", "-f", "-"];
    let output = shared().kubectl(&args, object).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let mut stored: Value = serde_json::from_slice(&output.stdout).expect(&errors);
    for random in ["uid", "creationTimestamp"] {
        stored["metadata"].as_object_mut().unwrap().remove(random);
    }
    // The API server names the volume of the ServiceAccount's token at random.
    let text = stored.to_string();
    let token = text.find("kube-api-access-").map(|at| text[at..at + 21].to_owned());
    let text = token.map_or(text.clone(), |name| text.replace(&name, "token"));
    let mut stored: Value = serde_json::from_str(&text).unwrap();
    // Volumes and mounts have the order in which the API server and the webhook added them.
    sort(&mut stored["spec"]["volumes"]);
    for list in ["containers", "initContainers"] {
        for container in stored["spec"][list].as_array_mut().into_iter().flatten() {
            sort(&mut container["volumeMounts"]);
        }
    }
    stored
}

fn sort(list: &mut Value) {
    let name = |item: &Value| item["name"].as_str().unwrap_or_default().to_owned();
    list.as_array_mut().unwrap().sort_by_key(name);
}

/// The output of `injector inject` for an object.
fn injected(namespace: &str, object: &Value) -> Value {
    let anchors = tempfile();
    std::fs::write(&anchors, shared().anchors().unwrap()).unwrap();
    let mut command = Command::new(build_binary("injector").unwrap());
    command.args(["inject", "-f", "-", "-n", namespace, "--trust-anchors"]).arg(&anchors);
    for (name, value) in SETTINGS {
        command.args(["--env", &format!("{name}={value}")]);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    std::fs::remove_file(&anchors).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn tempfile() -> std::path::PathBuf {
    std::env::temp_dir().join(format!("trilby-anchors-{}", std::process::id()))
}

#[test]
fn a_manifest_injected_offline_becomes_the_pod_that_the_webhook_makes() {
    let namespace = shared().api.namespace("offline").unwrap();
    let mut object = pod(
        "same",
        &enabled(&json!({
            "dapr.io/app-id": "same", "dapr.io/app-port": "3000", "dapr.io/env": "A=1,B=2",
            "dapr.io/sidecar-cpu-request": "100m", "dapr.io/unix-domain-socket-path": "/sockets",
            "dapr.io/enable-native-sidecar": "true", "dapr.io/native-sidecar-position": "first",
        })),
    );
    object["spec"]["initContainers"] = json!([{"name": "init", "image": "init"}]);
    object["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    let by_hand = injected(&namespace, &object);
    assert_eq!(by_hand["spec"]["initContainers"][0]["name"], "daprd");
    assert_eq!(dry_run(&namespace, &by_hand), dry_run(&namespace, &object));
}

#[test]
fn lint_prints_the_warnings_of_kubectl_and_fails() {
    let object = pod("odd", &enabled(&json!({"dapr.io/app-prot": "1"})));
    let mut command = Command::new(build_binary("injector").unwrap());
    command.args(["lint", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(object.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout);
    let want = "standard input: Pod default/odd: unknown annotation \"dapr.io/app-prot\" is ignored; did you mean dapr.io/app-port?";
    assert!(text.contains(want), "{text}");
}
