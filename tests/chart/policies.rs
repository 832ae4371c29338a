//! The admission policies of the custom resources on a real API server.
#![expect(
    clippy::needless_pass_by_value,
    reason = "tables of literals read better without borrows"
)]

use anyhow::Result;
use blackbox::{ApiCluster, Deadline, until};
use serde_json::{Value, json};

use crate::cluster::{alone, api};
use crate::helm::{Objects, REGISTRY, template};

fn object(kind: &str, version: &str, spec: &Value) -> Value {
    json!({"apiVersion": format!("dapr.io/{version}"), "kind": kind,
        "metadata": {"name": "object"}, "spec": spec})
}

fn component(spec: Value) -> Value {
    let mut all = json!({"type": "state.redis", "version": "v1", "metadata": []});
    json_merge(&mut all, spec);
    object("Component", "v1alpha1", &all)
}

/// A Component with one item of metadata, its value as text.
fn plain(name: &str, value: &str) -> Value {
    component(json!({"metadata": [{"name": name, "value": value}]}))
}

fn configuration(spec: Value) -> Value {
    object("Configuration", "v1alpha1", &spec)
}

fn resiliency(policies: Value, targets: Value) -> Value {
    object("Resiliency", "v1alpha1", &json!({"policies": policies, "targets": targets}))
}

fn otel(timeout: &str) -> Value {
    configuration(json!({"tracing": {"samplingRate": "1", "otel": {"protocol": "grpc",
        "endpointAddress": "c:1", "isSecure": false, "timeout": timeout}}}))
}

fn subscription(version: &str, route: Value) -> Value {
    let mut spec = json!({"pubsubname": "p", "topic": "t"});
    json_merge(&mut spec, route);
    object("Subscription", version, &spec)
}

fn mcp_server(endpoint: Value) -> Value {
    object("MCPServer", "v1alpha1", &json!({ "endpoint": endpoint }))
}

fn json_merge(into: &mut Value, members: Value) {
    if let (Some(into), Value::Object(members)) = (into.as_object_mut(), members) {
        into.extend(members);
    }
}

/// Objects with a mistake, and a part of the warning.
fn doubtful() -> Vec<(Value, &'static str)> {
    vec![
        (component(json!({"initTimeout": "5"})), "initTimeout is no duration"),
        (plain("redisPassword", "x"), "plain text"),
        (plain("secretKey", "x"), "plain text"),
        (plain("connectionString", "host=db user=a Password = 'x'"), "plain text"),
        (plain("connectionString", "Server=db;User Id=a;Pwd=x;"), "plain text"),
        (plain("connectionString", "amqp://a:x@mq:5672"), "plain text"),
        (plain("connectionString", "a:x@tcp(db:3306)/"), "plain text"),
        (plain("connectionString", "AccountName=a;AccountKey=x=="), "plain text"),
        (
            plain("connectionString", "Endpoint=sb://a/;SharedAccessKeyName=b;SharedAccessKey=x"),
            "plain text",
        ),
        (plain("connectionString", "Endpoint=https://a;Id=b;Secret=x"), "plain text"),
        (plain("storageConnectionString", "AccountKey=x"), "plain text"),
        (plain("url", "tcp://a:x@mqtt:1883"), "plain text"),
        (otel("1d"), "tracing.otel.timeout is no duration"),
        (otel(""), "tracing.otel.timeout is no duration"),
        (
            configuration(json!({"workflow": {"stateRetentionPolicy": {"failed": "7d"}}})),
            "stateRetentionPolicy is no duration",
        ),
        (
            configuration(json!({"accessControl": {"defaultAction": "block"}})),
            "neither allow nor deny",
        ),
        (
            configuration(json!({"secrets": {"scopes": [{"storeName": "a"}, {"storeName": "a"}]}})),
            "names a store twice",
        ),
        (
            configuration(
                json!({"secrets": {"scopes": [{"storeName": "a", "defaultAccess": "no"}]}}),
            ),
            "a defaultAccess of spec.secrets.scopes",
        ),
        (configuration(json!({"metric": {"enabled": false}})), "set spec.metrics.enabled"),
        (
            resiliency(json!({"retries": {"r": {"policy": "linear"}}}), json!({})),
            "neither constant nor exponential",
        ),
        (resiliency(json!({"timeouts": {"t": "soon"}}), json!({})), "a timeout is neither"),
        (
            resiliency(json!({"retries": {"r": {}}}), json!({"apps": {"a": {"retry": "q"}}})),
            "names a retry",
        ),
        (resiliency(json!({}), json!({"actors": {"a": {"timeout": "q"}}})), "names a timeout"),
        (
            resiliency(
                json!({}),
                json!({"components": {"a": {"outbound": {"circuitBreaker": "q"}}}}),
            ),
            "names a circuit breaker",
        ),
        (
            subscription("v2alpha1", json!({"pubsubname": "", "routes": {"default": "a"}})),
            "pubsubname is empty",
        ),
        (object("HTTPEndpoint", "v1alpha1", &json!({"baseUrl": "example.com"})), "no http://"),
        (mcp_server(json!({"stdio": {"command": "ls"}})), "stdio is refused"),
        (
            mcp_server(json!({"streamableHTTP": {"url": "http://a", "timeout": "5"}})),
            "timeout is no duration",
        ),
    ]
}

/// Objects without a mistake.
fn good() -> Vec<Value> {
    vec![
        component(json!({"initTimeout": "1m30s", "metadata": [
    {"name": "redisPassword", "secretKeyRef": {"name": "redis", "key": "password"}},
    {"name": "poolSize", "value": 5}, {"name": "redisHost", "value": "r:6379"}]})),
        json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": "bare"}}),
        // Case 11: no secret in it. Sidecars connect by certificate, Azure AD or without
        // authentication.
        plain("password", ""),
        plain("accessKey", "identifier-of-an-aws-key"),
        plain("connectionString", "data.db"),
        plain("connectionString", "file:a:b@c.db?mode=memory"),
        plain("connectionString", "amqps://mq.orchard:5671"),
        plain("connectionString", "mongodb://a:1,b:2/?tlsUser=c@d"),
        plain("connectionString", "mongodb://user:@a"),
        plain("connectionString", "root@tcp(db:3306)/?allowNativePasswords=false"),
        plain(
            "connectionString",
            "host=db user=a@b.c port=5432 passfile=/a sslkey=/b password='' dbname=d",
        ),
        plain(
            "connectionString",
            "Server=db;Authentication=ActiveDirectoryPassword;Password=;Database=d",
        ),
        plain("connectionString", "Endpoint=https://a;AuthType=azure.msi;Version=1.0"),
        plain("connectionString", "Endpoint=sb://a/;SharedAccessKeyName=b;EntityPath=c"),
        plain("url", "https://example.com/users:all@once"),
        component(json!({"metadata": [{"name": "connectionString", "envRef": "DATABASE"}]})),
        // The spellings that Go and sidecars read (asked of daprd 1.18).
        component(json!({"initTimeout": ".5s"})),
        component(json!({"initTimeout": "-1.h30m"})),
        configuration(json!({"accessControl": {"defaultAction": "Allow"}})),
        resiliency(
            json!({"retries": {"r": {"policy": "Constant"}}, "timeouts": {"t": "+1.s"}}),
            json!({}),
        ),
        object("HTTPEndpoint", "v1alpha1", &json!({"baseUrl": "HTTPS://example.com"})),
        // Case 08: sidecars call a path with or without a slash; gRPC apps have none.
        subscription("v1alpha1", json!({"route": "orders"})),
        subscription("v1alpha1", json!({"route": ""})),
        subscription(
            "v2alpha1",
            json!({"routes": {"default": "other", "rules": [{"match": "", "path": "my.D"}]}}),
        ),
        otel("1.5s"),
        configuration(json!({"metric": {"enabled": false}, "metrics": {"enabled": false},
    "accessControl": {"defaultAction": "deny"}, "secrets": {"scopes": [{"storeName": "a"}]},
    "workflow": {"stateRetentionPolicy": {"failed": "720h"}}})),
        resiliency(
            json!({"retries": {"r": {"policy": "exponential"}}, "timeouts": {"t": "5s", "u": "500"},
           "circuitBreakers": {"b": {"maxRequests": 1}}}),
            json!({"apps": {"a": {"retry": "r", "timeout": "t", "circuitBreaker": "b"}},
           "actors": {"x": {"retry": "DaprBuiltInActorRetries"}},
           "components": {"c": {"inbound": {"timeout": "u"}, "outbound": {"retry": "r"}}}}),
        ),
        resiliency(json!({}), json!({})),
        subscription("v2alpha1", json!({"routes": {"default": "/orders"}})),
        object("HTTPEndpoint", "v1alpha1", &json!({"baseUrl": "https://example.com:8443/a"})),
        mcp_server(json!({"streamableHTTP": {"url": "http://a", "timeout": "30s"}})),
    ]
}

/// The objects of cases 08 and 11.
fn cases() -> Result<Vec<Value>> {
    let files = [
        include_str!("../fixtures/cases/08-subscription-paths-without-slash/subscriptions.yaml"),
        include_str!("../fixtures/cases/11-not-a-password/components.yaml"),
    ];
    let mut objects = Vec::new();
    for text in files {
        let here = text.replace("namespace: orchard", "namespace: default");
        objects.extend(serde_saphyr::from_multiple::<Value>(&here)?);
    }
    Ok(objects)
}

#[test]
fn objects_with_a_mistake_are_named_and_others_admitted() -> Result<()> {
    let _alone = alone();
    let api = api()?;
    let policies = rendered()?;
    api.apply(&policies)?;
    let outcome = judge_all(api);
    api.cluster().kubectl_with_input(&["delete", "-f", "-"], &policies)?; // others install the chart
    outcome
}

fn judge_all(api: &ApiCluster) -> Result<()> {
    for (object, want) in doubtful() {
        // The API server takes a moment to compile a policy.
        let said = until(Deadline::seconds(60), &format!("a refusal of {object}"), || {
            refusal(api, &object)
        })?;
        anyhow::ensure!(said.contains(want), "{want:?} is not in: {said}");
    }
    for object in good().into_iter().chain(cases()?) {
        let said = refusal(api, &object)?;
        anyhow::ensure!(said.is_none(), "{object}: {said:?}");
    }
    Ok(())
}

#[test]
fn by_default_nothing_is_refused() -> Result<()> {
    let objects = Objects::render(&[])?;
    let ours = |name: &&String| name.starts_with("ValidatingAdmissionPolicyBinding/dapr-");
    let bindings: Vec<_> = objects.0.keys().filter(ours).collect();
    assert_eq!(bindings.len(), 11, "six kinds, the guard and our four accounts: {bindings:?}");
    for name in bindings {
        let denies = name.ends_with("/dapr-sidecar-guard") || name.contains("/dapr-accounts-");
        let want = if denies { json!(["Deny"]) } else { json!(["Warn", "Audit"]) };
        assert_eq!(objects.get(name)?["spec"]["validationActions"], want, "{name}");
    }
    let off = Objects::render(&["global.resourcePolicies.enabled=false"])?;
    assert!(!off.0.contains_key("ValidatingAdmissionPolicy/dapr-components"));
    Ok(())
}

/// The policies as denials, which say the same as warnings.
fn rendered() -> Result<String> {
    let rendered = template(&[REGISTRY, "global.resourcePolicies.action=Deny"])?;
    let is_ours = |document: &&str| {
        document.contains("\nkind: ValidatingAdmissionPolicy")
            && !document.contains("dapr-sidecar-guard")
            && !document.contains("name: dapr-accounts-")
    };
    let ours: Vec<&str> = rendered.split("\n---\n").filter(is_ours).collect();
    anyhow::ensure!(ours.len() == 12, "six policies with their bindings, not {}", ours.len());
    Ok(ours.join("\n---\n"))
}

/// The message of the policy that denies an object; `None` when it is admitted.
fn refusal(api: &ApiCluster, object: &Value) -> Result<Option<String>> {
    let args = ["create", "--dry-run=server", "-n", "default", "-f", "-"];
    match api.cluster().kubectl_with_input(&args, &object.to_string()) {
        Ok(_) => Ok(None),
        Err(error) => {
            let text = format!("{error:#}");
            if text.contains("ValidatingAdmissionPolicy 'dapr-") {
                Ok(Some(text))
            } else if text.contains("conversion webhook for dapr.io/v1alpha1") {
                Ok(None) // no operator runs; the object is converted after the policies admitted it
            } else {
                Err(error)
            }
        }
    }
}
