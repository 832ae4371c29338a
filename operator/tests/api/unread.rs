//! Answers larger than a sidecar can read, and clients that do not read theirs.
use std::time::Duration;

use operator::{ApiLimits, MAX_MESSAGE_BYTES};
use prost::Message as _;
use proto::operator::{
    ComponentUpdateEvent, ComponentUpdateRequest, ListComponentResponse, ListComponentsRequest,
    ResourceEventType,
};
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::fixture::{Fixture, component};

const LIST: &str = "/dapr.proto.operator.v1.Operator/ListComponents";
const STREAM: &str = "/dapr.proto.operator.v1.Operator/ComponentUpdate";
const MIB: usize = 1024 * 1024;
/// The budget of a namespace: two lists of a MiB, one of each app. An app has few calls.
const LIMITS: ApiLimits = ApiLimits {
    namespace_bytes: 5 * MIB / 2,
    app_bytes: 5 * MIB / 4,
    app_requests: 3,
    app_streams: 8,
    wait: Duration::from_millis(500),
    unread: Duration::from_secs(5),
};

/// A call whose answer is not read until the test does so.
async fn call<Q, A>(channel: &Channel, path: &'static str, query: Q) -> Result<Streaming<A>, Status>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let codec = ProstCodec::<Q, A>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(client.server_streaming(Request::new(query), path, codec).await?.into_inner())
}

async fn list(
    channel: &Channel,
    namespace: &str,
) -> Result<Streaming<ListComponentResponse>, Status> {
    call(channel, LIST, ListComponentsRequest { namespace: namespace.to_owned() }).await
}

/// A Component with a value of this length; the version has one digit.
fn filled(namespace: &str, name: &str, version: usize, length: usize) -> serde_json::Value {
    let filling = json!([{"name": "filling", "value": version.to_string().repeat(length)}]);
    let mut object = component(name, &version.to_string(), &filling, &[]);
    object["metadata"]["namespace"] = json!(namespace);
    object
}

async fn listed(fixture: &Fixture, namespace: &str) -> Result<ListComponentResponse, Status> {
    let request = ListComponentsRequest { namespace: namespace.to_owned() };
    let answer = fixture.client(namespace, "orders").list_components(request).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_list_is_as_large_as_a_sidecar_can_read_and_no_larger() {
    let fixture = Fixture::start().await;
    for (name, length) in [("a", MIB), ("b", MIB), ("c", MIB), ("d", MIB / 2)] {
        fixture.put(&filled("shop", name, 1, length));
    }
    fixture.synced();
    let room = MAX_MESSAGE_BYTES - listed(&fixture, "shop").await.unwrap().encoded_len();
    fixture.put(&filled("shop", "d", 2, MIB / 2 + room));
    // The client has the limit of a sidecar.
    assert_eq!(listed(&fixture, "shop").await.unwrap().encoded_len(), MAX_MESSAGE_BYTES);
    fixture.put(&filled("shop", "d", 3, MIB / 2 + room + 1));
    let refused = listed(&fixture, "shop").await.unwrap_err();
    let text = "the components for app \"orders\" in namespace \"shop\" need more than 4 MiB \
        (4194304 bytes), and a sidecar reads no larger message: limit components to the apps that \
        use them with scopes, or make them fewer or smaller";
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, text));
    assert_eq!(fixture.hits("message_bytes"), 1);
}

#[tokio::test]
async fn a_small_object_cannot_name_more_secret_bytes_than_a_sidecar_can_read() {
    let fixture = Fixture::start().await;
    fixture.secret("shop", "large", &[("key", &"s".repeat(MIB / 2))]);
    let item = json!({"name": "p", "secretKeyRef": {"name": "large", "key": "key"}});
    let of = |name: &str, items: usize| {
        component(name, &items.to_string(), &json!(vec![item.clone(); items]), &[])
    };
    fixture.put(&of("greedy", 5));
    fixture.synced();
    let served = listed(&fixture, "shop").await.unwrap().components;
    assert!((3 * MIB..4 * MIB).contains(&served[0].len()), "{} bytes", served[0].len());

    let mut orders = fixture.components("orders").await;
    fixture.put(&of("greedy", 1_000));
    let refused = listed(&fixture, "shop").await.map(drop).unwrap_err();
    let text = "Component \"greedy\" needs more than 4 MiB (4194304 bytes) with its Secrets, and a \
        sidecar reads no larger message: reference fewer or smaller Secrets";
    assert_eq!((refused.code(), refused.message()), (Code::FailedPrecondition, text));
    fixture.put(&component("small", "1", &json!([]), &[]));
    let next = orders.next().await;
    assert_eq!(next, (ResourceEventType::Created, "small".into()), "the stream goes on");
}

#[tokio::test]
async fn lists_that_are_not_read_cost_one_app_its_budget_and_end() {
    let fixture = Fixture::start_with(operator::KEEPALIVE, LIMITS).await;
    fixture.put(&filled("shop", "large", 1, MIB));
    fixture.put(&filled("bank", "large", 1, MIB));
    fixture.synced();
    let deaf = fixture.channel_with_window_of_one("shop", "deaf");
    let mut unread = Vec::new();
    let refused = loop {
        match list(&deaf, "shop").await {
            Ok(answer) => unread.push(answer),
            Err(status) => break status,
        }
        assert!(unread.len() <= 1, "{} MiB are not read", unread.len());
    };
    let text = "sidecars of namespace \"shop\" have not read earlier messages; try again";
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    for namespace in ["shop", "bank"] {
        assert!(listed(&fixture, namespace).await.is_ok(), "an app of {namespace} is not affected");
    }
    assert!(fixture.hits("unread_bytes") >= 1);

    let request = || ListComponentsRequest { namespace: "shop".to_owned() };
    let is_free = async || fixture.client("shop", "deaf").list_components(request()).await.is_ok();
    testkit::until("the budget is free again", is_free).await;
    for mut answer in unread {
        assert!(answer.message().await.is_err(), "the connection was cut");
    }
    assert!(fixture.hits("unread_deadline") >= 1);
}

#[tokio::test]
async fn streams_that_are_not_read_are_cut_off_and_hold_up_no_other() {
    let fixture = Fixture::start_with(operator::KEEPALIVE, LIMITS).await;
    fixture.synced();
    let deaf = fixture.channel_with_window_of_one("shop", "deaf");
    let mut unread = Vec::new();
    for _ in 0..8 {
        let request = ComponentUpdateRequest { namespace: "shop".to_owned() };
        unread.push(call::<_, ComponentUpdateEvent>(&deaf, STREAM, request).await.unwrap());
    }
    let mut orders = fixture.components("orders").await;
    for version in 1..=4 {
        fixture.put(&filled("shop", "large", version, MIB));
        let want =
            if version == 1 { ResourceEventType::Created } else { ResourceEventType::Updated };
        assert_eq!(orders.next().await, (want, "large".into()));
    }
    testkit::until("only the stream that is read is open", async || fixture.open_streams() == 1)
        .await;
    for mut stream in unread {
        while stream.message().await.is_ok_and(|event| event.is_some()) {}
    }
}

#[tokio::test]
async fn an_app_has_as_many_unread_lists_as_it_may_over_all_connections() {
    let fixture = Fixture::start_with(operator::KEEPALIVE, LIMITS).await;
    fixture.synced();
    let connections = [(); 2].map(|()| fixture.channel_with_window_of_one("shop", "deaf"));
    let mut unread = Vec::new();
    for connection in [&connections[0], &connections[0], &connections[1]] {
        unread.push(list(connection, "shop").await.unwrap());
    }
    let refused = list(&connections[1], "shop").await.map(drop).unwrap_err();
    let text = "app \"deaf\" in namespace \"shop\" has 3 open requests, the most that are served; \
        try again";
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    assert_eq!(fixture.hits("requests_per_app"), 1);
    assert!(listed(&fixture, "shop").await.is_ok(), "another app is not affected");
    unread.pop();
    let is_free = async || list(&connections[0], "shop").await.is_ok();
    testkit::until("a request is free again", is_free).await;
}

#[tokio::test]
async fn an_app_has_as_many_streams_as_it_may_over_all_connections() {
    let limits = ApiLimits { app_streams: 2, ..LIMITS };
    let fixture = Fixture::start_with(operator::KEEPALIVE, limits).await;
    fixture.synced();
    let open = async || {
        let request = ComponentUpdateRequest { namespace: "shop".to_owned() };
        let answer = fixture.client("shop", "orders").component_update(request).await;
        answer.map(tonic::Response::into_inner)
    };
    let mut streams = vec![open().await.unwrap(), open().await.unwrap()];
    let refused = open().await.map(drop).unwrap_err();
    let text = "app \"orders\" in namespace \"shop\" has 2 open update streams, the most that are \
        served; try again";
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, text));
    assert_eq!(fixture.hits("streams_per_app"), 1);
    drop(fixture.components("cart").await);
    streams.pop();
    testkit::until("a stream is free again", async || open().await.is_ok()).await;
}
