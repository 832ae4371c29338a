//! The table of secret resolution (Dapr 1.18), kind by kind.
use rstest::rstest;
use serde_json::json;

use super::*;

fn fetched() -> Fetched {
    let data = |pairs: &[(&str, &[u8])]| {
        Ok(Arc::new(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.to_vec())).collect()))
    };
    [
        ("redis".to_owned(), data(&[("password", b"hunter2"), ("redis", b"own"), ("empty", b"")])),
        ("binary".to_owned(), data(&[("key", b"a\xffb")])),
        ("none".to_owned(), data(&[])),
        ("gone".to_owned(), Err(FetchError::NotFound("gone".to_owned()))),
    ]
    .into()
}

/// `spec.metadata[0]` of a Component after filling in.
#[expect(clippy::needless_pass_by_value, reason = "tables hand over literals")]
fn component(item: Value, store: &str) -> Result<Value, FillError> {
    let mut component: Component = serde_json::from_value(json!({
        "metadata": {"name": "c"}, "spec": {"metadata": [item]}, "auth": {"secretStore": store}
    }))
    .unwrap();
    component.fill(&fetched())?;
    Ok(component.spec.metadata.unwrap()[0].value.clone())
}

#[expect(clippy::needless_pass_by_value, reason = "tables hand over literals")]
fn with_ref(name: &str, key: &str, value: Value) -> Value {
    json!({"name": "n", "value": value, "secretKeyRef": {"name": name, "key": key}})
}

#[rstest]
#[case::base64(with_ref("redis", "password", json!(null)), "", json!("aHVudGVyMg=="))]
#[case::named_store(with_ref("redis", "password", json!(null)), "kubernetes", json!("aHVudGVyMg=="))]
#[case::key_defaults_to_name(with_ref("redis", "", json!(null)), "", json!("b3du"))]
#[case::empty_value(with_ref("redis", "empty", json!("x")), "", json!(""))]
#[case::missing_key_keeps_literal(with_ref("redis", "other", json!("x")), "", json!("x"))]
#[case::secret_without_data(with_ref("none", "k", json!("x")), "", json!("x"))]
#[case::no_reference(with_ref("", "", json!(5)), "", json!(5))]
#[case::other_store(with_ref("gone", "k", json!("x")), "vault", json!("x"))]
fn component_values(#[case] item: Value, #[case] store: &str, #[case] want: Value) {
    assert_eq!(component(item, store), Ok(want));
}

#[test]
fn component_with_a_missing_secret_is_an_error() {
    let error = component(with_ref("gone", "k", json!("x")), "").unwrap_err();
    assert_eq!(error.to_string(), r#"Secret "gone" not found"#);
}

#[rstest]
#[case::found("password", json!("aHVudGVyMg=="))]
#[case::missing_key_becomes_null("other", json!(null))]
fn http_endpoint_values(#[case] key: &str, #[case] want: Value) {
    let mut endpoint: HTTPEndpoint = serde_json::from_value(json!({"spec": {
        "headers": [with_ref("redis", key, json!("literal"))],
        "clientTLS": {"privateKey": {"value": "pem", "secretKeyRef": {"name": "redis", "key": key}},
                      "rootCA": {"value": "root"}}
    }}))
    .unwrap();
    assert_eq!(endpoint.needed_secrets(), ["redis", "redis"]);
    endpoint.fill(&fetched()).unwrap();
    let tls = endpoint.spec.client_tls.unwrap();
    assert_eq!(endpoint.spec.headers.unwrap()[0].value, want);
    assert_eq!(tls.private_key.unwrap().value, Some(want));
    assert_eq!(tls.root_ca.unwrap().value, Some(json!("root")));
}

#[rstest]
#[case::streamable(json!({"streamableHTTP": {"headers": [with_ref("redis", "password", json!(null))]}}), 1)]
#[case::sse(json!({"sse": {"headers": [with_ref("redis", "password", json!(null))]}}), 1)]
#[case::stdio(json!({"stdio": {"env": [with_ref("redis", "password", json!(null))]}}), 1)]
#[case::other_store(json!({"sse": {"auth": {"secretStore": "vault"},
    "headers": [with_ref("redis", "password", json!(null))]}}), 0)]
#[case::oauth_is_left_alone(json!({"sse": {"auth": {"oauth2": {"secretKeyRef": {"name": "gone"}}}}}), 0)]
fn mcp_server_values(#[case] endpoint: Value, #[case] needed: usize) {
    let mut server: MCPServer =
        serde_json::from_value(json!({"spec": {"endpoint": endpoint}})).unwrap();
    assert_eq!(server.needed_secrets().len(), needed);
    server.fill(&fetched()).unwrap();
    let text = serde_json::to_string(&server).unwrap();
    assert_eq!(text.contains("aHVudGVyMg=="), needed == 1, "{text}");
}

#[test]
fn mcp_server_error_names_server_and_place() {
    let mut server: MCPServer = serde_json::from_value(json!({
        "metadata": {"name": "m"}, "spec": {"endpoint": {"sse": {"headers": [with_ref("gone", "k", json!(1))]}}}
    }))
    .unwrap();
    assert_eq!(
        server.fill(&fetched()).unwrap_err().to_string(),
        r#"error resolving sse header secret for MCPServer "m": Secret "gone" not found"#
    );
}

#[expect(clippy::needless_pass_by_value, reason = "tables hand over literals")]
fn header(item: Value) -> Result<Value, String> {
    let mut configuration: Configuration =
        serde_json::from_value(json!({"spec": {"tracing": {"otel": {"headers": [item]}}}}))
            .unwrap();
    configuration.fill(&fetched()).map_err(|e| e.to_string())?;
    Ok(configuration.spec.tracing.unwrap().otel.unwrap().headers[0].value.clone())
}

#[rstest]
#[case::plain_text(with_ref("redis", "password", json!(null)), Ok(json!("hunter2")))]
#[case::not_utf8(with_ref("binary", "key", json!(null)), Ok(json!("a\u{fffd}b")))]
#[case::no_key(with_ref("redis", "", json!(null)),
    Err("error processing configuration secrets: secret key is required for header n"))]
#[case::missing_key(with_ref("redis", "k", json!(null)),
    Err("error processing configuration secrets: key k not found in secret redis"))]
#[case::missing_secret(with_ref("gone", "k", json!(null)),
    Err("error processing configuration secrets: failed to get secret gone for header n: Secret \"gone\" not found"))]
fn configuration_headers(#[case] item: Value, #[case] want: Result<Value, &str>) {
    assert_eq!(header(item), want.map_err(str::to_owned));
}
