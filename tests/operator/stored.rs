//! Subscriptions that an older Dapr stored in the older version.
use std::fs;

use blackbox::{environment, until};
use serde_json::json;

use crate::fixture::Fixture;
use crate::fixture::proxy::Proxy;
use crate::rights::whole_operator;
use crate::timeout;

const DEFINITION: &str = "subscriptions.dapr.io";

/// The versions of the definition, of which the one at index `stored` is the storage version.
fn storing(stored: usize) -> String {
    let storage = |at: usize| {
        let path = format!("/spec/versions/{at}/storage");
        json!({"op": "replace", "path": path, "value": at == stored})
    };
    json!([storage(0), storage(1)]).to_string()
}

/// The arguments of the documented kubectl commands: one that reads, one that writes the result,
/// one that changes the definition.
fn documented() -> [Vec<String>; 3] {
    let text = fs::read_to_string(environment::workspace().join("docs/upgrade.md")).unwrap();
    let begin = text.find("kubectl get subscriptions.v2alpha1").unwrap();
    let commands = text[begin..].split("```").next().unwrap().replace("\\\n", " ");
    let (get, rest) = commands.split_once(" | ").unwrap();
    let (replace, patch) = rest.split_once('\n').unwrap();
    [get, replace, patch].map(|command| {
        let mut words = Vec::new();
        // Arguments are separated by blanks, except in quotes.
        for (at, part) in command.split('\'').enumerate() {
            if at % 2 == 1 {
                words.push(part.to_owned());
            } else {
                words.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        assert_eq!(words.remove(0), "kubectl");
        words
    })
}

fn words(command: &[String]) -> Vec<&str> {
    command.iter().map(String::as_str).collect()
}

#[test]
fn subscriptions_stored_in_the_older_version_are_served_and_can_be_migrated() {
    let fixture = Fixture::shared();
    let (_turn, api) = fixture.second();
    fixture.install_on(api).unwrap();
    let stored_versions = || {
        let definition = api.get(&["crd", DEFINITION]).unwrap();
        definition["status"]["storedVersions"].clone()
    };
    let store = |version: usize| {
        api.kubectl(&["patch", "crd", DEFINITION, "--type=json", "-p", &storing(version)]).unwrap();
    };
    let namespace = "left-behind";
    store(0);
    until(timeout(), "the old version to be stored", || {
        Ok(stored_versions().as_array().unwrap().contains(&json!("v1alpha1")).then_some(()))
    })
    .unwrap();
    let old = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: old}\n\
               spec: {pubsubname: p, topic: t, route: /r}\n";
    fixture.apply_on(api, namespace, old);
    store(1);
    // The address of this webhook.
    let webhook = fixture.install_on(api).unwrap();
    let proxy = Proxy::start(api.kubeconfig()).unwrap();
    let mut operator =
        whole_operator(fixture, namespace, &proxy, webhook, &["--watch-namespace", namespace]);
    let mut app = fixture.sidecar(namespace, "orders", operator.port);
    let served = until(timeout(), "the Subscription", || Ok(app.subscriptions().pop())).unwrap();
    assert_eq!(served["spec"]["routes"], json!({"default": "/r"}));
    assert!(stored_versions().as_array().unwrap().contains(&json!("v1alpha1")));

    let [get, replace, patch] = documented();
    let all = api.kubectl(&words(&get)).unwrap();
    api.cluster().kubectl_with_input(&words(&replace), &all).unwrap();
    api.kubectl(&words(&patch)).unwrap();
    assert_eq!(stored_versions(), json!(["v2alpha1"]));
    // No webhook converts it any more, and none is needed.
    operator.process.kill();
    let kind = "subscriptions.v2alpha1.dapr.io";
    let stored = api.get(&[kind, "old", "-n", namespace]).unwrap();
    assert_eq!(stored["spec"]["routes"], json!({"default": "/r"}));
    assert!(api.get(&["subscriptions.v1alpha1.dapr.io", "old", "-n", namespace]).is_err());
    api.kubectl(&["delete", kind, "old", "-n", namespace]).unwrap();
}
