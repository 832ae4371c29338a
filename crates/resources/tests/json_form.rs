//! The JSON that sidecars receive, member by member (Dapr 1.18: the output of Go's encoder for the
//! same object).
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "test code outside of #[test] functions"
)]
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube_core::{ObjectMeta, Resource as _};
use resources::{
    Component, Configuration, CustomResource, HTTPEndpoint, MCPServer, Resiliency, Subscription,
    SubscriptionV1, WorkflowAccessPolicy, json, trim_metadata,
};
use rstest::rstest;
use serde_json::{Value, json};

/// Decodes `spec` and the members beside it as `T`, prints it, and drops kind and metadata.
fn printed<T: CustomResource>(mut object: Value) -> Value {
    object["metadata"] = json!({"name": "x", "namespace": "y"});
    let typed: T = serde_json::from_value(object).unwrap();
    let mut out: Value = serde_json::from_slice(&json::to_vec(&typed).unwrap()).unwrap();
    let members = out.as_object_mut().unwrap();
    let metadata = members.remove("metadata").unwrap();
    assert_eq!(metadata, json!({"name": "x", "namespace": "y", "creationTimestamp": null}));
    assert_eq!(members.remove("kind").unwrap(), T::KIND);
    assert_eq!(members.remove("apiVersion").unwrap(), format!("dapr.io/{}", T::VERSION));
    out
}

const NO_REF: fn() -> Value = || json!({"name": "", "key": ""});

#[test]
fn prints_the_component_of_the_documentation() {
    let stored = json!({
        "kind": "Component", "apiVersion": "dapr.io/v1alpha1",
        "metadata": {"name": "orders", "namespace": "shop", "generation": 3,
                     "creationTimestamp": "2026-01-02T03:04:05Z"},
        "spec": {"type": "state.redis", "version": "v1", "metadata": [
            {"name": "redisHost", "value": "redis:6379"},
            {"name": "redisPassword", "value": "aHVudGVyMg==",
             "secretKeyRef": {"name": "redis", "key": "password"}},
            {"name": "maxRetries", "value": 5},
            {"name": "token", "envRef": "MY_TOKEN"}]},
        "scopes": ["checkout"]
    });
    let typed: Component = serde_json::from_value(stored).unwrap();
    let got: Value = serde_json::from_slice(&json::to_vec(&typed).unwrap()).unwrap();
    assert_eq!(
        got,
        json!({
            "kind": "Component", "apiVersion": "dapr.io/v1alpha1",
            "metadata": {"name": "orders", "namespace": "shop", "generation": 3,
                         "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"type": "state.redis", "version": "v1", "ignoreErrors": false, "metadata": [
                {"name": "redisHost", "value": "redis:6379", "secretKeyRef": NO_REF()},
                {"name": "redisPassword", "value": "aHVudGVyMg==",
                 "secretKeyRef": {"name": "redis", "key": "password"}},
                {"name": "maxRetries", "value": 5, "secretKeyRef": NO_REF()},
                {"name": "token", "value": null, "secretKeyRef": NO_REF(), "envRef": "MY_TOKEN"}],
                "initTimeout": ""},
            "auth": {"secretStore": ""},
            "scopes": ["checkout"]
        })
    );
}

#[rstest]
#[case::nothing(json!({}), json!({
    "spec": {"type": "", "version": "", "ignoreErrors": false, "metadata": null, "initTimeout": ""},
    "auth": {"secretStore": ""}}))]
#[case::empty_lists(json!({"spec": {"metadata": []}, "scopes": []}), json!({
    "spec": {"type": "", "version": "", "ignoreErrors": false, "metadata": [], "initTimeout": ""},
    "auth": {"secretStore": ""}}))]
#[case::newer_members(json!({"spec": {"flavour": {"a": [1, null]}}, "status": {"ok": true}}), json!({
    "spec": {"type": "", "version": "", "ignoreErrors": false, "metadata": null, "initTimeout": "",
             "flavour": {"a": [1, null]}},
    "auth": {"secretStore": ""}, "status": {"ok": true}}))]
fn components(#[case] stored: Value, #[case] want: Value) {
    assert_eq!(printed::<Component>(stored), want);
}

#[rstest]
#[case::nothing(json!({}), json!({
    "spec": {"baseUrl": "", "headers": null}, "auth": {"secretStore": ""}}))]
#[case::empty_headers(json!({"spec": {"baseUrl": "https://x", "headers": []}}), json!({
    "spec": {"baseUrl": "https://x", "headers": []}, "auth": {"secretStore": ""}}))]
#[case::defaulted_tls(json!({"spec": {"clientTLS": {"renegotiation": "Never"}}}), json!({
    "spec": {"baseUrl": "", "headers": null, "clientTLS": {
        "rootCA": null, "certificate": null, "privateKey": null, "renegotiation": "Never"}},
    "auth": {"secretStore": ""}}))]
#[case::documents(json!({"spec": {"clientTLS": {"rootCA": {}, "certificate": {"value": "PEM"},
        "privateKey": {"secretKeyRef": {"name": "s"}}}}}), json!({
    "spec": {"baseUrl": "", "headers": null, "clientTLS": {
        "rootCA": {}, "certificate": {"value": "PEM"},
        "privateKey": {"secretKeyRef": {"name": "s", "key": ""}}, "renegotiation": null}},
    "auth": {"secretStore": ""}}))]
fn http_endpoints(#[case] stored: Value, #[case] want: Value) {
    assert_eq!(printed::<HTTPEndpoint>(stored), want);
}

#[rstest]
#[case::nothing(json!({}), json!({
    "spec": {"pubsubname": "", "topic": "", "routes": {}, "bulkSubscribe": {"enabled": false}}}))]
#[case::full(json!({"spec": {"pubsubname": "p", "topic": "t", "metadata": {"rawPayload": "true"},
        "routes": {"rules": [{"match": "", "path": "/a"}], "default": "/b"},
        "deadLetterTopic": "d", "bulkSubscribe": {"enabled": true, "maxMessagesCount": 0,
        "maxAwaitDurationMs": 5}}}), json!({
    "spec": {"pubsubname": "p", "topic": "t", "metadata": {"rawPayload": "true"},
        "routes": {"rules": [{"match": "", "path": "/a"}], "default": "/b"},
        "deadLetterTopic": "d", "bulkSubscribe": {"enabled": true, "maxAwaitDurationMs": 5}}}))]
fn subscriptions(#[case] stored: Value, #[case] want: Value) {
    assert_eq!(printed::<Subscription>(stored), want);
}

#[test]
fn old_subscriptions_always_have_a_route() {
    let want = json!({
        "spec": {"pubsubname": "", "topic": "", "route": "", "bulkSubscribe": {"enabled": false}}});
    assert_eq!(printed::<SubscriptionV1>(json!({})), want);
}

#[rstest]
#[case::nothing(json!({}), json!({"spec": {"policies": {}, "targets": {}}}))]
#[case::zeroes(json!({"spec": {"policies": {"timeouts": {}, "retries": {"r": {"maxRetries": 0}, "e": {}},
        "circuitBreakers": {"c": {"maxRequests": 0}}},
        "targets": {"apps": {"a": {"circuitBreakerCacheSize": 0}}, "components": {"s": {}}}}}), json!({
    "spec": {"policies": {"retries": {"r": {"maxRetries": 0}, "e": {}}, "circuitBreakers": {"c": {}}},
        "targets": {"apps": {"a": {}}, "components": {"s": {"inbound": {}, "outbound": {}}}}}}))]
#[case::wide_numbers(json!({"spec": {"policies": {"circuitBreakers": {"c": {"maxRequests": 99_999_999_999_i64}}}}}),
    json!({"spec": {"policies": {"circuitBreakers": {"c": {"maxRequests": 99_999_999_999_i64}}}, "targets": {}}}))]
fn resiliencies(#[case] stored: Value, #[case] want: Value) {
    assert_eq!(printed::<Resiliency>(stored), want);
}

#[rstest]
#[case::nothing(json!({}), json!({"spec": {}}))]
#[case::kept_if_given(json!({"spec": {
        "tracing": {"stdout": false, "otel": {"isSecure": false, "timeout": "0", "headers": []}},
        "metric": {"recordErrorCodes": false, "http": {}, "latencyDistributionBuckets": []},
        "accessControl": {}, "api": {}, "components": {}, "logging": {"apiLogging": {"enabled": false}},
        "wasm": {}, "nameResolution": {"configuration": {}},
        "workflow": {"stateRetentionPolicy": {}, "workflowConcurrencyLimits": [{"maxConcurrent": 0}]}}}),
    json!({"spec": {
        "tracing": {"samplingRate": "", "stdout": false,
            "otel": {"protocol": "", "endpointAddress": "", "isSecure": false, "timeout": "0s"}},
        "metric": {"enabled": null, "recordErrorCodes": false, "http": {}, "latencyDistributionBuckets": []},
        "accessControl": {}, "api": {}, "components": {}, "logging": {"apiLogging": {"enabled": false}},
        "wasm": {}, "nameResolution": {"component": "", "version": "", "configuration": {}},
        "workflow": {"stateRetentionPolicy": {}, "workflowConcurrencyLimits": [{"maxConcurrent": 0}]}}}))]
#[case::dropped_though_given(json!({"spec": {"wasm": {"strictSandbox": false},
        "workflow": {"maxConcurrentWorkflowInvocations": 0}, "features": [],
        "accessControl": {"defaultAction": "", "policies": []}, "api": {"allowed": [], "denied": []},
        "components": {"deny": []}, "metrics": {"enabled": true, "rules": [], "http": {"pathMatching": []}}}}),
    json!({"spec": {"wasm": {}, "workflow": {}, "accessControl": {}, "api": {}, "components": {},
        "metrics": {"enabled": true, "http": {}}}}))]
#[case::always_printed(json!({"spec": {"mtls": {}, "secrets": {}, "httpPipeline": {}, "features": [{}],
        "metrics": {"rules": [{}, {"labels": [{}]}]}, "nameResolution": {},
        "appHttpPipeline": {"handlers": [{"selector": {}}]}, "tracing": {"zipkin": {}}}}),
    json!({"spec": {"mtls": {"enabled": null, "sentryAddress": "", "controlPlaneTrustDomain": ""},
        "secrets": {"scopes": null}, "httpPipeline": {"handlers": null},
        "features": [{"name": "", "enabled": null}],
        "metrics": {"enabled": null, "rules": [{"name": "", "labels": null},
            {"name": "", "labels": [{"name": "", "regex": null}]}]},
        "nameResolution": {"component": "", "version": "", "configuration": null},
        "appHttpPipeline": {"handlers": [{"name": "", "type": "", "selector": {"fields": null}}]},
        "tracing": {"samplingRate": "", "zipkin": {"endpointAddress": ""}}}}))]
#[case::workflow_metrics(json!({"spec": {"metric": {"enabled": true, "workflow": {}},
        "metrics": {"enabled": true, "workflow": {"latencyDistributionBuckets": [],
            "latencyDistributionUnits": "0", "later": [1]}}}}),
    json!({"spec": {"metric": {"enabled": true, "workflow": {}},
        "metrics": {"enabled": true, "workflow": {"latencyDistributionBuckets": [],
            "latencyDistributionUnits": "0s", "later": [1]}}}}))]
fn configurations(#[case] stored: Value, #[case] want: Value) {
    assert_eq!(printed::<Configuration>(stored), want);
}

#[rstest]
#[case::nothing(json!({}), json!({"spec": {"endpoint": {}}}))]
#[case::kept_if_given(json!({"spec": {"endpoint": {"sse": {"url": "http://x", "protocolVersion": "",
        "timeout": "5s", "headers": [], "auth": {"spiffe": {}, "oauth2": {}}}},
        "middleware": {"beforeCallTool": [{"workflow": {}, "mutate": false}], "afterListTools": []},
        "catalog": {"owner": {}, "tags": [], "links": {}}, "ignoreErrors": false}}),
    json!({"spec": {"endpoint": {"sse": {"url": "http://x", "protocolVersion": "",
        "timeout": "5s", "auth": {"spiffe": {}, "oauth2": {"issuer": ""}}}},
        "middleware": {"beforeCallTool": [{"workflow": {"workflowName": ""}, "mutate": false}]},
        "catalog": {"owner": {}}}}))]
#[case::empty_texts_are_kept(json!({"spec": {"endpoint": {"sse": {"url": "u", "auth": {"secretStore": "",
        "oauth2": {"issuer": "i", "audience": "", "clientID": ""}}}}, "catalog": {"displayName": ""}}}),
    json!({"spec": {"endpoint": {"sse": {"url": "u", "auth": {"secretStore": "",
        "oauth2": {"issuer": "i", "audience": "", "clientID": ""}}}}, "catalog": {"displayName": ""}}}))]
#[case::stdio(json!({"spec": {"endpoint": {"stdio": {"args": [], "env": []}}}}),
    json!({"spec": {"endpoint": {"stdio": {"command": ""}}}}))]
fn mcp_servers(#[case] stored: Value, #[case] want: Value) {
    assert_eq!(printed::<MCPServer>(stored), want);
}

#[rstest]
#[case::nothing(json!({"spec": {"rules": []}}), json!({"spec": {}}))]
#[case::rule(json!({"spec": {"rules": [{"workflows": [], "activities": [{"name": "a"}]},
        {"callers": [{"appID": "x"}], "workflows": [{"name": "w", "operations": ["get"]}]}]}}),
    json!({"spec": {"rules": [{"callers": null, "activities": [{"name": "a"}]},
        {"callers": [{"appID": "x"}], "workflows": [{"name": "w", "operations": ["get"]}]}]}}))]
#[case::requirements(json!({"spec": {"rules": [{"callers": [{"appID": "x"}],
        "workflows": [{"name": "w", "operations": ["schedule"], "requires": [{}]}],
        "activities": [{"name": "a", "requires": []}, {"name": "b",
            "requires": [{"eventType": "event.raised", "name": "paid", "appID": "till", "within": "1h"}]}]}]}}),
    json!({"spec": {"rules": [{"callers": [{"appID": "x"}],
        "workflows": [{"name": "w", "operations": ["schedule"],
            "requires": [{"eventType": "", "name": "", "appID": ""}]}],
        "activities": [{"name": "a"}, {"name": "b",
            "requires": [{"eventType": "event.raised", "name": "paid", "appID": "till", "within": "1h"}]}]}]}}))]
fn workflow_access_policies(#[case] stored: Value, #[case] want: Value) {
    assert_eq!(printed::<WorkflowAccessPolicy>(stored), want);
}

#[rstest]
#[case::duration(json!({"spec": {"tracing": {"otel": {"timeout": "1d"}}}}))]
#[case::empty_duration(json!({"spec": {"tracing": {"otel": {"timeout": ""}}}}))]
#[case::wide_int32(json!({"spec": {"workflow": {"maxConcurrentWorkflowInvocations": 3_000_000_000_i64}}}))]
#[case::wrong_type(json!({"spec": {"tracing": {"samplingRate": 1}}}))]
fn what_go_cannot_decode_is_an_error(#[case] stored: Value) {
    assert!(serde_json::from_value::<Configuration>(stored).is_err());
}

#[test]
fn free_form_numbers_keep_their_text() {
    let stored = r#"{"spec":{"metadata":[{"name":"n","value":{"b":9007199254740993,"a":1e+21,"c":100000000000000000000}}]}}"#;
    let typed: Component = serde_json::from_str(stored).unwrap();
    let text = String::from_utf8(json::to_vec(&typed).unwrap()).unwrap();
    assert!(
        text.contains(r#""value":{"b":9007199254740993,"a":1e+21,"c":100000000000000000000}"#),
        "{text}"
    );
}

#[test]
fn debug_shows_no_values() {
    let typed: Component = serde_json::from_value(
        json!({"spec": {"metadata": [{"name": "password", "value": "hunter2"}]}}),
    )
    .unwrap();
    let text = format!("{typed:?}");
    assert!(text.contains("password") && !text.contains("hunter2"), "{text}");
}

#[test]
fn trims_what_no_sidecar_reads() {
    let mut object = Component::default();
    let annotations = [("kubectl.kubernetes.io/last-applied-configuration", "{}"), ("team", "a")];
    *object.meta_mut() = ObjectMeta {
        managed_fields: Some(vec![ManagedFieldsEntry::default()]),
        annotations: Some(annotations.map(|(k, v)| (k.into(), v.into())).into()),
        ..ObjectMeta::default()
    };
    trim_metadata(object.meta_mut());
    assert_eq!(object.metadata.managed_fields, None);
    assert_eq!(object.metadata.annotations, Some([("team".into(), "a".into())].into()));
}

#[rstest]
#[case::unscoped(json!([]), true)]
#[case::listed(json!(["a", "checkout"]), true)]
#[case::others_only(json!(["a"]), false)]
#[case::other_case(json!(["Checkout"]), false)]
fn scopes_name_apps_exactly(#[case] scopes: Value, #[case] visible: bool) {
    let object: Component = serde_json::from_value(json!({ "scopes": scopes })).unwrap();
    assert_eq!(object.in_scope("checkout"), visible);
}
