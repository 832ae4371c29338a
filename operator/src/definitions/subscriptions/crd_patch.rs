//! The JSON Patch that points the Subscription CRD at the conversion webhook.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// The CRD whose versions the operator converts.
pub(crate) const CRD: &str = "subscriptions.dapr.io";
/// The Service of the webhook (Dapr 1.18).
pub(crate) const SERVICE: &str = "dapr-webhook";
/// The path of the webhook (Dapr 1.18).
pub(crate) const PATH: &str = "/convert";

const CLIENT_CONFIG: &str = "/spec/conversion/webhook/clientConfig";
/// JSON pointer to the namespace of the webhook's Service (RFC 6901).
pub(crate) const SERVICE_NAMESPACE: &str =
    "/spec/conversion/webhook/clientConfig/service/namespace";

/// The CRD does not use a conversion webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CRD {CRD} has no conversion webhook (spec.conversion.webhook.clientConfig)")]
pub(crate) struct NoWebhook;

/// The JSON Patch (RFC 6902) that sets the webhook in `namespace` and its CA bundle, `anchors` (PEM).
/// Empty when `crd` is up to date. A URL instead of a Service is kept.
///
/// # Errors
/// [`NoWebhook`] when the CRD converts without a webhook.
pub(crate) fn patch(crd: &Value, namespace: &str, anchors: &str) -> Result<Vec<Value>, NoWebhook> {
    let client = crd.pointer(CLIENT_CONFIG).and_then(Value::as_object).ok_or(NoWebhook)?;
    let mut operations = Vec::new();
    // `add` replaces too; `replace` of an absent member is an error (RFC 6902 §4.3).
    let mut add = |path: &str, value: Value| {
        let path = format!("{CLIENT_CONFIG}{path}");
        operations.push(json!({"op": "add", "path": path, "value": value}));
    };
    match client.get("service").filter(|service| service.is_object()) {
        Some(service) if service.get("namespace").and_then(Value::as_str) == Some(namespace) => {}
        Some(_) => add("/service/namespace", json!(namespace)),
        None if client.contains_key("url") => {}
        None => add("/service", json!({"name": SERVICE, "namespace": namespace, "path": PATH})),
    }
    let bundle = STANDARD.encode(anchors);
    if client.get("caBundle").and_then(Value::as_str) != Some(&bundle) {
        add("/caBundle", json!(bundle));
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crd(client: &Value) -> Value {
        json!({"spec": {"conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client}}}})
    }

    fn applied(client: &Value) -> Value {
        let mut crd = crd(client);
        let operations = patch(&crd, "dapr-system", "PEM").unwrap();
        let operations: json_patch::Patch = serde_json::from_value(json!(operations)).unwrap();
        json_patch::patch(&mut crd, &operations).unwrap();
        crd.pointer(CLIENT_CONFIG).unwrap().clone()
    }

    fn wanted() -> Value {
        json!({"service": {"name": "dapr-webhook", "namespace": "dapr-system", "path": "/convert"},
               "caBundle": "UEVN"})
    }

    #[rstest::rstest]
    #[case::as_installed(json!({"service": {"name": "dapr-webhook", "namespace": "replaceme", "path": "/convert"}}))]
    #[case::empty(json!({}))]
    #[case::old_bundle(json!({"service": {"name": "dapr-webhook", "namespace": "dapr-system",
        "path": "/convert"}, "caBundle": "b2xk"}))]
    #[case::up_to_date(wanted())]
    fn patches_every_form(#[case] client: Value) {
        assert_eq!(applied(&client), wanted());
    }

    #[test]
    fn up_to_date_crd_needs_no_patch() {
        assert_eq!(patch(&crd(&wanted()), "dapr-system", "PEM"), Ok(Vec::new()));
    }

    #[test]
    fn url_is_kept() {
        let client = json!({"url": "https://localhost:19443/convert"});
        assert_eq!(applied(&client)["url"], client["url"]);
        assert!(applied(&client).get("service").is_none());
    }

    #[rstest::rstest]
    #[case(json!({}))]
    #[case(json!({"spec": {"conversion": {"strategy": "None"}}}))]
    #[case(json!({"spec": {"conversion": {"webhook": null}}}))]
    fn crd_without_webhook_is_an_error(#[case] crd: Value) {
        assert_eq!(patch(&crd, "n", "PEM"), Err(NoWebhook));
    }
}
