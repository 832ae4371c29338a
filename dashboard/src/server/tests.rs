use axum::body::Body;
use axum::http::{Request as HttpRequest, Response};
use http_body_util::BodyExt as _;
use rstest::rstest;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::*;
use crate::peers::Reach;
use crate::server::guard::Guard;

mod large_graph;
mod planted;

const PLANTED: &str = "pl4nted-s3cret";
const HOSTILE: &str = "<script>alert(1)</script>\"'";

/// A control plane, an application and its resources, with secrets where users put
/// them.
fn cluster() -> Cluster {
    let service = |name: &str| {
        json!({"metadata": {"namespace": "dapr-system", "name": format!("{name}-0"),
            "labels": {"app": name, "app.kubernetes.io/part-of": "dapr"}},
            "spec": {"containers": [{"name": name, "image": "r/x:1.18.3"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": name, "ready": true}]}})
    };
    let app = json!({
        "metadata": {"namespace": "shop", "name": "cart-7d9f-x",
            "labels": {"pod-template-hash": "7d9f"},
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "cart",
                "dapr.io/config": "tracing", "dapr.io/env": format!("TOKEN={PLANTED}"),
                "kubectl.kubernetes.io/last-applied-configuration": PLANTED},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-7d9f", "controller": true}]},
        "spec": {"containers": [
            {"name": "app", "image": "cart:2", "env": [{"name": "A", "value": PLANTED}]},
            {"name": "daprd", "image": "ghcr.io/dapr/daprd:1.17.0", "args": ["--x", PLANTED]}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "app", "ready": true}, {"name": "daprd", "ready": true}]},
    });
    let mut hostile = app.clone();
    hostile["metadata"]["name"] = json!("hostile");
    hostile["metadata"]["annotations"] =
        json!({"dapr.io/enabled": "true", "dapr.io/app-id": HOSTILE});
    let component = json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"namespace": "shop", "name": "state", "annotations":
            {"kubectl.kubernetes.io/last-applied-configuration": PLANTED}},
        "spec": {"type": "state.redis", "version": "v1", "metadata": [
            {"name": "redisHost", "value": "redis:6379"},
            {"name": "redisPassword", "value": PLANTED}]}});
    let configuration = json!({"metadata": {"namespace": "shop", "name": "tracing"},
        "spec": {"tracing": {"otel": {"headers": [{"name": "auth", "value": PLANTED}]}}}});
    let event = json!({"type": "Warning", "reason": "UnknownType", "message": HOSTILE,
        "reportingComponent": "dapr-operator", "involvedObject": {"apiVersion": "dapr.io/v1alpha1",
            "kind": "Component", "namespace": "shop", "name": "state"}});
    let cluster = Cluster::new("dapr-system");
    let services = ["dapr-operator", "dapr-sentry", "dapr-sidecar-injector"];
    let mut pods: Vec<_> = services.map(service).into();
    pods.extend([app, hostile]);
    let resources = [(Kind::Component, component), (Kind::Configuration, configuration)];
    cluster.fill(&pods, &resources, &[event]);
    cluster
}

fn site(base: &str) -> Router {
    let pages = Pages {
        cluster: cluster(),
        peers: Peers::new(Reach::Pods),
        logs: None,
        reviews: None,
        base: base.into(),
    };
    router(pages, Guard { allowed_hosts: Vec::new() })
}

async fn ask(site: &Router, path: &str, accept: &str) -> (Response<()>, String) {
    let request = HttpRequest::get(path).header("host", "localhost:8080").header("accept", accept);
    let answer = site.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).unwrap())
}

const PATHS: [&str; 19] = [
    "/",
    "/apps",
    "/apps/shop/cart",
    "/components",
    "/components/shop/state",
    "/configurations",
    "/configurations/shop/tracing",
    "/subscriptions",
    "/resiliencies",
    "/httpendpoints",
    "/workflowaccesspolicies",
    "/mcpservers",
    "/actors",
    "/jobs",
    "/topics",
    "/graph?q=x&namespace=shop",
    "/control-plane",
    "/certificates",
    "/apps?q=cart&namespace=shop",
];

#[tokio::test]
async fn every_page_answers_in_both_forms_without_a_secret() {
    let site = site("");
    for path in PATHS {
        for accept in ["text/html", "application/json"] {
            let (head, body) = ask(&site, path, accept).await;
            assert_eq!(head.status(), 200, "{path} {accept}: {body}");
            assert!(!body.contains(PLANTED), "{path} {accept}: {body}");
            let kind = head.headers()["content-type"].to_str().unwrap();
            assert!(kind.starts_with(accept), "{path}: {kind}");
            if accept == "application/json" {
                serde_json::from_str::<Value>(&body).unwrap();
            }
        }
    }
}

#[tokio::test]
async fn text_of_the_cluster_is_never_markup() {
    let site = site("");
    for path in PATHS {
        let (_, body) = ask(&site, path, "text/html").await;
        assert!(!body.contains("<script>"), "{path}: {body}");
        // The attributes of a link to the hostile application stay inside their quotes.
        assert!(!body.contains("\"'"), "{path}: {body}");
    }
    let (_, body) = ask(&site, "/apps", "text/html").await;
    assert!(body.contains("href=\"/apps/shop/%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22%27\""));
    let (head, body) =
        ask(&site, "/apps/shop/%3Cscript%3Ealert%281%29%3C%2Fscript%3E%22%27", "text/html").await;
    assert_eq!(head.status(), 200);
    assert!(body.contains("<h1>&lt;script&gt;alert(1)"), "{body}");
}

#[tokio::test]
async fn every_answer_carries_the_headers() {
    let site = site("");
    for path in ["/", "/assets/style.css", "/no/such/page", "/apps/shop/none"] {
        let (head, _) = ask(&site, path, "text/html").await;
        let policy = head.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(head.headers()["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(head.headers()["referrer-policy"], "no-referrer", "{path}");
        assert_eq!(head.headers()["cache-control"], "no-store", "{path}");
    }
}

#[rstest]
#[case("/no-such-kind")]
#[case("/secrets")]
#[case("/secrets/dapr-system/dapr-trust-bundle")]
#[case("/components/shop/none")]
#[case("/apps/shop/none")]
#[case("/logs/shop/cart-7d9f-x")]
#[case("/assets/..%2f..%2fCargo.toml")]
#[case("/../../etc/passwd")]
#[case("/a/b/c/d")]
#[tokio::test]
async fn what_does_not_exist_is_not_found(#[case] path: &str) {
    let site = site("");
    let (head, body) = ask(&site, path, "text/html").await;
    assert_eq!(head.status(), 404, "{body}");
}

#[tokio::test]
async fn refusals_say_why() {
    let site = site("");
    let refused = async |request: HttpRequest<Body>| {
        let answer = site.clone().oneshot(request).await.unwrap();
        assert!(answer.headers().contains_key("content-security-policy"));
        answer.status().as_u16()
    };
    let get = || HttpRequest::get("/").header("host", "localhost");
    let post = HttpRequest::post("/").header("host", "localhost").body(Body::empty()).unwrap();
    assert_eq!(refused(post).await, 405);
    let rebound = HttpRequest::get("/").header("host", "evil.example").body(Body::empty()).unwrap();
    assert_eq!(refused(rebound).await, 421);
    let cross = get().header("sec-fetch-site", "cross-site").body(Body::empty()).unwrap();
    assert_eq!(refused(cross).await, 403);
}

#[tokio::test]
async fn a_base_path_is_before_every_link() {
    let site = site("/dapr");
    let (head, body) = ask(&site, "/dapr/", "text/html").await;
    assert_eq!(head.status(), 200, "{body}");
    for link in body.split("href=\"").skip(1).chain(body.split("src=\"").skip(1)) {
        assert!(link.starts_with("/dapr/") || link.starts_with('#'), "{link}");
    }
    let (head, _) = ask(&site, "/dapr", "text/html").await;
    assert_eq!(
        (head.status().as_u16(), head.headers()["location"].to_str().unwrap()),
        (308, "/dapr/")
    );
    let (head, _) = ask(&site, "/dapr/apps/shop/cart", "text/html").await;
    assert_eq!(head.status(), 200);
    let (head, _) = ask(&site, "/apps", "text/html").await;
    assert_eq!(head.status(), 404);
}

#[tokio::test]
async fn the_first_page_says_what_needs_attention() {
    let (_, body) = ask(&site(""), "/", "application/json").await;
    let view: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(view["version"], "1.18.3");
    assert_eq!((&view["apps"], &view["sidecars"]), (&json!(2), &json!(2)));
    let findings = view["findings"].as_array().unwrap();
    let texts: Vec<_> = findings.iter().map(|f| f["text"].as_str().unwrap()).collect();
    assert!(texts.iter().any(|t| t.contains("older than the control plane")), "{texts:?}");
    assert!(texts.iter().any(|t| t.contains("Component shop/state")), "{texts:?}");
}

#[tokio::test]
async fn an_application_shows_what_applies_to_it_and_why_its_sidecar_is_silent() {
    let (_, body) = ask(&site(""), "/apps/shop/cart", "application/json").await;
    let view: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(view["configuration"], json!(["tracing", true]));
    assert_eq!(view["resources"][0]["name"], "state");
    assert_eq!(view["resources"][0]["loaded"], Value::Null);
    assert!(view["sidecar"]["error"].as_str().unwrap().contains("address"), "{view:#}");
}

#[tokio::test]
async fn a_log_is_shown_without_secrets_and_followed() {
    let log = format!(
        "2026-11-29T10:00:00.1Z level=info msg=ready\n2026-11-29T10:00:01.1Z level=error msg=\"redis://u:{PLANTED}@host\"\n"
    );
    let service = tower::service_fn(move |_| {
        let answer = Response::new(kube::client::Body::from(log.clone().into_bytes()));
        std::future::ready(Ok::<_, tower::BoxError>(answer))
    });
    let pages = Pages {
        cluster: cluster(),
        peers: Peers::new(Reach::Pods),
        logs: Some(Logs::new(kube::Client::new(service, "default"))),
        reviews: None,
        base: "".into(),
    };
    let site = router(pages, Guard { allowed_hosts: Vec::new() });
    let (_, app) = ask(&site, "/apps/shop/cart", "text/html").await;
    assert!(app.contains("href=\"/logs/shop/cart-7d9f-x\""), "{app}");
    let path = "/logs/shop/cart-7d9f-x?level=info";
    let (head, body) = ask(&site, path, "text/html").await;
    assert_eq!(head.status(), 200, "{body}");
    assert!(body.contains("msg=ready") && !body.contains(PLANTED), "{body}");
    let changes = "/changes?namespace=shop&pod=cart-7d9f-x&seen=2026-11-29T10%3A00%3A01.1Z";
    assert!(body.contains(&changes.replace('&', "&amp;")), "{body}");
    let (_, events) = ask(&site, changes, "text/event-stream").await;
    assert_eq!(
        events, "data: changed\n\n",
        "the last of several lines is not the one that came first"
    );
    let (_, body) = ask(&site, path, "application/json").await;
    let view: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&view["container"], &view["lines"][1]["level"]),
        (&json!("daprd"), &json!("error"))
    );
    let (head, events) =
        ask(&site, "/changes?namespace=shop&pod=cart-7d9f-x", "text/event-stream").await;
    assert_eq!(head.headers()["content-type"], "text/event-stream");
    assert_eq!(events, "data: changed\n\n", "once, and the log has ended");
    assert_eq!(ask(&site, "/logs/shop/none", "text/html").await.0.status(), 404);
}

#[tokio::test]
async fn a_change_reaches_an_open_page() {
    let pages = Pages {
        cluster: cluster(),
        peers: Peers::new(Reach::Pods),
        logs: None,
        reviews: None,
        base: "".into(),
    };
    let changing = pages.cluster.clone();
    let site = router(pages, Guard { allowed_hosts: Vec::new() });
    let request = HttpRequest::get("/changes").header("host", "localhost");
    let answer = site.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    changing.fill(&[], &[], &[]);
    let frame = answer.into_body().frame().await.unwrap().unwrap();
    assert!(frame.into_data().unwrap().starts_with(b"data: "));
}

#[tokio::test]
async fn without_a_cluster_pages_about_one_say_where_they_are() {
    let pages = Pages {
        cluster: Cluster::self_hosted(),
        peers: Peers::new(Reach::Loopback),
        logs: None,
        reviews: None,
        base: "".into(),
    };
    let site = router(pages, Guard { allowed_hosts: Vec::new() });
    for path in ["/actors", "/jobs", "/control-plane", "/certificates", "/logs/default/1"] {
        for accept in ["text/html", "application/json"] {
            let (head, body) = ask(&site, path, accept).await;
            assert_eq!(head.status(), 404, "{path}: {body}");
            assert!(body.contains("in Kubernetes"), "{path}: {body}");
        }
    }
    for path in ["/", "/apps", "/components", "/configurations", "/graph", "/topics"] {
        let (head, body) = ask(&site, path, "text/html").await;
        assert_eq!(head.status(), 200, "{path}: {body}");
        assert!(!body.contains("href=\"/control-plane\""), "{path}: {body}");
    }
}
