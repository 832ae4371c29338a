//! A secret in every place where people put one, and everything that users and maintainers read: the
//! pages, their JSON, the support bundle, the other outputs of `daprctl`, and the logs of both.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::injector_fixture::NAMESPACE;
use blackbox::progress::step;
use blackbox::{
    Deadline, KINDS, Process, Scratch, Spawn, build_binary, build_daprctl, environment, http,
    process, until,
};
use proto::scheduler::job_target_metadata::Type;
use proto::scheduler::scheduler_client::SchedulerClient;
use proto::scheduler::{Job, JobTargetMetadata, KnownMetadata, ScheduleJobRequest, TargetJob};
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use crate::{Fixture, PLANTED, START};

/// The bearer token of a kubeconfig and of a request.
const TOKEN: &str = "pl4nted-t0ken-4711";
/// The pages beside those of objects.
const PAGES: [&str; 11] = [
    "/",
    "/apps",
    "/apps/shop/cart",
    "/apps/shop/planted",
    "/graph",
    "/topics",
    "/actors",
    "/actors?type=Cat&id=1",
    "/jobs",
    "/control-plane",
    "/certificates",
];

/// One cluster serves all of it, so this is one test with named steps.
#[test]
fn a_planted_secret_is_on_no_page_in_no_bundle_and_in_no_log() -> Result<()> {
    let all = step("start", Fixture::start)?;
    step("plant", || plant(&all))?;
    step("every page in both forms", || pages(&all))?;
    step("the support bundle", || bundle(&all))?;
    step("the other outputs of daprctl", || outputs(&all))?;
    step("a token of a kubeconfig", || token(&all))?;
    step("payloads of jobs", payloads)?;
    step("the log of the dashboard", || {
        let log = all.dashboard.log();
        ensure!(log.contains("Dashboard is at"), "{log}");
        has_no_secret("the log", &log)
    })
}

/// Neither as it is nor as Secrets and payloads have it.
fn has_no_secret(what: &str, text: &str) -> Result<()> {
    for secret in [PLANTED, TOKEN] {
        ensure!(!text.contains(secret), "{what} holds {secret}: {text}");
        ensure!(!text.contains(&STANDARD.encode(secret)), "{what} holds {secret}: {text}");
    }
    Ok(())
}

/// An object of `dapr.io` named `planted`.
fn object(version: &str, kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": format!("dapr.io/{version}"), "kind": kind,
        "metadata": {"name": "planted", "namespace": "shop", "annotations": {"note": PLANTED}},
        "spec": spec})
}

fn objects() -> Vec<Value> {
    let login = format!("https://user:{PLANTED}@host.example/");
    let headers = json!([{"name": "X-Any", "value": PLANTED},
        {"name": "X-Ref", "secretKeyRef": {"name": "planted", "key": "password"}}]);
    let component = json!({"type": "state.postgresql", "version": "v2", "metadata": [
        {"name": "connectionString", "value": format!("host=db user=u password={PLANTED}")},
        {"name": "tablePrefix", "value": format!("postgres://u:{PLANTED}@db:5432/x")},
        {"name": "accessKey", "value": PLANTED},
        {"name": "unknown", "value": PLANTED},
        {"name": "password", "secretKeyRef": {"name": "planted", "key": "password"}}]});
    let configuration = json!({
        "tracing": {"samplingRate": "1", "zipkin": {"endpointAddress": login},
            "otel": {"endpointAddress": login, "isSecure": true, "protocol": "grpc",
                "headers": headers}},
        "nameResolution": {"component": "consul", "version": "v1",
            "configuration": {"client": {"token": PLANTED, "address": login}}}});
    let subscription = json!({"topic": "orders", "pubsubname": "bus",
        "routes": {"default": "/orders"},
        "metadata": {"password": PLANTED, "url": login, "apiKey": PLANTED}});
    let resiliency = json!({"policies": {"timeouts": {"general": "5s"}}, "targets": {}});
    let endpoint = json!({"baseUrl": login, "headers": headers, "clientTLS": {
        "privateKey": {"value": PLANTED}, "certificate": {"value": PLANTED},
        "rootCA": {"secretKeyRef": {"name": "planted", "key": "password"}}}});
    let server = json!({"endpoint": {"stdio": {"command": "mcp", "args": ["--any", PLANTED],
        "env": [{"name": "ANY", "value": PLANTED}]}}});
    vec![
        json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "planted", "namespace": "shop"},
            "stringData": {"password": PLANTED}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "planted", "namespace": "shop"}, "data": {"password": PLANTED}}),
        object("v1alpha1", "Component", &component),
        object("v1alpha1", "Configuration", &configuration),
        object("v2alpha1", "Subscription", &subscription),
        object("v1alpha1", "Resiliency", &resiliency),
        object("v1alpha1", "HTTPEndpoint", &endpoint),
        object("v1alpha1", "MCPServer", &server),
    ]
}

/// The metadata and the specification of a pod.
fn pod(name: &str, labels: &Value, annotations: &Value, container: &str) -> Value {
    let environment = json!([{"name": "TOKEN", "value": PLANTED}, {"name": "REF", "valueFrom":
        {"secretKeyRef": {"name": "planted", "key": "password"}}}]);
    let container = json!({"name": container, "image": "registry.example/x:1.18.3",
        "command": ["/x", PLANTED], "env": environment,
        "args": ["--etcd-client-password", PLANTED, format!("--token={PLANTED}"), "--enable-mtls"]});
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": labels,
            "annotations": annotations},
        "spec": {"containers": [container, {"name": "app", "image": "app:1", "env": environment}]}})
}

/// A service of the control plane, whose pod has a secret in its arguments.
fn service() -> Value {
    let name = "dapr-scheduler-server";
    let labels = json!({"app": name, "app.kubernetes.io/part-of": "dapr"});
    let mut template = pod("", &labels, &json!({"any": PLANTED}), "scheduler");
    let spec = template["spec"].take();
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": {"any": PLANTED}},
        "spec": {"serviceName": name, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels, "annotations": {"any": PLANTED}},
                "spec": spec}}})
}

fn event(message: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "shop"},
        "type": "Warning", "reason": "Planted", "message": message, "action": "Plant",
        "reportingComponent": "dapr-operator", "reportingInstance": "dapr-operator-x",
        "eventTime": "2026-11-01T10:00:00.000000Z", "involvedObject": {
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component", "namespace": "shop",
            "name": "planted"}})
}

fn plant(all: &Fixture) -> Result<()> {
    let annotations = json!({"dapr.io/enabled": "true", "dapr.io/app-id": "planted",
        "dapr.io/config": "planted", "dapr.io/env": format!("TOKEN={PLANTED}, OTHER=b"),
        "dapr.io/api-token-secret": "planted", "any": PLANTED,
        "dapr.io/sidecar-listen-addresses": format!("password={PLANTED}"),
        "dapr.io/applied-defaults":
            json!({"namespace": {"dapr.io/env": format!("A={PLANTED}")}}).to_string()});
    let own = [
        pod("planted", &json!({"app": "planted"}), &annotations, "daprd"),
        service(),
        event(&format!(r#"cannot connect: "password": "{PLANTED}""#), "planted.1"),
        event(&format!("dial redis://u:{PLANTED}@redis:6379: refused"), "planted.2"),
        event("harmless", "planted.3"),
    ];
    for object in objects().iter().chain(&own) {
        all.api.apply(&object.to_string())?;
    }
    until(Deadline::seconds(START), "what was planted", || {
        let of = |path: &str| -> Result<bool> {
            let accept = [("Accept", "application/json")];
            Ok(http::request(all.port, "GET", path, &accept, None)?.status == 200)
        };
        let objects = KINDS.iter().filter(|kind| **kind != "workflowaccesspolicies");
        let mut paths = objects.map(|kind| format!("/{kind}/shop/planted"));
        let events = http::get(all.port, "/components/shop/planted")?.body.contains("harmless");
        let service = http::get(all.port, "/control-plane")?.body;
        Ok((events
            && service.contains("dapr-scheduler-server-0")
            && of("/apps/shop/planted")?
            && paths.all(|path| of(&path).unwrap_or_default()))
        .then_some(()))
    })
}

fn pages(all: &Fixture) -> Result<()> {
    let lists = KINDS.map(|kind| format!("/{kind}"));
    let objects = KINDS.map(|kind| format!("/{kind}/shop/planted"));
    let (mut hidden, bearer) = (0, format!("Bearer {TOKEN}"));
    let fixed = PAGES.map(str::to_owned);
    for path in fixed.iter().chain(&lists).chain(&objects) {
        for accept in ["text/html", "application/json"] {
            let headers = [("Accept", accept), ("Authorization", bearer.as_str())];
            let answer = http::request(all.port, "GET", path, &headers, None)?;
            ensure!([200, 404].contains(&answer.status), "{path}: {}", answer.status);
            has_no_secret(&format!("{path} as {accept}"), &answer.body)?;
            hidden += usize::from(answer.body.contains("(hidden)"));
        }
    }
    // Components, Configurations, Subscriptions, endpoints, MCP servers, the application: in two
    // forms each.
    ensure!(hidden >= 12, "only {hidden} answers hide something");
    Ok(())
}

/// `daprctl` with the rights of an administrator: what it prints, and whether it succeeded.
fn daprctl(all: &Fixture, args: &[&str]) -> Result<(String, bool)> {
    run(all.api.cluster().command(build_daprctl()?).args(args))
}

fn run(command: &mut Command) -> Result<(String, bool)> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((String::from_utf8_lossy(&text).into_owned(), output.status.success()))
}

fn bundle(all: &Fixture) -> Result<()> {
    let folder = Scratch::new("bundle")?;
    let file = folder.path().join("bundle.tar.gz");
    let name = file.to_string_lossy();
    let args = ["support-bundle", "--namespace", NAMESPACE, "--file", &name];
    let (said, done) = daprctl(all, &args)?;
    ensure!(done, "{said}");
    has_no_secret("the list of the bundle", &said)?;
    let text = process::output(Command::new("tar").arg("-xzOf").arg(&file))?;
    for part in ["\"planted\"", "--etcd-client-password", "(hidden)", "dapr-scheduler-server-0"] {
        ensure!(text.contains(part), "{part} is not in the bundle: {said}");
    }
    has_no_secret("the bundle", &text)
}

fn outputs(all: &Fixture) -> Result<()> {
    for args in [
        &["check"][..],
        &["check", "--output", "json"],
        &["sidecars"],
        &["sidecars", "--output", "json"],
        &["support-bundle", "--list"],
    ] {
        let (said, _) = daprctl(all, args)?;
        ensure!(!said.is_empty(), "{args:?} prints nothing");
        has_no_secret(&format!("{args:?}"), &said)?;
    }
    let folder = Scratch::new("lint")?;
    let unknown = object("v1alpha1", "HTTPEndpoint", &json!({"baseUrl": "http://a", "x": PLANTED}));
    let manifests = objects().into_iter().chain([unknown]);
    let manifests: Vec<_> = manifests.map(|object| object.to_string()).collect();
    let file = folder.write("planted.yaml", manifests.join("\n---\n"))?;
    for output in ["text", "json", "sarif", "github"] {
        let (said, _) = daprctl(all, &["lint", "-o", output, &file.to_string_lossy()])?;
        ensure!(said.contains("planted"), "lint finds nothing about the unknown member: {said}");
        has_no_secret(&format!("lint -o {output}"), &said)?;
    }
    Ok(())
}

/// A token that the API server refuses is in no error.
fn token(all: &Fixture) -> Result<()> {
    let path = "jsonpath={.clusters[0].cluster}";
    let server = all.api.kubectl(&["config", "view", "--minify", "--raw", "-o", path])?;
    let cluster: Value = serde_json::from_str(&server)?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "c", "user": {"token": TOKEN}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let file = all.scratch.write("token", config.to_string())?;
    for args in [&["check"][..], &["sidecars"], &["dashboard", "--no-browser"]] {
        let mut command = Command::new(build_daprctl()?);
        let (said, done) = run(command.args(args).arg("--kubeconfig").arg(&file))?;
        ensure!(!done, "{args:?} with a wrong token: {said}");
        has_no_secret(&format!("{args:?}"), &said)?;
    }
    Ok(())
}

/// The payload of a job is printed where it is asked for, and nowhere else.
fn payloads() -> Result<()> {
    let folder = Scratch::new("scheduler")?;
    let [port, client] = [(); 2].map(|()| environment::free_port());
    let (port, client) = (port?, client?);
    let scheduler = scheduler(&folder, port, client)?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?;
        let mut client = SchedulerClient::new(endpoint.connect_lazy());
        tokio::time::timeout(Deadline::seconds(START).left(), client.schedule_job(job())).await??;
        anyhow::Ok(())
    })?;
    let address = format!("--address=127.0.0.1:{client}");
    let jobs = |args: &[&str]| {
        let mut command = Command::new(build_daprctl()?);
        run(command.arg("jobs").args(args).arg(&address))
    };
    for output in ["table", "json", "yaml"] {
        let get = ["get", "app/cart/planted", "-n", "shop", "-o", output];
        for args in [&["list", "-o", output][..], &get] {
            let (said, done) = jobs(args)?;
            ensure!(done && said.contains("planted"), "{args:?}: {said}");
            has_no_secret(&format!("{args:?}"), &said)?;
        }
    }
    has_no_secret("the log of the scheduler", &scheduler.log())
}

fn job() -> ScheduleJobRequest {
    let mut job = Job { due_time: Some("24h".to_owned()), ..Job::default() };
    let data = job.data.get_or_insert_default();
    "type.googleapis.com/google.protobuf.StringValue".clone_into(&mut data.type_url);
    data.value = PLANTED.as_bytes().to_vec();
    let target = JobTargetMetadata { r#type: Some(Type::Job(TargetJob {})) };
    let metadata = KnownMetadata {
        app_id: "cart".to_owned(),
        namespace: "shop".to_owned(),
        target: Some(target),
        concurrency_key: None,
    };
    ScheduleJobRequest {
        name: "planted".to_owned(),
        job: Some(job),
        metadata: Some(metadata.into()),
        overwrite: false,
    }
}

fn scheduler(folder: &Scratch, port: u16, client: u16) -> Result<Process> {
    let [health, metrics, peer] = [(); 3].map(|()| environment::free_port());
    let (health, metrics, peer) = (health?, metrics?, peer?);
    let data = folder.path().join("data");
    let mut process = Spawn::new("scheduler", build_binary("scheduler")?, folder.path())
        .args([format!("--port={port}"), format!("--etcd-client-port={client}")])
        .args([format!("--healthz-port={health}"), format!("--metrics-port={metrics}")])
        .arg(format!("--etcd-initial-cluster=dapr-scheduler-server-0=http://127.0.0.1:{peer}"))
        .arg(format!("--etcd-data-dir={}", data.display()))
        .args(["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1"])
        .env_remove("NAMESPACE")
        .start()?;
    process.wait_for_http(health, "/healthz", Deadline::seconds(START))?;
    Ok(process)
}
