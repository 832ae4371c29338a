//! The operator as a process, with an API server, sentry, the official sidecar and the reference
//! operator.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests are tests")]

mod advice;
mod cases;
mod changes;
mod differential;
mod faults;
mod fixture;
mod gated_rules;
mod leader;
mod newer_release;
mod rights;
mod sidecars;
mod start;
mod status;
mod stored;

use std::fs;
use std::time::Duration;

use blackbox::{Deadline, environment, until};
use bytes::Bytes;
use proto::operator::{
    ComponentUpdateRequest, ConfigurationUpdateRequest, GetConfigurationRequest,
    ListComponentsRequest, ListHttpEndpointsRequest, ListMcpServersRequest, ListResiliencyRequest,
    ListSubscriptionsRequest, ListWorkflowAccessPolicyRequest, ResourceEventType,
};
use serde_json::{Value, json};
use tonic::{Code, Status, Streaming};

use fixture::{Fixture, Sidecar, TIMEOUT};

fn timeout() -> Deadline {
    Deadline::seconds(TIMEOUT)
}

fn parsed(bodies: &[Bytes]) -> Vec<Value> {
    bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect()
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

impl Sidecar {
    fn components(&mut self) -> Result<Vec<Value>, Status> {
        let request = ListComponentsRequest { namespace: self.namespace.clone() };
        let answer = self.runtime.block_on(self.client.list_components(request))?;
        Ok(parsed(&answer.into_inner().components))
    }

    fn component_names(&mut self) -> Vec<String> {
        self.components().unwrap().iter().map(|c| name(c).to_owned()).collect()
    }

    fn configuration(&mut self, name: &str) -> Result<Value, Status> {
        let request =
            GetConfigurationRequest { name: name.to_owned(), namespace: self.namespace.clone() };
        let answer = self.runtime.block_on(self.client.get_configuration(request))?;
        Ok(serde_json::from_slice(&answer.into_inner().configuration).unwrap())
    }

    fn subscriptions(&mut self) -> Vec<Value> {
        let request = ListSubscriptionsRequest { namespace: self.namespace.clone() };
        let answer = self.runtime.block_on(self.client.list_subscriptions_v2(request));
        parsed(&answer.unwrap().into_inner().subscriptions)
    }

    /// Everything that a sidecar requests at its start, by kind.
    fn everything(&mut self) -> Vec<(&'static str, Vec<Value>)> {
        let namespace = self.namespace.clone();
        let (runtime, client) = (&self.runtime, &mut self.client);
        let request = ListResiliencyRequest { namespace: namespace.clone() };
        let resiliencies = runtime.block_on(client.list_resiliency(request)).unwrap();
        let request = ListHttpEndpointsRequest { namespace: namespace.clone() };
        let endpoints = runtime.block_on(client.list_http_endpoints(request)).unwrap();
        let request = ListMcpServersRequest { namespace: namespace.clone() };
        let servers = runtime.block_on(client.list_mcp_servers(request)).unwrap();
        let request = ListWorkflowAccessPolicyRequest { namespace };
        let policies = runtime.block_on(client.list_workflow_access_policy(request)).unwrap();
        let mut all = vec![
            ("components", self.components().unwrap()),
            ("subscriptions", self.subscriptions()),
            ("resiliencies", parsed(&resiliencies.into_inner().resiliencies)),
            ("httpendpoints", parsed(&endpoints.into_inner().http_endpoints)),
            ("mcpservers", parsed(&servers.into_inner().mcp_servers)),
            ("workflowaccesspolicies", parsed(&policies.into_inner().policies)),
        ];
        for (_, objects) in &mut all {
            objects.sort_by_key(|object| name(object).to_owned());
        }
        all
    }

    /// The changes from now on: an operator that is ready may still be listing.
    fn open_components(&mut self) -> Streaming<proto::operator::ComponentUpdateEvent> {
        until(timeout(), "Components to be listed", || {
            let is_early = |status: Status| status.message().contains("not yet listed");
            Ok((!self.components().is_err_and(is_early)).then_some(()))
        })
        .unwrap();
        let request = ComponentUpdateRequest { namespace: self.namespace.clone() };
        self.runtime.block_on(self.client.component_update(request)).unwrap().into_inner()
    }

    fn open_configurations(&mut self) -> Streaming<proto::operator::ConfigurationUpdateEvent> {
        let request = ConfigurationUpdateRequest { namespace: self.namespace.clone() };
        self.runtime.block_on(self.client.configuration_update(request)).unwrap().into_inner()
    }

    /// The next event, if one arrives within a second.
    fn soon<E>(&self, stream: &mut Streaming<E>) -> Option<E> {
        let limit = Duration::from_secs(1);
        let event =
            self.runtime.block_on(async { tokio::time::timeout(limit, stream.message()).await });
        Some(event.ok()?.unwrap().expect("the stream ended"))
    }

    /// Waits for the next event.
    fn event<E>(&self, stream: &mut Streaming<E>) -> E {
        let limit = Duration::from_secs(TIMEOUT);
        let event =
            self.runtime.block_on(async { tokio::time::timeout(limit, stream.message()).await });
        event.expect("no event came").unwrap().expect("the stream ended")
    }

    fn next(
        &self,
        stream: &mut Streaming<proto::operator::ComponentUpdateEvent>,
    ) -> (ResourceEventType, Value) {
        let event = self.event(stream);
        (event.r#type(), serde_json::from_slice(&event.component).unwrap())
    }
}

fn component(name: &str, more: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\n\
         spec: {{type: state.in-memory, version: v1, metadata: []}}\n{more}\n---\n"
    )
}

fn component_with_secret(name: &str, secret: &str, more: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\n\
         spec: {{type: state.in-memory, version: v1, metadata: [{{name: password, \
         secretKeyRef: {{name: {secret}, key: password}}}}]}}\n{more}\n---\n"
    )
}

/// A pod of an app with a Configuration.
fn pod_of(app: &str, configuration: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {app}-0, annotations: {{dapr.io/enabled: \
         'true', dapr.io/app-id: {app}, dapr.io/config: {configuration}}}}}\n\
         spec: {{containers: [{{name: c, image: 'localhost/pause:1'}}]}}\n---\n"
    )
}

/// A Deployment without pods, which the controller manager reports as complete.
fn deployment(name: &str, app_id: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec: {{replicas: 0, \
         selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: {{labels: {{app: {name}}}, \
         annotations: {{dapr.io/enabled: 'true', dapr.io/app-id: {app_id}}}}}, \
         spec: {{containers: [{{name: c, image: 'localhost/pause:1'}}]}}}}}}\n---\n"
    )
}

fn secret(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{password: hunter2}}\n---\n"
    )
}

/// Warning Events on an object.
fn warnings(fixture: &Fixture, namespace: &str, object: &str) -> Vec<String> {
    let events = fixture.api.get(&["events", "-n", namespace]).unwrap();
    let events = events["items"].as_array().unwrap().iter();
    events
        .filter(|e| e["type"] == "Warning" && e["involvedObject"]["name"] == object)
        .map(|e| format!("{}: {}", e["reason"].as_str().unwrap(), e["message"].as_str().unwrap()))
        .collect()
}

#[test]
fn crds_reject_what_no_sidecar_accepts() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("crd").unwrap();
    let refused = |manifest: &str| {
        let args = ["create", "-n", &namespace, "-f", "-"];
        fixture.api.cluster().kubectl_with_input(&args, manifest).unwrap_err().to_string()
    };
    let two = refused(
        "apiVersion: dapr.io/v1alpha1\nkind: MCPServer\nmetadata: {name: a}\n\
        spec: {endpoint: {sse: {url: http://a}, stdio: {command: b}}}",
    );
    assert!(two.contains("exactly one of streamableHTTP, sse, or stdio must be set"), "{two}");
    let empty = refused(
        "apiVersion: dapr.io/v1alpha1\nkind: WorkflowAccessPolicy\n\
        metadata: {name: a}\nspec: {rules: [{callers: [{appID: a}]}]}",
    );
    assert!(
        empty.contains("at least one of workflows or activities must contain a rule"),
        "{empty}"
    );
    let untyped = refused(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a}\n\
        spec: {version: v1, metadata: []}",
    );
    assert!(untyped.contains("spec.type"), "{untyped}");

    fixture.apply(
        &namespace,
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\n\
        metadata: {name: c}\nspec: {tracing: {samplingRate: '1'}}",
    );
    let stored = fixture.api.get(&["configuration.dapr.io", "c", "-n", &namespace]).unwrap();
    assert_eq!(stored["spec"]["metric"], json!({"enabled": true}), "the CLI dereferences it");
    assert_eq!(stored["spec"]["metrics"], json!({"enabled": true}));
}

#[test]
fn secret_of_a_component_is_resolved_and_a_missing_one_affects_only_its_app() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("secrets").unwrap();
    fixture.apply(
        &namespace,
        &(secret("redis")
            + &component_with_secret("good", "redis", "scopes: [orders]")
            + &component_with_secret("broken", "gone", "scopes: [bills]")),
    );
    let port = fixture.operator.port;
    let mut orders = fixture.sidecar(&namespace, "orders", port);
    let mut bills = fixture.sidecar(&namespace, "bills", port);
    let got = until(timeout(), "the component", || Ok(orders.components()?.pop())).unwrap();
    assert_eq!(got["spec"]["metadata"][0]["value"], "aHVudGVyMg==");

    let status = until(timeout(), "the refusal", || Ok(bills.components().err())).unwrap();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "Secret \"gone\" not found")
    );
    assert_eq!(orders.component_names(), ["good"]);
    until(timeout(), "the event", || Ok(warnings(fixture, &namespace, "broken").pop())).unwrap();
    let failures = "dapr_operator_secret_failures_total";
    let failures = format!("{failures}{{kind=\"Component\",namespace=\"{namespace}\"}}");
    assert!(fixture.operator.metric(&failures) >= 1.0);

    fixture.apply(&namespace, &secret("gone"));
    assert_eq!(bills.component_names(), ["broken"], "secrets are read when they are needed");
}

#[test]
fn undecodable_object_is_not_served_and_reported() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("undecodable").unwrap();
    let otel = |name: &str, timeout: &str| {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {{name: {name}}}\n\
            spec: {{tracing: {{samplingRate: '1', otel: {{protocol: grpc, endpointAddress: 'c:1', \
            isSecure: false, timeout: {timeout}}}}}}}\n---\n"
        )
    };
    fixture.apply(&namespace, &(otel("bad", "1d") + &otel("good", "5s")));
    // The same for an operator that lists the object at its start.
    let late = fixture.another_operator();
    for port in [fixture.operator.port, late.port] {
        let mut app = fixture.sidecar(&namespace, "orders", port);
        let good = until(timeout(), "the good one", || Ok(app.configuration("good").ok())).unwrap();
        assert_eq!(good["spec"]["tracing"]["otel"]["timeout"], "5s");
        assert_eq!(app.configuration("bad").unwrap_err().code(), Code::NotFound);
    }
    let note =
        until(timeout(), "the event", || Ok(warnings(fixture, &namespace, "bad").pop())).unwrap();
    assert!(note.starts_with("Undecodable: ") && note.contains("1d"), "{note}");
}

#[test]
fn changes_reach_open_streams_according_to_scopes() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("streams").unwrap();
    let mut orders = fixture.sidecar(&namespace, "orders", fixture.operator.port);
    let mut stream = orders.open_components();
    let mut expect = |want: ResourceEventType, object: &str| {
        let (event, body) = orders.next(&mut stream);
        assert_eq!((event, name(&body)), (want, object));
    };
    fixture.apply(&namespace, &component("hidden", "scopes: [bills]"));
    fixture.apply(&namespace, &component("store", ""));
    expect(ResourceEventType::Created, "store");
    // This event cannot be sent; all later ones can.
    fixture.apply(&namespace, &component_with_secret("broken", "gone", ""));
    fixture.apply(&namespace, &component("store", "scopes: [orders]"));
    expect(ResourceEventType::Updated, "store");
    fixture.apply(&namespace, &component("hidden", "scopes: [bills, orders]"));
    expect(ResourceEventType::Created, "hidden");
    fixture.apply(&namespace, &component("store", "scopes: [bills]"));
    expect(ResourceEventType::Deleted, "store");
    fixture.api.kubectl(&["delete", "component.dapr.io", "hidden", "-n", &namespace]).unwrap();
    expect(ResourceEventType::Deleted, "hidden");
}

#[test]
fn subscriptions_are_converted_both_ways_and_the_crd_is_repaired() {
    let fixture = Fixture::shared();
    let _alone = fixture.subscription_definition();
    let namespace = fixture.api.namespace("conversion").unwrap();
    let written = "apiVersion: dapr.io/v1alpha1\nkind: Subscription\nmetadata: {name: old}\n\
        spec: {pubsubname: p, topic: t, route: /r}\n---\n\
        apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: new}\n\
        spec: {pubsubname: p, topic: t, routes: {default: /d, rules: [{match: 'true', path: /m}]}}\n";
    fixture.apply(&namespace, written);
    let get = |version: &str, name: &str| {
        let kind = format!("subscriptions.{version}.dapr.io");
        fixture.api.get(&[&kind, name, "-n", &namespace])
    };
    assert_eq!(get("v2alpha1", "old").unwrap()["spec"]["routes"], json!({"default": "/r"}));
    assert_eq!(get("v1alpha1", "new").unwrap()["spec"]["route"], "/d");

    // `kubectl edit` of the older version must not delete the rules.
    let edited = get("v1alpha1", "new").unwrap().to_string().replace("\"t\"", "\"other\"");
    let replace = ["replace", "-n", &namespace, "-f", "-"];
    fixture.api.cluster().kubectl_with_input(&replace, &edited).unwrap();
    let new = get("v2alpha1", "new").unwrap();
    assert_eq!(new["spec"]["topic"], "other");
    assert_eq!(new["spec"]["routes"]["rules"], json!([{"match": "true", "path": "/m"}]));

    let mut app = fixture.sidecar(&namespace, "orders", fixture.operator.port);
    let served =
        until(timeout(), "both", || Ok(Some(app.subscriptions()).filter(|s| s.len() == 2)));
    let served = served.unwrap();
    assert_eq!(served[1]["apiVersion"], "dapr.io/v2alpha1");
    assert_eq!(served[1]["spec"]["routes"]["default"], "/r");

    let reset = r#"[{"op": "replace", "path": "/spec/conversion/webhook/clientConfig/service/namespace", "value": "replaceme"},
        {"op": "remove", "path": "/spec/conversion/webhook/clientConfig/caBundle"}]"#;
    fixture
        .api
        .kubectl(&["patch", "crd", "subscriptions.dapr.io", "--type=json", "-p", reset])
        .unwrap();
    until(timeout(), "the repair", || Ok(get("v1alpha1", "new").ok())).unwrap();
    let repairs = "dapr_operator_crd_checks_total";
    let repairs = format!("{repairs}{{crd=\"subscriptions.dapr.io\",result=\"patched\"}}");
    assert!(fixture.operator.metric(&repairs) >= 1.0);
}

/// `appProtocol` of each port of a Service.
fn app_protocols(service: &Value) -> Vec<&str> {
    let ports = service["spec"]["ports"].as_array().unwrap().iter();
    ports.map(|port| port["appProtocol"].as_str().unwrap_or_default()).collect()
}

#[test]
fn services_follow_their_workloads() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("services").unwrap();
    let deployment = |app_id: &str| deployment("orders", app_id);
    let service = |name: &str| {
        let name = format!("{name}-dapr");
        fixture.api.get(&["service", &name, "-n", &namespace]).ok()
    };
    fixture.apply(&namespace, &deployment("orders"));
    let made = until(timeout(), "the service", || Ok(service("orders"))).unwrap();
    assert_eq!(made["spec"]["clusterIP"], "None");
    assert_eq!(made["spec"]["selector"], json!({"app": "orders"}));
    assert_eq!(made["metadata"]["ownerReferences"][0]["kind"], "Deployment");
    assert_eq!(made["spec"]["ports"][2]["port"], 50002);
    assert_eq!(app_protocols(&made), ["http", "grpc", "tls", "http"]);

    fixture.api.kubectl(&["delete", "service", "orders-dapr", "-n", &namespace]).unwrap();
    let again = until(timeout(), "the service again", || Ok(service("orders"))).unwrap();
    assert_ne!(again["metadata"]["uid"], made["metadata"]["uid"]);

    // After an edit the owned members are restored, and nothing else is changed.
    let edit = r#"{"metadata": {"labels": {"mine": "x"}}, "spec": {"selector": {"app": "other"},
        "ports": [{"port": 50001, "appProtocol": "tcp"}]}}"#;
    fixture
        .api
        .kubectl(&["patch", "service", "orders-dapr", "-n", &namespace, "-p", edit])
        .unwrap();
    let repaired = until(timeout(), "the repair", || {
        Ok(service("orders").filter(|service| service["spec"]["selector"]["app"] == "orders"))
    });
    let repaired = repaired.unwrap();
    assert_eq!(repaired["metadata"]["labels"]["mine"], "x");
    assert_eq!(app_protocols(&repaired), ["http", "grpc", "tls", "http"]);
    assert_eq!(repaired["metadata"]["uid"], again["metadata"]["uid"]);

    fixture.apply(&namespace, &deployment("bills"));
    until(timeout(), "the new service", || Ok(service("bills"))).unwrap();
    until(timeout(), "the old service to go", || Ok(service("orders").is_none().then_some(())))
        .unwrap();

    let plain = deployment("bills").replace("dapr.io/enabled: 'true'", "dapr.io/enabled: 'false'");
    fixture.apply(&namespace, &plain);
    until(timeout(), "the service of no sidecar to go", || {
        Ok(service("bills").is_none().then_some(()))
    })
    .unwrap();

    fixture.apply(&namespace, &deployment("'Not Valid'"));
    let note = until(timeout(), "the event", || Ok(warnings(fixture, &namespace, "orders").pop()))
        .unwrap();
    assert!(note.starts_with("InvalidAnnotation: app id \"Not Valid\" is invalid"), "{note}");

    // The garbage collector of Kubernetes deletes the Service with its workload.
    fixture.apply(&namespace, &deployment("last"));
    until(timeout(), "the last service", || Ok(service("last"))).unwrap();
    fixture.api.kubectl(&["delete", "deployment", "orders", "-n", &namespace]).unwrap();
    until(timeout(), "the service to go too", || Ok(service("last").is_none().then_some(())))
        .unwrap();
}

#[test]
fn json_equals_that_of_the_reference() {
    let fixture = Fixture::shared();
    let namespace = fixture.api.namespace("reference").unwrap();
    let samples = environment::workspace().join("tests/fixtures/operator/samples.yaml");
    fixture.apply(&namespace, &fs::read_to_string(samples).unwrap());
    let reference = fixture.reference_operator();
    let mut ours = fixture.sidecar(&namespace, "orders", fixture.operator.port);
    let mut theirs = fixture.sidecar(&namespace, "orders", reference.port);
    let wanted = until(timeout(), "the reference's answers", || {
        let all = theirs.everything();
        Ok(all.iter().all(|(_, objects)| !objects.is_empty()).then_some(all))
    });
    let wanted = wanted.unwrap();
    let got = until(timeout(), "as many from ours", || {
        let all = ours.everything();
        let sizes = |all: &[(_, Vec<Value>)]| all.iter().map(|(_, o)| o.len()).collect::<Vec<_>>();
        Ok((sizes(&all) == sizes(&wanted)).then_some(all))
    });
    let mut pairs = Vec::new();
    for ((kind, got), (_, want)) in got.unwrap().into_iter().zip(wanted) {
        assert_eq!(got.len(), want.len(), "{kind}");
        pairs.extend(got.into_iter().zip(want));
    }
    for name in ["zeroes", "full", "empty"] {
        pairs.push((ours.configuration(name).unwrap(), theirs.configuration(name).unwrap()));
    }
    let pairs = pairs.into_iter().map(|(got, want)| (comparable(got), comparable(want)));
    let different: Vec<_> = pairs.filter(|(got, want)| got != want).collect();
    assert!(different.is_empty(), "ours and theirs: {different:#?}");
}

/// Without members that are omitted intentionally: no sidecar reads them.
fn comparable(mut object: Value) -> Value {
    let metadata = object["metadata"].as_object_mut().unwrap();
    metadata.remove("managedFields");
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    object
}

#[test]
fn start_fails_with_a_clear_error() {
    let fixture = Fixture::shared();
    let outcome = |spawn: fixture::OperatorSpawn| {
        let mut operator = spawn.start_operator().unwrap();
        let status = until(timeout(), "the end", || Ok(operator.process.exit_status())).unwrap();
        (status.code(), operator.process.log())
    };
    let (code, log) = outcome(fixture.spawn("bad-flag").arg("--no-such-flag"));
    assert_eq!(code, Some(2), "{log}");
    let (code, log) = outcome(fixture.spawn("bad-interval").args(["--watch-interval", "5"]));
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("--watch-interval"), "{log}");
    let (code, log) = outcome(fixture.spawn("no-config").args(["--config", "absent"]));
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("read Configuration dapr-system/absent"), "{log}");
    let mut spawn = fixture.spawn("no-namespace");
    spawn.spawn = spawn.spawn.env_remove("NAMESPACE");
    let (code, log) = outcome(spawn);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("'NAMESPACE' environment variable not set"), "{log}");
}
