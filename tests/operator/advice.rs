//! What people are told about their Components, and the CRD that stays right whatever others do.
use std::fs;

use blackbox::{environment, until};
use serde_json::{Value, json};

use crate::{component, stage::Stage, timeout, warnings};

fn about(name: &str, spec: &Value, more: &Value) -> String {
    let mut object = json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": name}, "spec": {"version": "v1", "metadata": []}});
    for (into, from) in [("spec", spec), ("", more)] {
        let target = if into.is_empty() { &mut object } else { &mut object[into] };
        let members = from.as_object().cloned().unwrap_or_default();
        target.as_object_mut().unwrap().extend(members);
    }
    format!("{object}\n---\n")
}

#[test]
fn mistakes_in_components_are_said_on_the_components() {
    let stage = Stage::shared();
    let namespace = stage.bed.namespace("advice").unwrap();
    let key = json!([{"name": "redisHost", "value": "r:6379"},
        {"name": "redisPassword", "secretKeyRef": {"name": "redis", "key": "pass"}}]);
    let store = json!([{"name": "a", "secretKeyRef": {"name": "b", "key": "c"}}]);
    let actors = json!([{"name": "actorStateStore", "value": "true"}]);
    let cases = [
        ("type", json!({"type": "state.rediss"}), json!({}), "UnknownType"),
        ("version", json!({"type": "state.redis", "version": "v9"}), json!({}), "UnknownVersion"),
        ("missing", json!({"type": "state.redis"}), json!({}), "MissingMetadata"),
        (
            "misspelt",
            json!({"type": "state.redis", "metadata": [{"name": "redisHots", "value": "a"}]}),
            json!({}),
            "UnknownMetadata",
        ),
        ("key", json!({"type": "state.redis", "metadata": key}), json!({}), "SecretKeyNotFound"),
        (
            "store",
            json!({"type": "state.in-memory", "metadata": store}),
            json!({"auth": {"secretStore": "vault"}}),
            "SecretStoreNotFound",
        ),
        (
            "first",
            json!({"type": "state.in-memory", "metadata": actors}),
            json!({}),
            "DuplicateActorStateStore",
        ),
        (
            "second",
            json!({"type": "state.in-memory", "metadata": actors}),
            json!({}),
            "DuplicateActorStateStore",
        ),
    ];
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: redis}\n\
                  stringData: {password: hunter2}\n---\n";
    let mut manifests = secret.to_owned() + &component("good", "");
    for (name, spec, more, _) in &cases {
        manifests += &about(name, spec, more);
    }
    stage.apply(&namespace, &manifests);
    for (name, _, _, reason) in &cases {
        let said = until(timeout(), "the event", || {
            let said = warnings(stage, &namespace, name);
            Ok(said.into_iter().find(|said| said.starts_with(&format!("{reason}: "))))
        });
        let said = said.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(!said.contains("hunter2"), "{said}");
    }
    // They were looked at together, so silence about this one is no matter of time.
    assert_eq!(warnings(stage, &namespace, "good"), Vec::<String>::new());
    // Nothing is withheld from a sidecar because of a finding.
    let mut app = stage.sidecar(&namespace, "orders", stage.operator.port);
    let served = until(timeout(), "all of them", || {
        Ok(app.components().ok().filter(|served| served.len() == cases.len() + 1))
    });
    served.unwrap();
}

#[test]
fn conversion_survives_that_the_upstream_file_is_applied_again() {
    let _alone = Stage::subscription_definition();
    let stage = Stage::shared();
    let namespace = stage.bed.namespace("reapplied").unwrap();
    let subscription = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: s}\n\
                        spec: {pubsubname: p, topic: t, route: /r}\n";
    stage.apply(&namespace, subscription);
    let crd = || stage.bed.get(&["crd", "subscriptions.dapr.io"]).unwrap();
    let client = |crd: &Value| crd["spec"]["conversion"]["webhook"]["clientConfig"].clone();
    let port = client(&crd())["service"]["port"].clone();
    // As `dapr upgrade -k` does; only the port is the cluster's own.
    let file = environment::workspace().join("crds/subscription.yaml");
    let upstream = fs::read_to_string(file).unwrap();
    let upstream = upstream.replace("namespace: dapr-system", "namespace: replaceme");
    assert!(upstream.contains("replaceme"), "no placeholder, as upstream's file has it");
    let with_port = format!("          path: /convert\n          port: {port}");
    let upstream = upstream.replace("          path: /convert", &with_port);
    let ways: [&[&str]; 2] =
        [&["apply", "-f", "-"], &["apply", "--server-side", "--force-conflicts", "-f", "-"]];
    for args in ways {
        stage.bed.cluster().kubectl_with_input(args, &upstream).unwrap();
        let right = until(timeout(), "the repair", || {
            let client = client(&crd());
            let right = client["service"]["namespace"] == "dapr-system"
                && client["caBundle"].as_str().is_some_and(|bundle| !bundle.is_empty());
            Ok(right.then_some(client))
        });
        assert_eq!(right.unwrap()["service"]["name"], "dapr-webhook");
        let old = until(timeout(), "both versions", || {
            Ok(stage.bed.get(&["subscriptions.v1alpha1.dapr.io", "s", "-n", &namespace]).ok())
        });
        assert_eq!(old.unwrap()["spec"]["route"], "/r");
    }
    // Objects are stored in the new version, whichever they were written in.
    assert_eq!(crd()["status"]["storedVersions"], json!(["v2alpha1"]));
}
