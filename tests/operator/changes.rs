//! Changes while the operator runs: rotated Secrets and Services that others edit.

use blackbox::until;
use proto::operator::{HttpEndpointUpdateRequest, ListHttpEndpointsRequest, ResourceEventType};
use serde_json::{Value, json};

use crate::fixture::Fixture;
use crate::{component, component_with_secret, name, secret, timeout};

fn endpoint(name: &str, secret: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {{name: {name}}}\n\
         spec: {{baseUrl: 'http://a', headers: [{{name: h, secretKeyRef: {{name: {secret}, key: password}}}}]}}\n---\n"
    )
}

#[test]
fn rotated_secret_updates_exactly_the_components_that_reference_it() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("rotation").unwrap();
    fixture.apply(
        &namespace,
        &(secret("redis")
            + &secret("other")
            + &component_with_secret("uses", "redis", "")
            + &component_with_secret("bystander", "other", "")
            + &endpoint("endpoint", "redis")),
    );
    let mut app = fixture.sidecar(&namespace, "orders", fixture.operator.port);
    // As a sidecar at its start: from now on it has the values.
    until(timeout(), "both components", || Ok((app.components()?.len() == 2).then_some(())))
        .unwrap();
    let request = ListHttpEndpointsRequest { namespace: namespace.clone() };
    app.runtime.block_on(app.client.list_http_endpoints(request)).unwrap();
    let mut components = app.open_components();
    let request = HttpEndpointUpdateRequest { namespace: namespace.clone() };
    let endpoints = app.runtime.block_on(app.client.http_endpoint_update(request));
    let mut endpoints = endpoints.unwrap().into_inner();

    let kubectl =
        |args: &[&str]| fixture.api.kubectl(&[args, &["-n", &namespace]].concat()).unwrap();
    // Neither a label nor an unused key causes an update.
    kubectl(&["label", "secret", "redis", "team=a"]);
    kubectl(&["patch", "secret", "redis", "-p", r#"{"stringData": {"unused": "x"}}"#]);
    kubectl(&["patch", "secret", "redis", "-p", r#"{"stringData": {"password": "rotated"}}"#]);
    let (event, body) = app.next(&mut components);
    assert_eq!((event, name(&body)), (ResourceEventType::Updated, "uses"));
    assert_eq!(body["spec"]["metadata"][0]["value"], "cm90YXRlZA==");

    // The next event on both streams is the one that is caused now.
    fixture.apply(&namespace, &(component("last", "") + &endpoint("last", "redis")));
    let (event, body) = app.next(&mut components);
    assert_eq!((event, name(&body)), (ResourceEventType::Created, "last"));
    let event = app.event(&mut endpoints);
    let body: Value = serde_json::from_slice(&event.http_endpoints).unwrap();
    assert_eq!((event.r#type(), name(&body)), (ResourceEventType::Created, "last"));
}

#[test]
fn secret_that_appears_causes_an_update() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("late").unwrap();
    let mut app = fixture.sidecar(&namespace, "orders", fixture.operator.port);
    let mut components = app.open_components();
    fixture.apply(&namespace, &component_with_secret("waits", "late", ""));
    until(timeout(), "the refusal", || Ok(app.components().err())).unwrap();
    fixture.apply(&namespace, &secret("late"));
    let (event, body) = app.next(&mut components);
    assert_ne!(event, ResourceEventType::Deleted);
    assert_eq!(name(&body), "waits");
    assert_eq!(body["spec"]["metadata"][0]["value"], "aHVudGVyMg==");
}

fn daemon_set(name: &str, grpc_port: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: {name}}}\nspec: {{\
         selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}, \
         annotations: {{dapr.io/enabled: 'true', dapr.io/app-id: {name}, dapr.io/grpc-port: '{grpc_port}'}}}}, \
         spec: {{containers: [{{name: c, image: 'localhost/pause:1'}}]}}}}}}\n---\n"
    )
}

#[test]
fn daemon_sets_get_services_and_foreign_members_are_kept() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("daemons").unwrap();
    let service = |name: &str| fixture.api.get(&["service", name, "-n", &namespace]).ok();
    let kubectl =
        |args: &[&str]| fixture.api.kubectl(&[args, &["-n", &namespace]].concat()).unwrap();
    fixture.apply(&namespace, &daemon_set("agent", "50001"));
    let made = until(timeout(), "the service", || Ok(service("agent-dapr"))).unwrap();
    assert_eq!(made["metadata"]["ownerReferences"][0]["kind"], "DaemonSet");
    assert_eq!(made["spec"]["selector"], json!({"app": "agent"}));

    kubectl(&["label", "service", "agent-dapr", "mesh=on"]);
    kubectl(&["annotate", "service", "agent-dapr", "external-dns=name"]);
    fixture.apply(&namespace, &daemon_set("agent", "50011"));
    let changed = until(timeout(), "the new port", || {
        Ok(service("agent-dapr").filter(|service| service["spec"]["ports"][1]["port"] == 50011))
    });
    let changed = changed.unwrap();
    assert_eq!(changed["metadata"]["labels"]["mesh"], "on");
    assert_eq!(changed["metadata"]["annotations"]["external-dns"], "name");

    // A change that does not affect the Service; the next one proves that it was observed.
    kubectl(&["annotate", "daemonset", "agent", "note=x"]);
    fixture.apply(&namespace, &daemon_set("second", "50001"));
    until(timeout(), "the second service", || Ok(service("second-dapr"))).unwrap();
    let now = service("agent-dapr").unwrap();
    assert_eq!(now["metadata"]["resourceVersion"], changed["metadata"]["resourceVersion"]);
}
