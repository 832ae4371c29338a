//! The dashboard against a real API server, with the rights that its chart grants and no others, in a
//! real browser.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

mod accessibility;
mod node;
mod planted;
mod users;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::injector_fixture::NAMESPACE;
use blackbox::progress::step;
use blackbox::{
    ApiCluster, Deadline, Process, Scratch, Spawn, Tool, accounts, browser, build_dashboard,
    environment, http, process, until,
};
use serde_json::{Value, json};

/// Enough for a process to start, or an object to be seen, on a machine that others use too.
const START: u64 = 60;
/// In a Secret, in metadata, in an environment variable: nowhere on a page.
const PLANTED: &str = "pl4nted-s3cret-0815";
/// A registry makes the chart install something.
const REGISTRY: &str = "global.controlPlane.registry=registry.example/trilby";

/// Pages, and words that each must show.
const PAGES: [(&str, &[&str]); 18] = [
    ("/", &["Needs attention", "Component shop/state: redisHost is missing", "1.18.3"]),
    ("/apps", &["cart", "shop", "Deployment cart", "1 of 1 ready"]),
    ("/apps?namespace=shop&sort=-age", &["cart", "aria-sort=\"descending\""]),
    ("/apps/shop/cart", &["Deployment cart", "dapr.io/app-port", "TOKEN=(hidden)", "tracing"]),
    ("/components", &["state.redis v1", "1 warning"]),
    ("/components/shop/state", &["redisPassword", "(hidden)", "redis:6379", "cart"]),
    ("/configurations/shop/tracing", &["samplingRate", "cart"]),
    ("/subscriptions", &["orders from bus"]),
    ("/resiliencies", &["No Resiliency matches"]),
    ("/httpendpoints", &["No HTTPEndpoint matches"]),
    ("/workflowaccesspolicies", &["No WorkflowAccessPolicy matches"]),
    ("/mcpservers", &["No MCPServer matches"]),
    ("/topics", &["orders", "bus", "no application that answered", "/orders"]),
    ("/graph", &["No calls since the sidecars started"]),
    ("/actors", &["No pod of placement is ready"]),
    ("/jobs", &["No pod of the scheduler is ready"]),
    ("/control-plane", &["dapr-operator-", "registry.example/operator:1.18.3"]),
    ("/certificates", &["BEGIN CERTIFICATE", "Root"]),
];

struct Fixture {
    api: ApiCluster,
    dashboard: Process,
    port: u16,
    /// With the rights that the chart grants.
    kubeconfig: PathBuf,
    scratch: Scratch,
}

/// The chart's objects.
pub(crate) fn chart(sets: &[&str]) -> Result<String> {
    let chart = environment::workspace().join("charts/dapr-dashboard");
    let mut helm = Command::new(Tool::HELM.path()?);
    helm.args(["template", "dapr-dashboard"]).arg(chart).args(["--namespace", NAMESPACE]);
    for set in sets {
        helm.args(["--set", set]);
    }
    process::output(&mut helm)
}

impl Fixture {
    fn start() -> Result<Self> {
        let api = ApiCluster::start()?;
        let scratch = Scratch::new("dashboard")?;
        for namespace in [NAMESPACE, "shop"] {
            api.kubectl(&["create", "namespace", namespace])?;
        }
        let crds = environment::workspace().join("crds");
        let crds = crds.to_string_lossy();
        api.kubectl(&["apply", "--server-side", "-f", &crds])?;
        api.kubectl(&["wait", "--for=condition=Established", "--timeout=60s", "-f", &crds])?;
        api.apply(&chart(&[REGISTRY])?)?;
        for namespace in [NAMESPACE, "shop"] {
            until(Deadline::seconds(START), "accounts for pods", || {
                Ok(api.kubectl(&["get", "serviceaccount", "default", "-n", namespace]).ok())
            })?;
        }
        fill(&api)?;
        let kubeconfig = accounts::kubeconfig(&api, &scratch, "kubeconfig", "dapr-dashboard")?;
        let [port, health, metrics] = [(); 3].map(|()| environment::free_port());
        let (port, health, metrics) = (port?, health?, metrics?);
        let mut dashboard = Spawn::new("dashboard", build_dashboard()?, scratch.path())
            .args(["--port", &port.to_string(), "--namespace", NAMESPACE, "--log-level", "debug"])
            .args(["--healthz-port", &health.to_string(), "--metrics-port", &metrics.to_string()])
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .start()?;
        dashboard.wait_for_http(health, "/healthz", Deadline::seconds(START))?;
        Ok(Self { api, dashboard, port, kubeconfig, scratch })
    }

    fn json(&self, path: &str) -> Result<Value> {
        let accept = [("Accept", "application/json")];
        let answer = http::request(self.port, "GET", path, &accept, None)?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.body);
        ensure!(!answer.body.contains(PLANTED), "{path} shows the secret: {}", answer.body);
        answer.json()
    }
}

/// An application with a Component, a Configuration and a Subscription, a control plane, an Event.
fn fill(api: &ApiCluster) -> Result<()> {
    let component = json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": "state", "namespace": "shop"},
        "spec": {"type": "state.redis", "version": "v1", "metadata": [
            {"name": "redisHost", "value": "redis:6379"},
            {"name": "redisPassword", "value": PLANTED}]}});
    let configuration = json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Configuration",
        "metadata": {"name": "tracing", "namespace": "shop"},
        "spec": {"tracing": {"samplingRate": "1", "otel": {"endpointAddress": "otel:4317",
            "isSecure": false, "protocol": "grpc",
            "headers": [{"name": "auth", "value": PLANTED}]}}}});
    let subscription = json!({"apiVersion": "dapr.io/v2alpha1", "kind": "Subscription",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"topic": "orders", "pubsubname": "bus", "routes": {"default": "/orders"}}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "redis", "namespace": "shop"}, "stringData": {"password": PLANTED}});
    let root = testkit::ca::Ca::new();
    let anchors = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "dapr-trust-bundle", "namespace": NAMESPACE},
        "data": {"ca.crt": root.pem().anchors}});
    let event = json!({"apiVersion": "v1", "kind": "Event",
        "metadata": {"name": "state.1", "namespace": "shop"}, "type": "Warning",
        "reason": "MissingMetadata", "message": "redisHost is missing", "action": "Check",
        "reportingComponent": "dapr-operator", "reportingInstance": "dapr-operator-x",
        "eventTime": "2026-11-01T10:00:00.000000Z",
        "involvedObject": {"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "namespace": "shop", "name": "state"}});
    for object in [component, configuration, subscription, secret, anchors, event] {
        api.apply(&object.to_string())?;
    }
    for name in ["dapr-operator", "dapr-sentry", "dapr-sidecar-injector"] {
        let labels = json!({"app": name, "app.kubernetes.io/part-of": "dapr"});
        let image = format!("registry.example/{}:1.18.3", name.trim_start_matches("dapr-"));
        deploy(api, NAMESPACE, name, &labels, &json!({}), &[(name, &image)])?;
    }
    let annotations = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "cart",
        "dapr.io/app-port": "8080", "dapr.io/config": "tracing",
        "dapr.io/env": format!("TOKEN={PLANTED}")});
    let cart = [("app", "cart:2"), ("daprd", "ghcr.io/dapr/daprd:1.18.3")];
    deploy(api, "shop", "cart", &json!({"app": "cart"}), &annotations, &cart)
}

/// Creates a Deployment, and says that the containers of its pod run, as a kubelet would.
fn deploy(
    api: &ApiCluster,
    namespace: &str,
    name: &str,
    labels: &Value,
    annotations: &Value,
    containers: &[(&str, &str)],
) -> Result<()> {
    let environment = json!([{"name": "TOKEN", "value": PLANTED}]);
    let of_pod: Vec<_> = containers
        .iter()
        .map(|(name, image)| json!({"name": name, "image": image, "env": environment}))
        .collect();
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"selector": {"matchLabels": {"app": labels["app"]}}, "template": {
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {"containers": of_pod}}}});
    api.apply(&deployment.to_string())?;
    let selector = format!("app={}", labels["app"].as_str().unwrap_or_default());
    let pod = until(Deadline::seconds(START), "the pod of a Deployment", || {
        let pods = api.get(&["pods", "-n", namespace, "-l", &selector])?;
        Ok(pods.pointer("/items/0/metadata/name").and_then(Value::as_str).map(str::to_owned))
    })?;
    let statuses: Vec<_> = containers
        .iter()
        .map(|(name, image)| {
            json!({"name": name, "image": image, "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {}}})
        })
        .collect();
    let status = json!({"status": {"phase": "Running", "containerStatuses": statuses}}).to_string();
    let patch = ["patch", "pod", &pod, "-n", namespace, "--subresource=status", "--type=merge"];
    api.kubectl(&[&patch[..], &["-p", &status]].concat()).map(drop)
}

/// One cluster serves all of it, so this is one test with named steps.
#[test]
fn pages_show_the_cluster_and_no_secret() -> Result<()> {
    let all = step("start", Fixture::start)?;
    step("every page in a browser", || pages(&all))?;
    step("every page with axe-core", || accessibility::no_serious_fault(&all))?;
    step("every page as JSON", || as_json(&all))?;
    step("what changes is seen", || changes(&all))?;
    step("hostile requests", || hostile(&all))?;
    step("rights", || rights(&all))?;
    step("users", || users::see_what_they_may_list(&all))
}

fn pages(all: &Fixture) -> Result<()> {
    until(Deadline::seconds(START), "the Subscription", || {
        Ok(all.json("/subscriptions")?.pointer("/resources/0").cloned())
    })?;
    for (path, wanted) in PAGES {
        let url = format!("http://127.0.0.1:{}{path}", all.port);
        let page = browser::open(&url)?;
        for words in wanted {
            ensure!(page.document.contains(words), "{path} has no {words:?}: {}", page.document);
        }
        ensure!(!page.document.contains(PLANTED), "{path} shows the secret");
        ensure!(!page.document.contains("cannot be read"), "{path}: {}", page.document);
        for refused in ["Content Security Policy", "Uncaught", "Failed to load"] {
            ensure!(!page.console.contains(refused), "{path}: {}", page.console);
        }
    }
    let folder = environment::target_folder().join("dashboard");
    std::fs::create_dir_all(&folder)?;
    for (name, path, width) in
        [("overview", "/", 1200), ("app", "/apps/shop/cart", 1200), ("phone", "/", 480)]
    {
        let url = format!("http://127.0.0.1:{}{path}", all.port);
        browser::draw(&url, width, &folder.join(format!("{name}.png")))?;
    }
    Ok(())
}

fn as_json(all: &Fixture) -> Result<()> {
    for (path, _) in PAGES {
        all.json(path)?;
    }
    let app = all.json("/apps/shop/cart")?;
    ensure!(app["configuration"] == json!(["tracing", true]), "{app:#}");
    let one = all.json("/components/shop/state")?;
    ensure!(one["used_by"][0]["app_id"] == "cart", "{one:#}");
    ensure!(one["object"]["spec"]["metadata"][1]["value"] == "(hidden)", "{one:#}");
    Ok(())
}

fn changes(all: &Fixture) -> Result<()> {
    let object = json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
        "metadata": {"name": "later", "namespace": "shop"},
        "spec": {"type": "pubsub.in-memory", "version": "v1", "metadata": []}});
    all.api.apply(&object.to_string())?;
    until(Deadline::seconds(START), "the new Component", || {
        let list = all.json("/components?q=later")?;
        Ok(list["resources"].as_array().filter(|rows| rows.len() == 1).map(drop))
    })?;
    all.api.kubectl(&["delete", "component", "later", "-n", "shop"])?;
    until(Deadline::seconds(START), "its end", || {
        let answer = http::get(all.port, "/components/shop/later")?;
        Ok((answer.status == 404).then_some(()))
    })
}

fn hostile(all: &Fixture) -> Result<()> {
    let status = |method: &str, path: &str, headers: &[(&str, &str)]| -> Result<u16> {
        Ok(http::request(all.port, method, path, headers, None)?.status)
    };
    ensure!(status("POST", "/", &[])? == 405);
    ensure!(status("DELETE", "/components/shop/state", &[])? == 405);
    ensure!(status("GET", "/", &[("Sec-Fetch-Site", "cross-site")])? == 403);
    ensure!(status("GET", "/../../etc/passwd", &[])? == 404);
    ensure!(status("GET", "/secrets/shop/redis", &[])? == 404);
    Ok(())
}

/// The chart's rights are enough, and the dashboard asks for no Secret; its log has no secret.
fn rights(all: &Fixture) -> Result<()> {
    let log = all.dashboard.log();
    ensure!(!log.contains(PLANTED), "the log holds the secret");
    ensure!(!log.contains("is forbidden"), "{log}");
    let audit = all.api.audit()?;
    let own = audit.iter().filter(|entry| {
        entry["user"]["username"] == "system:serviceaccount:dapr-system:dapr-dashboard"
    });
    let mut asked: Vec<String> = own
        .map(|entry| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            format!("{} {}", text(&entry["verb"]), text(&entry["objectRef"]["resource"]))
        })
        .collect();
    asked.sort_unstable();
    asked.dedup();
    ensure!(asked.iter().any(|a| a == "watch pods"), "{asked:?}");
    let reads = |asked: &String| ["get ", "list ", "watch "].iter().any(|v| asked.starts_with(v));
    ensure!(asked.iter().all(|a| reads(a) && !a.contains("secrets")), "{asked:?}");
    let account = "--as=system:serviceaccount:dapr-system:dapr-dashboard";
    for denied in [["get", "secrets"], ["create", "pods"], ["delete", "components.dapr.io"]] {
        let may = all.api.kubectl(&["auth", "can-i", denied[0], denied[1], "-n", "shop", account]);
        ensure!(may.is_err(), "it may {denied:?}: {may:?}");
    }
    Ok(())
}

#[test]
fn the_chart_installs_nothing_without_a_registry_and_reads_only_with_one() -> Result<()> {
    let nothing = chart(&[])?;
    ensure!(!nothing.contains("kind:"), "{nothing}");
    let public = chart(&["global.registry=ghcr.io/dapr"])?;
    ensure!(!public.contains("kind:"), "Dapr's registry holds no image of ours: {public}");
    let all = chart(&[REGISTRY, "networkPolicy.enabled=true", "basePath=/dapr"])?;
    for kind in ["Deployment", "Service", "ClusterRole", "NetworkPolicy"] {
        ensure!(all.contains(&format!("kind: {kind}\n")), "no {kind} in {all}");
    }
    ensure!(all.contains("registry.example/trilby/dashboard:1.18.3"), "{all}");
    for word in ["secrets", "create", "update", "patch", "delete", "\"*\""] {
        let rules =
            all.lines().filter(|line| line.contains("verbs:") || line.contains("resources:"));
        let bad: Vec<_> = rules.filter(|line| line.contains(word)).collect();
        ensure!(bad.is_empty(), "{bad:?}");
    }
    ensure!(!all.contains("pods/log"), "logs are off by default: {all}");
    let logs = chart(&[REGISTRY, "logs=true"])?;
    ensure!(logs.contains("pods/log") && logs.contains("- --logs\n"), "{logs}");
    let own = chart(&[REGISTRY, "logs=true", "auth=token"])?;
    ensure!(!own.contains("pods/log") && own.contains("- --logs\n"), "{own}");
    let mirror = chart(&["global.registry=mirror.example/dapr"])?;
    ensure!(mirror.contains("mirror.example/dapr/dashboard:1.18.3"), "{mirror}");
    let wrong = chart(&[REGISTRY, "logLevel=loud"]).err().context("a wrong value renders")?;
    ensure!(format!("{wrong:#}").contains("logLevel"), "{wrong:#}");
    Ok(())
}
