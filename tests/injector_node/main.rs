//! Sidecars as the injector makes them, run by the official daprd on a node with real pods, in a
//! namespace that enforces Pod Security `restricted`.
//!
//! One cluster serves the whole file, so it is one test with named steps. It needs root.
#![recursion_limit = "256"] // for the JSON of many annotations
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::demo::{self, Demo};
use blackbox::injector_fixture::names_of;
use blackbox::progress::step;
use blackbox::{
    Deadline, Image, NodeCluster, Scratch, Tool, environment, image_profile, peer_images, process,
    until,
};
use serde_json::{Value, json};

const NAMESPACE: &str = "restricted";
/// A pod on a busy machine: its image is there, its sidecar has to get a certificate.
const TIMEOUT: u64 = 180;
/// The application of all pods: Node.js with a script of one line.
const APP: &str = "localhost/trilby-sample-node:1";
const OLD_DAPRD: &str = "localhost/daprd:1.15.0";
const DEBUG_DAPRD: &str = "localhost/daprd-debug:1";

#[test]
#[ignore = "needs root: runs real Pods"]
fn official_sidecars_accept_every_argument_that_annotations_can_produce() -> Result<()> {
    let node = NodeCluster::temporary()?;
    let cluster = step("bring up a cluster", || node.up())?;
    let profile = image_profile();
    step("make and import images", || import_images(&node, &profile))?;
    let demo = demo::on_cluster(cluster, environment::workspace(), NAMESPACE)
        .value("dapr_sidecar_injector.sidecarDropALLCapabilities=true");
    step("install the chart", || demo.install())?;
    prepare(&demo)?;
    for (name, annotations) in pods() {
        create(&demo, &pod(name, &annotations, SERVER))?;
    }
    create(&demo, &pod("block", &json!({"block-shutdown-duration": "20s"}), CALLS_WHEN_STOPPED))?;
    create(&demo, &job())?;
    for (name, _) in pods() {
        step(&format!("sidecar of {name} is ready"), || ready(&demo, name))?;
    }
    every_argument_was_there(&demo)?;
    step("the API answers on its sockets", || answers_on_sockets(&demo))?;
    step("the debugger's command line", || runs_under_the_debugger(&demo))?;
    step("the job with a native sidecar completes", || completes(&demo))?;
    step("the API outlives the stop signal", || outlives_the_stop_signal(&demo))
}

/// Pods by name; together their annotations produce every argument.
fn pods() -> [(&'static str, Value); 6] {
    let everything = everything();
    let mut old = everything.clone();
    old["sidecar-image"] = json!(OLD_DAPRD);
    [
        ("plain", json!({})),
        ("everything", everything),
        ("old", old),
        (
            "legacy",
            json!({
                "app-channel-address": "127.0.0.1", "app-protocol": "grpc", "app-ssl": "true",
                "http-max-request-size": "8", "http-read-buffer-size": "8",
                "enable-metrics": "false", "enable-api-logging": "false", "log-level": "error",
                "placement-host-address": "", "sidecar-listen-addresses": "",
                "app-max-concurrency": "-10", "graceful-shutdown-seconds": "-10",
            }),
        ),
        ("sockets", json!({"unix-domain-socket-path": "/tmp/sockets"})),
        (
            "debug",
            json!({"enable-debug": "true", "debug-port": "41000", "sidecar-image": DEBUG_DAPRD}),
        ),
    ]
}

fn everything() -> Value {
    json!({
        "config": "own", "log-level": "debug", "log-as-json": "true", "enable-profiling": "true",
        "enable-api-logging": "true", "app-port": "3000", "app-protocol": "http",
        "app-max-concurrency": "5", "app-token-secret": "tokens", "api-token-secret": "tokens",
        "enable-app-health-check": "true", "app-health-check-path": "/healthz",
        "app-health-probe-interval": "3", "app-health-probe-timeout": "1000",
        "app-health-threshold": "2", "app-binding-options-timeout": "5s",
        "disable-init-endpoints": "config,subscribe", "sidecar-listen-addresses": "127.0.0.1",
        "grpc-port": "50003", "internal-grpc-port": "50004", "metrics-port": "9191",
        "max-body-size": "16Mi", "read-buffer-size": "16Ki", "graceful-shutdown-seconds": "3",
        "block-shutdown-duration": "1s", "actors-disseminate-timeout": "20s",
        "placement-host-address": "dapr-placement-server.dapr-system.svc.cluster.local:50005",
        "scheduler-host-address": "", "sentry-request-jwt-audiences": "a,b",
        "disable-builtin-k8s-secret-store": "true",
        "env": "A=1, B=x,y", "env-from-secret": "C=tokens:token",
        "volume-mounts": "data:/data", "volume-mounts-rw": "data:/data-rw",
        "sidecar-cpu-request": "50m", "sidecar-cpu-limit": "1",
        "sidecar-memory-request": "32Mi", "sidecar-memory-limit": "512Mi",
        "sidecar-liveness-probe-delay-seconds": "60", "sidecar-liveness-probe-timeout-seconds": "4",
        "sidecar-liveness-probe-period-seconds": "9", "sidecar-liveness-probe-threshold": "4",
        "sidecar-readiness-probe-delay-seconds": "2", "sidecar-readiness-probe-timeout-seconds": "2",
        "sidecar-readiness-probe-period-seconds": "2", "sidecar-readiness-probe-threshold": "4",
    })
}

/// The arguments that annotations alone decide.
const ARGUMENTS: [&str; 39] = [
    "--app-binding-options-timeout",
    "--dapr-http-port",
    "--dapr-grpc-port",
    "--dapr-internal-grpc-port",
    "--dapr-listen-addresses",
    "--dapr-public-port",
    "--app-id",
    "--app-protocol",
    "--log-level",
    "--dapr-graceful-shutdown-seconds",
    "--mode",
    "--control-plane-address",
    "--sentry-address",
    "--app-port",
    "--enable-metrics",
    "--enable-metrics=false",
    "--metrics-port",
    "--config",
    "--app-channel-address",
    "--placement-host-address",
    "--sentry-request-jwt-audiences",
    "--enable-api-logging=true",
    "--enable-api-logging=false",
    "--disable-builtin-k8s-secret-store",
    "--enable-app-health-check",
    "--app-health-check-path",
    "--log-as-json",
    "--enable-profiling",
    "--enable-mtls",
    "--app-ssl",
    "--app-max-concurrency",
    "--dapr-http-max-request-size",
    "--max-body-size",
    "--dapr-http-read-buffer-size",
    "--read-buffer-size",
    "--unix-domain-socket",
    "--dapr-block-shutdown-duration",
    "--actors-disseminate-timeout",
    "--disable-init-endpoints",
];

/// Answers everything.
const SERVER: &str = "require('http').createServer((q, a) => a.end('{}')).listen(3000)";
/// Calls the sidecar seconds after the stop signal has come.
const CALLS_WHEN_STOPPED: &str = "process.on('SIGTERM', () => setTimeout(() => \
    fetch('http://127.0.0.1:3500/v1.0/metadata').then(a => console.log('answered', a.status), \
    e => console.log('refused', e.message)).then(() => process.exit()), 5000)); \
    setInterval(() => {}, 1000)";
/// Waits for the sidecar and ends.
const WORK: &str = "const look = () => fetch('http://127.0.0.1:3500/v1.0/healthz/outbound')\
    .then(a => process.exit(a.ok ? 0 : 1), () => setTimeout(look, 500)); look()";
/// Calls the sidecar's API by its socket.
const ASK_SOCKET: &str = "require('http').get({socketPath: \
    '/tmp/sockets/dapr-sockets-http.socket', path: '/v1.0/metadata'}, \
    a => { console.log('status', a.statusCode); process.exit(0) })";

fn import_images(node: &NodeCluster, profile: &str) -> Result<()> {
    demo::import_images(node, profile)?;
    let folder = Scratch::new("images")?;
    let import = |image: Image| {
        let archive = folder.path().join("image.tar");
        image.write(&archive)?;
        node.import_image(&archive)
    };
    let old = Image::new(OLD_DAPRD).file(Tool::DAPRD_1_15.path()?, "/daprd")?;
    import(old.ca_roots().shared_folder("/tmp"))?;
    import(peer_images::daprd(DEBUG_DAPRD)?.file(debugger(folder.path())?, "/dlv")?)
}

fn debugger(folder: &Path) -> Result<PathBuf> {
    let source = environment::workspace().join("tests/injector_node/dlv.rs");
    let program = folder.join("dlv");
    let rustc = environment::var("RUSTC").unwrap_or_else(|| "rustc".to_owned());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]);
    process::output(command.arg(&program).arg(source)).context("compile the debugger")?;
    Ok(program)
}

/// Namespace, Configuration and Secret.
fn prepare(demo: &Demo) -> Result<()> {
    let manifests = format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: own, namespace: {NAMESPACE}}}
spec: {{tracing: {{samplingRate: '0'}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: tokens, namespace: {NAMESPACE}}}
stringData: {{token: secret}}
"
    );
    demo.cluster().apply(&manifests)?;
    until(Deadline::seconds(TIMEOUT), "the namespace's service account", || {
        Ok(demo.kubectl(&["get", "serviceaccount", "default"]).ok())
    })
    .map(drop)
}

/// A pod that `restricted` admits, if its sidecar does.
fn pod(name: &str, annotations: &Value, script: &str) -> Value {
    let mut all = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": name,
        "dapr.io/sidecar-seccomp-profile-type": "RuntimeDefault",
    });
    for (key, value) in annotations.as_object().into_iter().flatten() {
        all[format!("dapr.io/{key}")] = value.clone();
    }
    let app = json!({
        "name": "app", "image": APP, "args": ["-e", script], "imagePullPolicy": "IfNotPresent",
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
        },
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "annotations": all},
        "spec": {
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "terminationGracePeriodSeconds": 40,
            "containers": [app],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn job() -> Value {
    let mut template = pod("job", &json!({"enable-native-sidecar": "true"}), WORK);
    template["spec"]["restartPolicy"] = json!("Never");
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "job", "namespace": NAMESPACE},
        "spec": {"backoffLimit": 0, "template": {
            "metadata": {"annotations": template["metadata"]["annotations"]},
            "spec": template["spec"],
        }},
    })
}

fn create(demo: &Demo, object: &Value) -> Result<()> {
    demo.cluster().kubectl_with_input(&["create", "-f", "-"], &object.to_string()).map(drop)
}

fn ready(demo: &Demo, pod: &str) -> Result<()> {
    let wait = ["wait", "--for=condition=Ready", "pod", pod, &format!("--timeout={TIMEOUT}s")];
    demo.kubectl(&wait).map(drop).map_err(|error| {
        let log = demo.kubectl(&["logs", pod, "-c", "daprd", "--tail=20"]).unwrap_or_default();
        let events = demo.kubectl(&["describe", "pod", pod]).unwrap_or_default();
        error.context(format!("{log}\n{}", process::tail(&events)))
    })
}

fn every_argument_was_there(demo: &Demo) -> Result<()> {
    let list = demo.cluster().get(&["pods", "-n", NAMESPACE])?;
    let pods = list["items"].as_array().context("no pods")?;
    let containers = pods.iter().filter_map(|pod| pod["spec"]["containers"].as_array()).flatten();
    let sidecars = containers.filter(|container| container["name"] == "daprd");
    let args = sidecars.filter_map(|c| c["args"].as_array()).flatten().filter_map(Value::as_str);
    let seen: BTreeSet<&str> = args.filter(|arg| arg.starts_with("--")).collect();
    let missing: Vec<_> = ARGUMENTS.iter().filter(|arg| !seen.contains(**arg)).collect();
    ensure!(missing.is_empty(), "no sidecar was given {missing:?}");
    Ok(())
}

fn answers_on_sockets(demo: &Demo) -> Result<()> {
    let answer = demo.kubectl(&["exec", "sockets", "-c", "app", "--", "node", "-e", ASK_SOCKET])?;
    ensure!(answer.trim() == "status 200", "{answer}");
    Ok(())
}

fn runs_under_the_debugger(demo: &Demo) -> Result<()> {
    let log = demo.kubectl(&["logs", "debug", "-c", "daprd"])?;
    ensure!(log.contains("API server listening at: 0.0.0.0:41000"), "{}", process::tail(&log));
    Ok(())
}

fn completes(demo: &Demo) -> Result<()> {
    let wait = ["wait", "--for=condition=Complete", "job/job", &format!("--timeout={TIMEOUT}s")];
    demo.kubectl(&wait)?;
    let list = demo.cluster().get(&["pods", "-n", NAMESPACE, "-l", "job-name=job"])?;
    let pod = &list["items"][0];
    ensure!(names_of(pod) == ["app"], "the sidecar is no native one: {}", pod["spec"]);
    let sidecar = &pod["spec"]["initContainers"][0];
    ensure!(sidecar["name"] == "daprd" && sidecar["restartPolicy"] == "Always", "{sidecar}");
    Ok(())
}

fn outlives_the_stop_signal(demo: &Demo) -> Result<()> {
    ready(demo, "block")?;
    demo.kubectl(&["delete", "pod", "block", "--wait=false"])?;
    until(Deadline::seconds(TIMEOUT), "the application's call after its stop signal", || {
        let log = demo.kubectl(&["logs", "block", "-c", "app"])?;
        ensure!(!log.contains("refused"), "the sidecar had ended: {log}");
        Ok(log.contains("answered 200").then_some(()))
    })
}
