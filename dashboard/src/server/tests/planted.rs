//! A secret in every place where people put one, and all pages that show such an object.

use super::*;

/// Where [`PLANTED`] is in an object of each kind. Text in a place without a name for secrets looks
/// like one.
fn resources() -> Vec<(Kind, Value)> {
    let metadata = json!({"namespace": "shop", "name": "planted",
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": PLANTED},
        "managedFields": [{"fieldsV1": {PLANTED: {}}}]});
    let login = format!("https://user:{PLANTED}@host/");
    let headers = json!([{"name": "X-Any", "value": PLANTED}]);
    let specs = [
        (
            Kind::Component,
            json!({"type": "state.redis", "version": "v1", "metadata": [
                {"name": "redisHost", "value": login}, {"name": "redisPassword", "value": PLANTED},
                {"name": "unknown", "value": PLANTED},
                {"name": "list", "value": {"deep": [PLANTED]}}]}),
        ),
        (
            Kind::Subscription,
            json!({"topic": "orders", "pubsubname": "bus", "routes": {"default": "/orders"},
                "metadata": {"password": PLANTED, "authorization": PLANTED, "url": login}}),
        ),
        (
            Kind::Configuration,
            json!({"tracing": {"otel": {"endpointAddress": login, "headers": headers},
                    "zipkin": {"endpointAddress": login}},
                "metric": {"http": {"token": PLANTED}}}),
        ),
        (Kind::Resiliency, json!({"policies": {"retries": {"one": {"password": PLANTED}}}})),
        (
            Kind::HttpEndpoint,
            json!({"baseUrl": login, "headers": headers, "clientTLS": {
                "privateKey": {"value": PLANTED}, "certificate": {"value": PLANTED}}}),
        ),
        (
            Kind::WorkflowAccessPolicy,
            json!({"rules": [{"callers": [{"appID": "cart", "token": PLANTED}]}]}),
        ),
        (
            Kind::McpServer,
            json!({"endpoint": {
                "stdio": {"command": "mcp", "args": ["--any", PLANTED],
                    "env": [{"name": "ANY", "value": PLANTED}]},
                "sse": {"url": login, "headers": headers}}}),
        ),
    ];
    let object = |(kind, spec): (Kind, Value)| {
        let status = json!({"conditions": [{"message": PLANTED}]});
        (kind, json!({"metadata": metadata, "spec": spec, "status": status}))
    };
    specs.into_iter().map(object).collect()
}

fn pods() -> [Value; 2] {
    let environment = json!([{"name": "A", "value": PLANTED}]);
    let status = |name: &str| {
        json!({"phase": "Running", "message": PLANTED, "containerStatuses": [{"name": name,
            "ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": PLANTED}}}]})
    };
    let app = json!({"metadata": {"namespace": "shop", "name": "cart-x", "annotations": {
            "dapr.io/enabled": "true", "dapr.io/app-id": "cart", "any": PLANTED,
            "dapr.io/env": format!("TOKEN={PLANTED}"), "dapr.io/api-token-secret": "api",
            "dapr.io/sidecar-listen-addresses": format!("password={PLANTED}"),
            "dapr.io/applied-defaults": format!(r#"{{"namespace":{{"dapr.io/env":"A={PLANTED}"}}}}"#)}},
        "spec": {"containers": [
            {"name": "app", "image": "cart:2", "env": environment, "args": [PLANTED]},
            {"name": "daprd", "image": "d:1.18.3", "env": environment, "args": ["--x", PLANTED]}]},
        "status": status("daprd")});
    let service = json!({"metadata": {"namespace": "dapr-system", "name": "dapr-scheduler-server-0",
            "labels": {"app": "dapr-scheduler-server", "app.kubernetes.io/part-of": "dapr"}},
        "spec": {"containers": [{"name": "s", "image": "r/x:1.18.3", "env": environment,
            "args": ["--etcd-client-password", PLANTED]}]},
        "status": status("s")});
    [app, service]
}

fn event(kind: &str, message: &str) -> Value {
    json!({"type": "Warning", "reason": "Planted", "message": message, "note": message,
        "reportingComponent": "dapr-operator", "involvedObject": {
            "apiVersion": "dapr.io/v1alpha1", "kind": kind, "namespace": "shop", "name": "planted"}})
}

#[tokio::test]
async fn a_secret_in_any_place_is_on_no_page() {
    let (cluster, resources) = (Cluster::new("dapr-system"), resources());
    let hidden = format!(r#"cannot connect: "password": "{PLANTED}""#);
    let events = [event("Component", &hidden), event("Component", "harmless")];
    cluster.fill(&pods(), &resources, &events);
    let peers = Peers::new(Reach::Pods);
    let pages = Pages { cluster, peers, logs: None, reviews: None, base: "".into() };
    let site = router(pages, Guard { allowed_hosts: Vec::new() });
    let objects = Kind::ALL.map(|kind| format!("/{}/shop/planted", kind.plural()));
    let lists = PATHS.into_iter().filter(|path| !path.contains("/shop/"));
    let paths = lists.chain(["/apps/shop/cart"]).chain(objects.iter().map(String::as_str));
    for path in paths {
        for accept in ["text/html", "application/json"] {
            let (head, body) = ask(&site, path, accept).await;
            assert_eq!(head.status(), 200, "{path}: {body}");
            assert!(!body.contains(PLANTED), "{path} {accept}: {body}");
            let is_object = path.ends_with("/planted") || path == "/apps/shop/cart";
            assert!(!is_object || body.contains("(hidden)"), "{path} hides nothing: {body}");
        }
    }
    let (_, component) = ask(&site, "/components/shop/planted", "text/html").await;
    assert!(component.contains("harmless"), "Events are shown: {component}");
    // Support bundles take the same objects.
    for (kind, object) in resources {
        let shown = crate::model::redaction::object(kind, &object).to_string();
        assert!(!shown.contains(PLANTED) && shown.contains("(hidden)"), "{shown}");
    }
}
