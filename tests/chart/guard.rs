//! The admission guard's CEL on a real API server. There is no injector, so every pod
//! reaches it unpatched, as with an unreachable webhook.

use anyhow::{Context as _, Result};
use blackbox::{ApiCluster, Deadline, until};
use serde_json::{Value, json};

use crate::cluster::{alone, api};
use crate::helm::{REGISTRY, template};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Decision {
    Admitted,
    Denied,
}
use Decision::{Admitted, Denied};

/// A pod with those annotations.
fn asking(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

fn enabled(text: &str) -> Value {
    asking(&json!({ "dapr.io/enabled": text }))
}

/// A pod that asks for a sidecar, with one more member.
fn enabled_and(pointer: &str, value: Value) -> Value {
    let mut pod = enabled("true");
    let (parent, key) = pointer.rsplit_once('/').unwrap_or_default();
    if let Some(parent) = pod.pointer_mut(parent).and_then(Value::as_object_mut) {
        parent.insert(key.to_owned(), value);
    }
    pod
}

fn containers(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"name": name, "image": "x"})).collect()
}

/// One API server judges all of them: each test starts one of its own.
#[test]
fn judges_a_pod() -> Result<()> {
    let _alone = alone();
    let api = guarded()?;
    let cases = [
        ("yes", enabled("true"), Denied),
        ("any case", enabled("TRUE"), Denied),
        ("trimmed", enabled(" \tyes "), Denied),
        ("y", enabled("Y"), Denied),
        ("t", enabled("t"), Denied),
        ("on", enabled("On"), Denied),
        ("one", enabled("1"), Denied),
        ("no", enabled("false"), Admitted),
        ("odd", enabled("ture"), Admitted),
        ("ten", enabled("10"), Admitted),
        ("empty", enabled(""), Admitted),
        ("no annotations", asking(&Value::Null), Admitted),
        ("empty annotations", asking(&json!({})), Admitted),
        ("other annotation", asking(&json!({"dapr.io/app-id": "a"})), Admitted),
        ("has sidecar", enabled_and("/spec/containers", containers(&["app", "daprd"])), Admitted),
        (
            "has native sidecar",
            enabled_and("/spec/initContainers", containers(&["first", "daprd"])),
            Admitted,
        ),
        (
            "has other containers",
            enabled_and("/spec/containers", containers(&["daprd2", "app"])),
            Denied,
        ),
        ("has other init", enabled_and("/spec/initContainers", containers(&["first"])), Denied),
        (
            "skipped on purpose",
            asking(&json!({"dapr.io/enabled": "true", "dapr.io/injection-skipped": "not allowed"})),
            Admitted,
        ),
        (
            "of the control plane",
            enabled_and("/metadata/labels", json!({"app": "dapr-sentry"})),
            Admitted,
        ),
        (
            "of an application",
            enabled_and("/metadata/labels", json!({"app": "dapr-sentry-2"})),
            Denied,
        ),
    ];
    let mut wrong = Vec::new();
    for (name, pod, want) in &cases {
        let found = decision(api, "default", pod)?;
        if found != *want {
            wrong.push(format!("{name}: {found:?}, but {want:?} is right: {pod}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn ignores_the_excluded_namespace() -> Result<()> {
    let _alone = alone();
    assert_eq!(decision(guarded()?, "kube-system", &enabled("true"))?, Admitted);
    Ok(())
}

#[test]
fn names_the_remedy_and_lets_controllers_retry() -> Result<()> {
    let _alone = alone();
    let api = guarded()?;
    let namespace = api.namespace("guard")?;
    let deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "app", "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "app"}},
            "template": {
                "metadata": {"labels": {"app": "app"}, "annotations": {"dapr.io/enabled": "true"}},
                "spec": {"containers": [{"name": "app", "image": "app"}]},
            },
        },
    });
    api.apply(&deployment.to_string())?;
    let message = until(Deadline::seconds(30), "the ReplicaSet's Event", || {
        let sets = api.get(&["replicaset", "-n", &namespace])?;
        let message = sets.pointer("/items/0/status/conditions/0/message").and_then(Value::as_str);
        Ok(message.map(str::to_owned))
    })?;
    for part in ["asks for a Dapr sidecar", "Deployment dapr-sidecar-injector", "TCP port 4000"] {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    // The pod is admitted again: here because the guard is removed.
    remove(api)?;
    until(Deadline::seconds(60), "the pod", || {
        let pods = api.get(&["pod", "-n", &namespace])?;
        Ok(pods["items"].as_array().is_some_and(|items| items.len() == 1).then_some(()))
    })
}

/// The shared cluster with the guard enforced.
fn guarded() -> Result<&'static ApiCluster> {
    let api = api()?;
    api.apply(&guard()?)?;
    until(Deadline::seconds(30), "the guard to be enforced", || {
        Ok((decision(api, "default", &enabled("true"))? == Denied).then_some(()))
    })?;
    Ok(api)
}

fn guard() -> Result<String> {
    let manifests = template(&[REGISTRY])?;
    let is_guard = |document: &&str| {
        document.contains("\nkind: ValidatingAdmissionPolicy")
            && document.contains("name: dapr-sidecar-guard")
    };
    let documents: Vec<&str> = manifests.split("\n---\n").filter(is_guard).collect();
    anyhow::ensure!(documents.len() == 2, "the guard is not rendered");
    Ok(documents.join("\n---\n"))
}

fn remove(api: &ApiCluster) -> Result<()> {
    let kinds = "validatingadmissionpolicybinding,validatingadmissionpolicy";
    api.kubectl(&["delete", kinds, "dapr-sidecar-guard"]).map(drop)
}

fn decision(api: &ApiCluster, namespace: &str, pod: &Value) -> Result<Decision> {
    let args = ["create", "--dry-run=server", "-n", namespace, "-f", "-"];
    match api.cluster().kubectl_with_input(&args, &pod.to_string()) {
        Ok(_) => Ok(Admitted),
        Err(error)
            if format!("{error:#}").contains("ValidatingAdmissionPolicy 'dapr-sidecar-guard'") =>
        {
            Ok(Denied)
        }
        Err(error) => Err(error).context("neither admitted nor denied by the guard"),
    }
}
