//! Checks of the scopes and Secrets of kinds other than Component.
//!
//! Pure, and advice as [`checks`](crate::advice::checks).
use crate::advice::checks::{
    CheckContext, Finding, Reason, missing_secret_store, scope_findings, secret_finding,
};
use crate::secrets::resolution::ServedKind;

/// Runs all checks of an object.
pub(crate) fn check<K: ServedKind>(object: &K, context: &CheckContext<'_>) -> Vec<Finding> {
    let mut findings = scope_findings(object, context);
    let references = object.references();
    let mut named = references.into_iter().filter(|reference| !reference.name.is_empty());
    if let Some(store) = object.other_store() {
        findings.extend(named.next().and_then(|_| missing_secret_store(store, context)));
    } else {
        findings.extend(named.filter_map(|reference| {
            if !K::KEY_IS_OPTIONAL && reference.key.is_empty() {
                let note = format!("the reference to Secret {:?} needs a key", reference.name);
                return Some(Finding { reason: Reason::SecretKeyNotFound, note });
            }
            secret_finding(reference, "is referenced", context)
        }));
        findings.dedup();
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use resources::{Component, HTTPEndpoint, MCPServer};
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::secrets::resolution::FetchError;

    const CREATED: &str = "2026-01-01T00:00:00Z";

    fn found<K: ServedKind>(more: &Value, seconds: i64) -> Vec<String> {
        let metadata = json!({"name": "o", "namespace": "n", "creationTimestamp": CREATED});
        let mut object = json!({"metadata": metadata, "spec": {}});
        json_patch::merge(&mut object, more);
        let object: K = serde_json::from_value(object).unwrap();
        let data = Arc::new([("password".to_owned(), b"hunter2".to_vec())].into());
        let secrets = [
            ("redis".to_owned(), Ok(data)),
            ("gone".to_owned(), Err(FetchError::NotFound("gone".to_owned()))),
            (
                "slow".to_owned(),
                Err(FetchError::Failed { name: "slow".into(), reason: "x".into() }),
            ),
        ];
        let store: Component = serde_json::from_value(json!({"metadata": {"name": "vault"},
            "spec": {"type": "secretstores.hashicorp.vault"}}))
        .unwrap();
        let created: jiff::Timestamp = CREATED.parse().unwrap();
        let apps: BTreeSet<String> = ["orders".to_owned()].into();
        let context = CheckContext {
            components: vec![&store],
            apps: Some(apps),
            secrets: &secrets.into(),
            now: created + jiff::SignedDuration::from_secs(seconds),
        };
        let findings = check(&object, &context);
        findings.into_iter().map(|f| format!("{}: {}", f.reason.text(), f.note)).collect()
    }

    #[test]
    fn scopes_of_every_kind_are_checked() {
        let scopes = json!({"scopes": ["orders", "oders"]});
        let want =
            ["UnknownScope: no pod or workload in this namespace has app id \"oders\"; did \
                     you mean orders?"];
        assert_eq!(found::<resources::Subscription>(&scopes, 120), want);
        assert_eq!(found::<resources::Resiliency>(&scopes, 120), want);
        assert_eq!(found::<HTTPEndpoint>(&scopes, 120), want);
        assert_eq!(found::<MCPServer>(&scopes, 120), want);
        assert_eq!(found::<resources::WorkflowAccessPolicy>(&scopes, 120), want);
        assert_eq!(found::<HTTPEndpoint>(&scopes, 119), [""; 0], "the app may come later");
        assert_eq!(found::<resources::Configuration>(&scopes, 120), [""; 0], "it has no scopes");
    }

    #[rstest]
    #[case::present(json!({"name": "redis", "key": "password"}), "")]
    #[case::no_secret(json!({"name": "gone", "key": "k"}), "SecretNotFound: Secret \"gone\" not found")]
    #[case::no_key(json!({"name": "redis", "key": "pass"}),
        "SecretKeyNotFound: Secret \"redis\" has no key \"pass\", which is referenced")]
    #[case::not_read(json!({"name": "slow", "key": "k"}), "")]
    fn secrets_of_endpoints_and_servers_are_checked(#[case] reference: Value, #[case] want: &str) {
        let headers = json!([{"name": "h", "secretKeyRef": reference}]);
        let endpoint = found::<HTTPEndpoint>(&json!({"spec": {"headers": headers}}), 0).join("|");
        assert_eq!(endpoint, want);
        let tls = json!({"spec": {"clientTLS": {"rootCA": {"secretKeyRef": reference}}}});
        assert_eq!(found::<HTTPEndpoint>(&tls, 0).join("|"), want);
        for transport in ["streamableHTTP", "sse"] {
            let server = json!({"spec": {"endpoint": {transport: {"headers": headers}}}});
            assert_eq!(found::<MCPServer>(&server, 0).join("|"), want, "{transport}");
        }
        let tracing = json!({"spec": {"tracing": {"otel": {"headers": headers}}}});
        assert_eq!(found::<resources::Configuration>(&tracing, 0).join("|"), want);
    }

    #[test]
    fn a_tracing_header_needs_a_key() {
        let reference = json!({"name": "redis"});
        let headers = json!([{"name": "h", "secretKeyRef": reference}]);
        let tracing = json!({"spec": {"tracing": {"otel": {"headers": headers}}}});
        let want = ["SecretKeyNotFound: the reference to Secret \"redis\" needs a key"];
        assert_eq!(found::<resources::Configuration>(&tracing, 0), want);
        let want =
            ["SecretKeyNotFound: Secret \"redis\" has no key \"redis\", which is referenced"];
        assert_eq!(found::<HTTPEndpoint>(&json!({"spec": {"headers": headers}}), 0), want);
    }

    #[rstest]
    #[case::built_in("kubernetes", "SecretNotFound: Secret \"gone\" not found")]
    #[case::component("vault", "")]
    #[case::misspelt(
        "valt",
        "SecretStoreNotFound: secret store \"valt\" does not exist in this namespace"
    )]
    fn secret_stores_of_endpoints_and_servers_are_checked(#[case] store: &str, #[case] want: &str) {
        let headers = json!([{"name": "h", "secretKeyRef": {"name": "gone", "key": "k"}}]);
        let endpoint = json!({"auth": {"secretStore": store}, "spec": {"headers": headers}});
        assert_eq!(found::<HTTPEndpoint>(&endpoint, 0).join("|"), want);
        let http = json!({"headers": headers, "auth": {"secretStore": store}});
        let server = json!({"spec": {"endpoint": {"streamableHTTP": http}}});
        assert_eq!(found::<MCPServer>(&server, 0).join("|"), want);
        let nothing = json!({"auth": {"secretStore": store}, "spec": {}});
        assert_eq!(found::<HTTPEndpoint>(&nothing, 0), [""; 0], "it references nothing");
    }
}
