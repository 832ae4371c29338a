//! Every RPC for every kind of caller.
use proto::operator::operator_client::OperatorClient;
use proto::operator::{
    ComponentUpdateRequest, ConfigurationUpdateRequest, GetConfigurationRequest,
    GetResiliencyRequest, HttpEndpointUpdateRequest, ListComponentsRequest,
    ListHttpEndpointsRequest, ListMcpServersRequest, ListResiliencyRequest,
    ListSubscriptionsRequest, ListWorkflowAccessPolicyRequest, McpServerUpdateRequest,
    ResiliencyUpdateRequest, SubscriptionUpdateRequest, WorkflowAccessPolicyUpdateRequest,
};
use serde_json::json;
use tonic::Code;
use tonic::transport::Channel;

use crate::fixture::{Fixture, object};

/// RPC, and its result: code and message. A stream that opens counts as `Ok`.
type Answer = (&'static str, Code, String);

/// Calls each of the sixteen RPCs of Dapr 1.18 about `namespace`.
async fn call_all(client: &mut OperatorClient<Channel>, namespace: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    macro_rules! call {
        ($method:ident, $request:expr) => {
            let (code, message) = match client.$method($request).await {
                Ok(_) => (Code::Ok, String::new()),
                Err(status) => (status.code(), status.message().to_owned()),
            };
            answers.push((stringify!($method), code, message));
        };
        ($method:ident, $request:ident of namespace) => {
            call!($method, $request { namespace: namespace.to_owned() })
        };
        ($method:ident, $request:ident by name) => {
            call!($method, $request { name: "x".to_owned(), namespace: namespace.to_owned() })
        };
    }
    call!(list_components, ListComponentsRequest of namespace);
    call!(get_configuration, GetConfigurationRequest by name);
    call!(list_subscriptions, ());
    call!(get_resiliency, GetResiliencyRequest by name);
    call!(list_resiliency, ListResiliencyRequest of namespace);
    call!(list_subscriptions_v2, ListSubscriptionsRequest of namespace);
    call!(list_http_endpoints, ListHttpEndpointsRequest of namespace);
    call!(list_mcp_servers, ListMcpServersRequest of namespace);
    call!(list_workflow_access_policy, ListWorkflowAccessPolicyRequest of namespace);
    call!(component_update, ComponentUpdateRequest of namespace);
    call!(subscription_update, SubscriptionUpdateRequest of namespace);
    call!(http_endpoint_update, HttpEndpointUpdateRequest of namespace);
    call!(mcp_server_update, McpServerUpdateRequest of namespace);
    call!(configuration_update, ConfigurationUpdateRequest of namespace);
    call!(resiliency_update, ResiliencyUpdateRequest of namespace);
    call!(workflow_access_policy_update, WorkflowAccessPolicyUpdateRequest of namespace);
    assert_eq!(answers.len(), 16);
    answers
}

/// One Configuration and one Resiliency `x` in `shop`, so that every call has an object to return.
async fn fixture() -> Fixture {
    let fixture = Fixture::start().await;
    fixture.put(&object("Configuration", "x", "1", &json!({"spec": {}})));
    fixture.put(&object("Resiliency", "x", "1", &json!({"spec": {}})));
    fixture.synced();
    fixture
}

fn assert_served(answers: &[Answer]) {
    for (method, code, message) in answers {
        // The request has no namespace (Dapr 1.18).
        let want = if *method == "list_subscriptions" { Code::PermissionDenied } else { Code::Ok };
        assert_eq!(*code, want, "{method}: {message}");
    }
}

fn assert_refused(answers: &[Answer], why: &str) {
    let nested = "failed to authorize configuration update request: rpc error: \
                  code = PermissionDenied desc = ";
    for (method, code, message) in answers {
        assert_eq!(*code, Code::PermissionDenied, "{method}: {message}");
        let why = match *method {
            "list_subscriptions" => continue,
            "configuration_update" => format!("{nested}{why}"),
            _ => why.to_owned(),
        };
        assert_eq!(*message, why, "{method}");
    }
}

#[tokio::test]
async fn sidecar_of_the_namespace_is_served_whatever_its_trust_domain() {
    let fixture = fixture().await;
    assert_served(&call_all(&mut fixture.client("shop", "orders"), "shop").await);
    let mut other = fixture.client_of_trust_domain("other.example");
    assert_served(&call_all(&mut other, "shop").await);
}

#[tokio::test]
async fn sidecar_of_another_namespace_is_refused_by_name() {
    let fixture = fixture().await;
    for namespace in ["bank", "", "Shop", "shop "] {
        let answers = call_all(&mut fixture.client("shop", "orders"), namespace).await;
        let why = format!("identity does not match requested namespace exp={namespace} got=shop");
        assert_refused(&answers, &why);
    }
}

/// The names of the longest requests fit exactly, one byte more is too much for the shortest.
#[tokio::test]
async fn a_request_is_as_large_as_it_may_be() {
    let fixture = fixture().await;
    let mut client = fixture.client("shop", "orders");
    let (name, rest) = ("x".len() + 2, 4);
    let longest = 64 * 1024 - rest - name;
    for (method, code, message) in call_all(&mut client, &"n".repeat(longest)).await {
        assert_eq!(code, Code::PermissionDenied, "{method}: {message}");
        assert!(message.len() <= 4 * 1024, "{method}: {}", message.len());
    }
    for (method, code, message) in call_all(&mut client, &"n".repeat(longest + name + 1)).await {
        let none = method == "list_subscriptions";
        let want = if none { Code::PermissionDenied } else { Code::OutOfRange };
        assert_eq!(code, want, "{method}: {message}");
    }
    assert_served(&call_all(&mut client, "shop").await);
}

#[tokio::test]
async fn control_plane_id_has_no_more_rights_than_its_namespace() {
    let fixture = fixture().await;
    let mut placement = fixture.client("dapr-system", "dapr-placement");
    let why = "identity does not match requested namespace exp=shop got=dapr-system";
    assert_refused(&call_all(&mut placement, "shop").await, why);
    let own = call_all(&mut placement, "dapr-system").await;
    for (method, code, message) in own {
        let want = match method {
            "list_subscriptions" => Code::PermissionDenied,
            "get_configuration" | "get_resiliency" => Code::NotFound, // `x` is in `shop`
            _ => Code::Ok,
        };
        assert_eq!(code, want, "{method}: {message}");
    }
}

#[tokio::test]
async fn ids_that_name_no_app_of_a_namespace_are_refused() {
    let fixture = fixture().await;
    for id in [
        "spiffe://cluster.local/ns/shop",
        "spiffe://cluster.local/xx/shop/orders",
        "spiffe://cluster.local/a/ns/shop/orders",
    ] {
        let answers = call_all(&mut fixture.client_named(id), "shop").await;
        assert_refused(&answers, "failed to determine identity");
    }
    let more = "spiffe://cluster.local/ns/shop/orders/more/z";
    assert_served(&call_all(&mut fixture.client_named(more), "shop").await);
}

#[tokio::test]
async fn strangers_do_not_get_past_the_handshake() {
    let fixture = fixture().await;
    let broken = |answers: Vec<Answer>| {
        for (method, code, message) in answers {
            // No answer of ours: the client's error for a broken connection.
            assert!(
                matches!(code, Code::Unavailable | Code::Unknown),
                "{method}: {code} {message}"
            );
        }
    };
    broken(call_all(&mut fixture.client_of_another_ca(), "shop").await);
    broken(call_all(&mut fixture.plaintext_client(), "shop").await);
    // With TLS 1.3 the client may see the refusal only with its request.
    if let Ok(mut anonymous) = fixture.anonymous_client().await {
        broken(call_all(&mut anonymous, "shop").await);
    }
    assert_served(&call_all(&mut fixture.client("shop", "orders"), "shop").await);
}
