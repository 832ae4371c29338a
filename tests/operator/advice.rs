//! Events about Components, and the repair of the Subscription CRD.
use std::fs;

use blackbox::{environment, until};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::{component, timeout, warnings};

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
fn findings_are_recorded_as_events_on_components() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("advice").unwrap();
    let key = json!([{"name": "redisHost", "value": "r:6379"},
        {"name": "redisPassword", "secretKeyRef": {"name": "redis", "key": "pass"}}]);
    let store = json!([{"name": "a", "secretKeyRef": {"name": "b", "key": "c"}}]);
    let actors = json!([{"name": "actorStateStore", "value": "true"}]);
    let cases = [
        ("type", json!({"type": "state.rediss"}), json!({}), "UnknownType"),
        ("version", json!({"type": "state.redis", "version": "v9"}), json!({}), "UnknownVersion"),
        ("missing", json!({"type": "state.memcached"}), json!({}), "MissingMetadata"),
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
    fixture.apply(&namespace, &manifests);
    for (name, _, _, reason) in &cases {
        let note = until(timeout(), "the event", || {
            let note = warnings(fixture, &namespace, name);
            Ok(note.into_iter().find(|note| note.starts_with(&format!("{reason}: "))))
        });
        let note = note.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        assert!(!note.contains("hunter2"), "{note}");
    }
    // All were checked together, so this one has no findings.
    assert_eq!(warnings(fixture, &namespace, "good"), Vec::<String>::new());
    // A Component with findings is served like any other.
    let mut app = fixture.sidecar(&namespace, "orders", fixture.operator.port);
    let served = until(timeout(), "all of them", || {
        Ok(app.components().ok().filter(|served| served.len() == cases.len() + 1))
    });
    served.unwrap();
}

#[test]
fn conversion_is_repaired_after_the_upstream_file_is_applied() {
    let fixture = Fixture::shared();
    let _alone = fixture.subscription_definition();
    let namespace = fixture.api.namespace("reapplied").unwrap();
    let subscription = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: s}\n\
                        spec: {pubsubname: p, topic: t, route: /r}\n";
    fixture.apply(&namespace, subscription);
    let crd = || fixture.api.get(&["crd", "subscriptions.dapr.io"]).unwrap();
    let client = |crd: &Value| crd["spec"]["conversion"]["webhook"]["clientConfig"].clone();
    let port = client(&crd())["service"]["port"].clone();
    // As `dapr upgrade -k` does; only the port differs.
    let file = environment::workspace().join("crds/subscription.yaml");
    let upstream = fs::read_to_string(file).unwrap();
    let upstream = upstream.replace("namespace: dapr-system", "namespace: replaceme");
    assert!(upstream.contains("replaceme"), "no placeholder, as upstream's file has it");
    let with_port = format!("          path: /convert\n          port: {port}");
    let upstream = upstream.replace("          path: /convert", &with_port);
    let ways: [&[&str]; 2] =
        [&["apply", "-f", "-"], &["apply", "--server-side", "--force-conflicts", "-f", "-"]];
    for args in ways {
        fixture.api.cluster().kubectl_with_input(args, &upstream).unwrap();
        let right = until(timeout(), "the repair", || {
            let client = client(&crd());
            let right = client["service"]["namespace"] == "dapr-system"
                && client["caBundle"].as_str().is_some_and(|bundle| !bundle.is_empty());
            Ok(right.then_some(client))
        });
        assert_eq!(right.unwrap()["service"]["name"], "dapr-webhook");
        let old = until(timeout(), "both versions", || {
            Ok(fixture.api.get(&["subscriptions.v1alpha1.dapr.io", "s", "-n", &namespace]).ok())
        });
        assert_eq!(old.unwrap()["spec"]["route"], "/r");
    }
    // Objects are stored in the newer version, in whichever they were written.
    assert_eq!(crd()["status"]["storedVersions"], json!(["v2alpha1"]));
}
