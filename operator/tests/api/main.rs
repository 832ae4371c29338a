//! The gRPC API over mTLS, in process, with a simulated API server.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "test code outside of #[test] functions"
)]
mod authorisation;
mod fan_out;
mod fixture;
mod gated_rules;
mod unknown_members;
mod unread;

use std::time::Duration;

use proto::operator::{
    GetConfigurationRequest, GetResiliencyRequest, ListComponentsRequest, ListMcpServersRequest,
    ListResiliencyRequest, ListWorkflowAccessPolicyRequest, ResourceEventType,
};
use serde_json::{Value, json};
use tonic::Code;

use fixture::{Fixture, component, object};

fn namespace() -> String {
    "shop".to_owned()
}

fn parsed(bodies: &[bytes::Bytes]) -> Vec<Value> {
    bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect()
}

fn names(bodies: &[bytes::Bytes]) -> Vec<String> {
    parsed(bodies).iter().map(|o| o["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn components_in_scope_are_sorted_and_resolved() {
    let fixture = Fixture::start().await;
    fixture.secret("shop", "redis", &[("password", "hunter2")]);
    let secret =
        json!([{"name": "redisPassword", "secretKeyRef": {"name": "redis", "key": "password"}}]);
    fixture.put(&component("store", "1", &secret, &[]));
    fixture.put(&component("alpha", "1", &json!([]), &["orders"]));
    fixture.put(&component("other", "1", &json!([]), &["bills"]));
    let mut foreign = component("elsewhere", "1", &json!([]), &[]);
    foreign["metadata"]["namespace"] = json!("bank");
    fixture.put(&foreign);
    fixture.synced();

    let mut orders = fixture.client("shop", "orders");
    let answer = orders.list_components(ListComponentsRequest { namespace: namespace() }).await;
    let components = answer.unwrap().into_inner().components;
    assert_eq!(names(&components), ["alpha", "store"]);
    let store = &parsed(&components)[1];
    assert_eq!(store["spec"]["metadata"][0]["value"], "aHVudGVyMg==");
    assert_eq!(store["spec"]["metadata"][0]["secretKeyRef"]["name"], "redis");
    assert_eq!(store["kind"], "Component");
    assert_eq!(store["apiVersion"], "dapr.io/v1alpha1");
}

#[tokio::test]
async fn missing_secret_fails_only_that_list() {
    let fixture = Fixture::start().await;
    let secret = json!([{"name": "p", "secretKeyRef": {"name": "gone", "key": "k"}}]);
    fixture.put(&component("store", "1", &secret, &["orders"]));
    let mut lenient = component("lenient", "1", &secret, &["bills"]);
    lenient["spec"]["ignoreErrors"] = json!(true);
    fixture.put(&lenient);
    fixture.synced();

    let mut orders = fixture.client("shop", "orders");
    let refused = orders.list_components(ListComponentsRequest { namespace: namespace() }).await;
    let status = refused.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "Secret \"gone\" not found")
    );
    let others = orders.list_resiliency(ListResiliencyRequest { namespace: namespace() }).await;
    assert!(others.is_ok());

    let mut bills = fixture.client("shop", "bills");
    let answer = bills.list_components(ListComponentsRequest { namespace: namespace() }).await;
    let components = parsed(&answer.unwrap().into_inner().components);
    assert_eq!(components[0]["spec"]["metadata"][0]["value"], Value::Null);

    fixture.secret("shop", "gone", &[("k", "now")]);
    let answer = orders.list_components(ListComponentsRequest { namespace: namespace() }).await;
    let components = parsed(&answer.unwrap().into_inner().components);
    assert_eq!(components[0]["spec"]["metadata"][0]["value"], "bm93");
}

#[tokio::test]
async fn removed_key_is_never_served_from_memory() {
    let fixture = Fixture::start().await;
    fixture.secret("shop", "s", &[("k", "old")]);
    let item =
        json!([{"name": "p", "value": "literal", "secretKeyRef": {"name": "s", "key": "k"}}]);
    fixture.put(&component("store", "1", &item, &[]));
    fixture.synced();
    let mut orders = fixture.client("shop", "orders");
    let mut value = async || {
        let answer = orders.list_components(ListComponentsRequest { namespace: namespace() }).await;
        parsed(&answer.unwrap().into_inner().components)[0]["spec"]["metadata"][0]["value"].clone()
    };
    assert_eq!(value().await, "b2xk");
    fixture.secret("shop", "s", &[("other", "x")]);
    assert_eq!(value().await, "literal");
}

#[tokio::test]
async fn calls_wait_for_the_first_list() {
    let fixture = Fixture::start().await;
    let mut client = fixture.client("shop", "orders");
    let call = tokio::time::timeout(
        Duration::from_millis(300),
        client.list_components(ListComponentsRequest { namespace: namespace() }),
    );
    assert!(call.await.is_err(), "held, not refused");
    fixture.put(&component("store", "1", &json!([]), &[]));
    fixture.synced();
    let answer = client.list_components(ListComponentsRequest { namespace: namespace() }).await;
    assert_eq!(names(&answer.unwrap().into_inner().components), ["store"]);
}

#[tokio::test]
async fn missing_crd_is_an_error_or_an_empty_list() {
    let fixture = Fixture::start().await;
    fixture.no_crds();
    let mut client = fixture.client("shop", "orders");
    let status =
        client.list_resiliency(ListResiliencyRequest { namespace: namespace() }).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::Unknown,
            "error listing resiliencies: no matches for kind \"Resiliency\" in version \"dapr.io/v1alpha1\""
        )
    );
    let servers = client.list_mcp_servers(ListMcpServersRequest { namespace: namespace() }).await;
    assert!(servers.unwrap().into_inner().mcp_servers.is_empty());
    let request = ListWorkflowAccessPolicyRequest { namespace: namespace() };
    let policies = client.list_workflow_access_policy(request).await;
    assert!(policies.unwrap().into_inner().policies.is_empty());
}

#[tokio::test]
async fn single_objects_are_found_by_name() {
    let fixture = Fixture::start().await;
    fixture.put(&object(
        "Resiliency",
        "r",
        "1",
        &json!({"spec": {"policies": {}, "targets": {}}, "scopes": ["bills"]}),
    ));
    fixture.put(&object("Configuration", "c", "1", &json!({"spec": {}})));
    fixture.synced();
    let mut client = fixture.client("shop", "orders");
    let mut configuration = async |name: &str| {
        let request = GetConfigurationRequest { name: name.to_owned(), namespace: namespace() };
        client.get_configuration(request).await.map(|answer| answer.into_inner().configuration)
    };
    let found: Value = serde_json::from_slice(&configuration("c").await.unwrap()).unwrap();
    assert_eq!(found["spec"], json!({}));
    let status = configuration("x").await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            Code::NotFound,
            "error getting configuration shop/x: Configuration.dapr.io \"x\" not found"
        )
    );
    let request = GetResiliencyRequest { name: "r".into(), namespace: namespace() };
    assert!(client.get_resiliency(request).await.is_ok(), "no scope filter: the sidecar filters");
}

#[tokio::test]
async fn streams_carry_changes_from_the_point_of_view_of_the_scope() {
    let fixture = Fixture::start().await;
    fixture.put(&component("store", "1", &json!([]), &[]));
    fixture.synced();
    let mut orders = fixture.components("orders").await;
    let mut bills = fixture.components("bills").await;
    fixture.put(&component("store", "2", &json!([]), &["orders"]));
    assert_eq!(orders.next().await, (ResourceEventType::Updated, "store".into()));
    assert_eq!(bills.next().await, (ResourceEventType::Deleted, "store".into()));
    fixture.put(&component("store", "2", &json!([]), &["orders"]));
    fixture.put(&component("store", "3", &json!([]), &[]));
    assert_eq!(orders.next().await, (ResourceEventType::Updated, "store".into()));
    assert_eq!(bills.next().await, (ResourceEventType::Created, "store".into()));
    fixture.delete(&component("store", "4", &json!([]), &[]));
    assert_eq!(orders.next().await, (ResourceEventType::Deleted, "store".into()));
}

#[tokio::test]
async fn undecodable_object_does_not_affect_the_stream() {
    let fixture = Fixture::start().await;
    fixture.put(&json!({"kind": "Component", "apiVersion": "dapr.io/v1alpha1",
        "metadata": {"name": "bad", "namespace": "shop", "resourceVersion": "1"}, "spec": {"type": 5}}));
    fixture.synced();
    let mut orders = fixture.components("orders").await;
    fixture.put(&component("good", "1", &json!([]), &[]));
    assert_eq!(orders.next().await, (ResourceEventType::Created, "good".into()));
    let mut client = fixture.client("shop", "orders");
    let answer = client.list_components(ListComponentsRequest { namespace: namespace() }).await;
    assert_eq!(names(&answer.unwrap().into_inner().components), ["good"]);
}

#[tokio::test]
async fn stream_continues_after_a_missing_secret() {
    let fixture = Fixture::start().await;
    fixture.synced();
    let mut orders = fixture.components("orders").await;
    let secret = json!([{"name": "p", "secretKeyRef": {"name": "gone", "key": "k"}}]);
    fixture.put(&component("broken", "1", &secret, &[]));
    fixture.put(&component("good", "1", &json!([]), &[]));
    assert_eq!(orders.next().await, (ResourceEventType::Created, "good".into()));
    fixture.delete(&component("broken", "2", &secret, &[]));
    assert_eq!(orders.next().await, (ResourceEventType::Deleted, "broken".into()));
}

#[tokio::test]
async fn only_the_assigned_configuration_is_streamed() {
    let fixture = Fixture::start().await;
    fixture.synced();
    fixture.pod("orders-1", &[("enabled", "true"), ("app-id", "orders"), ("config", "mine")]);
    let mut orders = fixture.configurations("orders").await;
    fixture.put(&object("Configuration", "foreign", "1", &json!({"spec": {}})));
    fixture.put(&object("Configuration", "mine", "2", &json!({"spec": {}})));
    assert_eq!(orders.next().await, (ResourceEventType::Created, "mine".into()));
}

#[tokio::test]
async fn shutdown_ends_open_streams_without_error() {
    let fixture = Fixture::start().await;
    fixture.synced();
    let mut orders = fixture.components("orders").await;
    let (ended, stopped) = tokio::join!(orders.end(), fixture.stop());
    assert!(ended.is_ok(), "{ended:?}");
    assert!(stopped.is_ok(), "{stopped:?}");
}

/// A time in the past, as the API server prints it.
fn minutes_ago(minutes: i64) -> String {
    let then = runtime::clock::now() - jiff::SignedDuration::from_mins(minutes);
    then.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A Configuration that was written a number of minutes ago.
fn configuration(name: &str, minutes: i64, spec: &Value) -> Value {
    let mut object = object("Configuration", name, "1", &json!({"spec": spec}));
    object["metadata"]["managedFields"] = json!([{"time": minutes_ago(minutes)}]);
    object
}

#[tokio::test]
async fn updates_missed_while_no_operator_was_running_are_sent_once() {
    let fixture = Fixture::start().await;
    for (app, used) in [("orders", "mine"), ("bills", "old"), ("carts", "secretive")] {
        let annotations = [("enabled", "true"), ("app-id", app), ("config", used)];
        fixture.pod(&format!("{app}-1"), &annotations);
    }
    fixture.secret("shop", "otel", &[("token", "t")]);
    let header = json!({"name": "h", "secretKeyRef": {"name": "otel", "key": "token"}});
    let otel = json!({"protocol": "grpc", "endpointAddress": "c:1", "isSecure": false,
        "headers": [header]});
    fixture.put(&configuration("mine", 1, &json!({})));
    fixture.put(&configuration("foreign", 1, &json!({})));
    fixture.put(&configuration("old", 60, &json!({})));
    let secretive = json!({"tracing": {"samplingRate": "1", "otel": otel}});
    fixture.put(&configuration("secretive", 1, &secretive));
    fixture.synced();
    let mut orders = fixture.configurations("orders").await;
    assert_eq!(orders.next().await, (ResourceEventType::Updated, "mine".into()));
    drop(orders);

    // The same sidecar after a restart; one whose Configuration is old; one for which a rotated
    // Secret would look like a change.
    let mut orders = fixture.configurations("orders").await;
    let mut bills = fixture.configurations("bills").await;
    let mut carts = fixture.configurations("carts").await;
    let streams = [(&mut orders, "mine"), (&mut bills, "old"), (&mut carts, "secretive")];
    for (stream, name) in streams {
        fixture.delete(&configuration(name, 0, &json!({})));
        let first = stream.next().await;
        assert_eq!(first, (ResourceEventType::Deleted, name.into()), "no event was sent before");
    }
}

#[tokio::test]
async fn rotated_secret_is_in_the_next_list() {
    let fixture = Fixture::start().await;
    let secret = json!([{"name": "p", "secretKeyRef": {"name": "redis", "key": "password"}}]);
    fixture.put(&component("store", "1", &secret, &[]));
    fixture.synced();
    let mut client = fixture.client("shop", "orders");
    for (password, base64) in [("one", "b25l"), ("two", "dHdv"), ("one", "b25l")] {
        fixture.secret("shop", "redis", &[("password", password)]);
        let request = ListComponentsRequest { namespace: namespace() };
        let components = client.list_components(request).await.unwrap().into_inner().components;
        assert_eq!(parsed(&components)[0]["spec"]["metadata"][0]["value"], base64);
    }
}

#[tokio::test]
async fn objects_of_the_first_list_are_not_sent_on_open_streams() {
    let fixture = Fixture::start().await;
    let mut orders = fixture.components("orders").await;
    fixture.put(&component("listed", "1", &json!([]), &[]));
    fixture.synced();
    testkit::until("the stream subscribes", async || fixture.open_streams() == 1).await;
    fixture.put(&component("created", "2", &json!([]), &[]));
    assert_eq!(orders.next().await, (ResourceEventType::Created, "created".into()));
}

#[tokio::test]
async fn key_of_the_ca_is_never_resolved() {
    let fixture = Fixture::start().await;
    fixture.secret("dapr-system", "dapr-trust-bundle", &[("issuer.key", "private")]);
    fixture.secret("shop", "dapr-trust-bundle", &[("issuer.key", "of an app")]);
    let reference = json!({"name": "dapr-trust-bundle", "key": "issuer.key"});
    let mut thief =
        component("thief", "1", &json!([{"name": "p", "secretKeyRef": reference}]), &[]);
    fixture.put(&thief);
    thief["metadata"]["namespace"] = json!("dapr-system");
    fixture.put(&thief);
    fixture.synced();

    let request = ListComponentsRequest { namespace: "dapr-system".to_owned() };
    let status = fixture.client("dapr-system", "thief").list_components(request).await.unwrap_err();
    let text =
        "Secret \"dapr-trust-bundle\" contains the private key of the CA and is not resolved";
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, text));

    // A Secret of that name in another namespace is an ordinary one.
    let request = ListComponentsRequest { namespace: namespace() };
    let answer = fixture.client("shop", "orders").list_components(request).await.unwrap();
    let store = &parsed(&answer.into_inner().components)[0];
    assert_eq!(store["spec"]["metadata"][0]["value"], "b2YgYW4gYXBw");
}
