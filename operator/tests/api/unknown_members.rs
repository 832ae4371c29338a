//! Unknown members reach the sidecar, and events have no type.
use proto::operator::{
    ComponentUpdateRequest, ConfigurationUpdateRequest, GetConfigurationRequest,
    HttpEndpointUpdateRequest, ListComponentsRequest, ListHttpEndpointsRequest,
    ListMcpServersRequest, ListResiliencyRequest, ListSubscriptionsRequest,
    ListWorkflowAccessPolicyRequest, McpServerUpdateRequest, ResiliencyUpdateRequest,
    SubscriptionUpdateRequest, WorkflowAccessPolicyUpdateRequest,
};
use serde_json::{Value, json};

use crate::fixture::{Fixture, KINDS, object};

const NAMESPACE: &str = "shop";

/// An unknown member, with a number whose text must not change.
fn future() -> Value {
    json!({"list": [1, "x", null], "number": 1.5})
}

/// An object of the kind with an unknown member at every level.
fn sample(kind: &str) -> Value {
    let future = future();
    let spec = match kind {
        "Component" => json!({"type": "state.redis", "version": "v1", "future": future,
            "metadata": [{"name": "a", "value": "b", "future": future}]}),
        "Configuration" => json!({"future": future,
            "mtls": {"enabled": true, "sentryAddress": "s", "controlPlaneTrustDomain": "d",
                "future": future},
            "tracing": {"samplingRate": "1", "future": future},
            "metric": {"enabled": true, "future": future, "workflow": {
                "latencyDistributionBuckets": [], "latencyDistributionUnits": "10ms",
                "future": future}},
            "metrics": {"enabled": true, "workflow": {"future": future}}}),
        "Subscription" => json!({"pubsubname": "p", "topic": "t", "future": future,
            "routes": {"default": "/a", "rules": [{"match": "", "path": "/b", "future": future}],
                "future": future},
            "bulkSubscribe": {"enabled": false, "future": future}}),
        "Resiliency" => json!({"future": future,
            "policies": {"retries": {"r": {"policy": "constant", "future": future}},
                "future": future},
            "targets": {"apps": {"a": {"retry": "r", "future": future}}, "future": future}}),
        "HTTPEndpoint" => json!({"baseUrl": "http://a", "future": future,
            "headers": [{"name": "a", "value": "b", "future": future}],
            "clientTLS": {"rootCA": {"value": "c", "future": future}, "future": future}}),
        "MCPServer" => json!({"future": future, "endpoint": {"future": future,
            "streamableHTTP": {"url": "http://a", "future": future,
                "headers": [{"name": "a", "value": "b", "future": future}],
                "auth": {"secretStore": "kubernetes", "future": future}}}}),
        "WorkflowAccessPolicy" => {
            let requires = json!([{"eventType": "activity.completed", "name": "pay",
                "appID": "bills", "future": future}]);
            json!({"defaultAction": "deny", "future": future, "rules": [{"future": future,
                "callers": [{"appID": "a", "future": future}],
                "workflows": [{"name": "w", "operations": ["schedule"], "requires": requires,
                    "future": future}],
                "activities": [{"name": "b", "requires": requires, "future": future}]}]})
        }
        other => unreachable!("no sample of {other}"),
    };
    let mut sample = object(kind, "sample", "1", &json!({"spec": spec, "future": future}));
    if kind == "Subscription" {
        sample["apiVersion"] = json!("dapr.io/v2alpha1");
    }
    sample
}

/// Asserts that `got` has every member of `want`; it may have others, which are always printed.
fn assert_contains(got: &Value, want: &Value, path: &str) {
    match (got, want) {
        (Value::Object(got), Value::Object(want)) => {
            for (name, value) in want {
                let member = got.get(name).unwrap_or_else(|| panic!("{path}.{name} is missing"));
                assert_contains(member, value, &format!("{path}.{name}"));
            }
        }
        (Value::Array(got), Value::Array(want)) => {
            assert_eq!(got.len(), want.len(), "{path}");
            for (index, (got, want)) in got.iter().zip(want).enumerate() {
                assert_contains(got, want, &format!("{path}[{index}]"));
            }
        }
        _ => assert_eq!(got, want, "{path}"),
    }
}

/// The object `sample` as a list or get returns it.
async fn listed(fixture: &Fixture, kind: &str) -> Value {
    let mut client = fixture.client(NAMESPACE, "orders");
    let namespace = NAMESPACE.to_owned();
    macro_rules! list {
        ($method:ident, $request:ident, $member:ident) => {{
            let response = client.$method($request { namespace }).await.unwrap().into_inner();
            response.$member[0].clone()
        }};
    }
    let body = match kind {
        "Component" => list!(list_components, ListComponentsRequest, components),
        "Configuration" => {
            let request = GetConfigurationRequest { name: "sample".to_owned(), namespace };
            client.get_configuration(request).await.unwrap().into_inner().configuration
        }
        "Subscription" => list!(list_subscriptions_v2, ListSubscriptionsRequest, subscriptions),
        "Resiliency" => list!(list_resiliency, ListResiliencyRequest, resiliencies),
        "HTTPEndpoint" => list!(list_http_endpoints, ListHttpEndpointsRequest, http_endpoints),
        "MCPServer" => list!(list_mcp_servers, ListMcpServersRequest, mcp_servers),
        _ => list!(list_workflow_access_policy, ListWorkflowAccessPolicyRequest, policies),
    };
    serde_json::from_slice(&body).unwrap()
}

/// The object `sample` as its stream sends it when `change` is made.
async fn streamed(fixture: &Fixture, kind: &str, change: impl FnOnce()) -> Value {
    let mut client = fixture.client(NAMESPACE, "orders");
    let namespace = NAMESPACE.to_owned();
    macro_rules! next {
        ($method:ident, $request:ident, $member:ident) => {{
            let response = client.$method($request { namespace }).await.unwrap();
            change();
            response.into_inner().message().await.unwrap().unwrap().$member
        }};
    }
    let body = match kind {
        "Component" => next!(component_update, ComponentUpdateRequest, component),
        "Configuration" => {
            next!(configuration_update, ConfigurationUpdateRequest, configuration)
        }
        "Subscription" => next!(subscription_update, SubscriptionUpdateRequest, subscription),
        "Resiliency" => next!(resiliency_update, ResiliencyUpdateRequest, resiliency),
        "HTTPEndpoint" => {
            next!(http_endpoint_update, HttpEndpointUpdateRequest, http_endpoints)
        }
        "MCPServer" => next!(mcp_server_update, McpServerUpdateRequest, mcp_server),
        _ => {
            next!(workflow_access_policy_update, WorkflowAccessPolicyUpdateRequest, policy)
        }
    };
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test]
async fn unknown_members_of_every_kind_reach_the_sidecar_by_list_and_stream() {
    let fixture = Fixture::start().await;
    fixture.pod("orders-1", &[("enabled", "true"), ("app-id", "orders"), ("config", "sample")]);
    fixture.synced();
    for kind in KINDS {
        let sample = sample(kind);
        let mut event = streamed(&fixture, kind, || fixture.put(&sample)).await;
        let list = listed(&fixture, kind).await;
        assert_contains(&list["spec"], &sample["spec"], kind);
        assert_eq!(list["kind"], kind);
        assert_eq!(list["apiVersion"], sample["apiVersion"]);

        let members = event.as_object_mut().unwrap();
        assert!(!members.contains_key("kind") && !members.contains_key("apiVersion"), "{kind}");
        members.insert("kind".to_owned(), list["kind"].clone());
        members.insert("apiVersion".to_owned(), list["apiVersion"].clone());
        assert_eq!(event, list, "apart from its type the event equals the list");
    }
}

#[tokio::test]
async fn deleted_objects_have_no_type_either() {
    let fixture = Fixture::start().await;
    fixture.pod("orders-1", &[("enabled", "true"), ("app-id", "orders"), ("config", "sample")]);
    for kind in KINDS {
        fixture.put(&sample(kind));
    }
    fixture.synced();
    for kind in KINDS {
        let event = streamed(&fixture, kind, || fixture.delete(&sample(kind))).await;
        assert!(event.get("kind").is_none() && event.get("apiVersion").is_none(), "{kind}");
        assert_eq!(event["metadata"]["name"], "sample");
    }
}
