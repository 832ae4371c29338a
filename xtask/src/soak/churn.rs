//! What a round changes, and the services that see it.

use std::num::NonZeroI32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::accounts::bound_token;
use blackbox::injector_fixture::{NAMESPACE, Rights};
use blackbox::{
    ACTOR_STATE, Daprd, Deadline, InjectorFixture, Ports, Process, Scratch, Spawn, TriggerApp,
    build_binary, environment, http, until,
};
use serde_json::{Value, json};

/// Pods of a rollout.
const REPLICAS: usize = 3;
/// Where the apps are.
const APPS: &str = "default";
/// Audience of the tokens that sentry accepts.
const AUDIENCE: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";

fn soon() -> Deadline {
    Deadline::seconds(180)
}

/// All services with mTLS, beside an API server.
pub(super) struct Fixture {
    operator: Process,
    placement: Process,
    scheduler: Process,
    operator_port: u16,
    placement_port: u16,
    scheduler_port: u16,
    app: TriggerApp,
    injector: InjectorFixture,
}

impl Fixture {
    pub(super) fn start() -> Result<Self> {
        let injector = InjectorFixture::start(Rights::Ours)?;
        let api = &injector.api;
        api.apply(&render(&injector)?)?;
        for part in ["placement", "scheduler"] {
            api.apply(&control_plane_pod(part).to_string())?;
        }
        api.apply(
            &ACTOR_STATE.replace("{name: store}", &format!("{{name: store, namespace: {APPS}}}")),
        )?;
        let ports = Ports::free()?;
        let spawn = injector.spawn_operator(ports)?.env("ENABLE_WEBHOOKS", "false");
        let mut operator = spawn.start()?;
        operator.wait_for_http(ports.healthz, "/healthz", soon())?;
        let operator_port = ports.main;
        let peers = environment::free_port()?;
        let peers = format!("--initial-cluster=dapr-placement-0=127.0.0.1:{peers}");
        let (placement, placement_port) =
            start(&injector, "placement", build_binary("placement")?, &[peers])?;
        let data = folder(&injector)?.path().join("jobs");
        let data = format!("--etcd-data-dir={}", data.display());
        let etcd = format!("--etcd-client-port={}", environment::free_port()?);
        let (scheduler, scheduler_port) =
            start(&injector, "scheduler", build_binary("scheduler")?, &[data, etcd])?;
        let app = TriggerApp::start(&["counter"])?;
        Ok(Self {
            operator,
            placement,
            scheduler,
            operator_port,
            placement_port,
            scheduler_port,
            app,
            injector,
        })
    }

    /// Name and id of each service.
    pub(super) fn services(&self) -> [(&'static str, NonZeroI32); 5] {
        [
            ("injector", self.injector.injector.process.pid().as_raw_nonzero()),
            ("operator", self.operator.pid().as_raw_nonzero()),
            ("placement", self.placement.pid().as_raw_nonzero()),
            ("scheduler", self.scheduler.pid().as_raw_nonzero()),
            ("sentry", self.injector.sentry.pid().as_raw_nonzero()),
        ]
    }

    /// A Deployment and a Component come, a sidecar of it gets a certificate, hosts an actor type and
    /// takes a job, both objects change, and all go. Returns the time from the Deployment's creation
    /// to the app's Service, which the operator owns.
    pub(super) fn round(&self, number: u64) -> Result<Duration> {
        let api = &self.injector.api;
        let name = format!("soak-{number}");
        let selector = format!("app={name}");
        api.apply(&app(&name, 1).to_string())?;
        let begin = Deadline::seconds(0);
        let service = format!("{name}-dapr");
        until(soon(), "the app's Service", || {
            Ok(api.get(&["service", &service, "-n", APPS]).ok())
        })?;
        let lag = begin.elapsed();
        let pod = until(soon(), "pods with sidecars", || {
            let pods = api.get(&["pods", "-n", APPS, "-l", &selector])?;
            let mut names = injected(&pods);
            Ok((names.len() >= REPLICAS).then(|| names.pop()).flatten())
        })?;
        self.sidecar(&name, &pod, number)?;
        api.apply(&app(&name, 2).to_string())?;
        until(soon(), "the rollout", || {
            let set = api.get(&["deployment", &name, "-n", APPS])?;
            let of = |path: &str| set.pointer(path).and_then(Value::as_u64);
            let seen = of("/status/observedGeneration") == of("/metadata/generation");
            Ok((seen && of("/status/updatedReplicas") > Some(0)).then_some(()))
        })?;
        api.kubectl(&["delete", "deployment,component", &name, "-n", APPS, "--cascade=foreground"])
            .context("delete the app")?;
        let pods = ["delete", "pods", "-n", APPS, "-l", &selector, "--force"];
        api.kubectl(&[&pods[..], &["--grace-period=0", "--ignore-not-found"]].concat())?;
        until(soon(), "the end of the Service", || {
            Ok(api.get(&["service", &service, "-n", APPS]).is_err().then_some(()))
        })?;
        Ok(lag)
    }

    /// The official sidecar of a pod, from its certificate to a delivered job.
    fn sidecar(&self, app_id: &str, pod: &str, number: u64) -> Result<()> {
        let token = self.injector.api.kubectl(&[
            "create",
            "token",
            "default",
            "-n",
            APPS,
            "--audience",
            AUDIENCE,
            "--bound-object-kind",
            "Pod",
            "--bound-object-name",
            pod,
        ])?;
        let token = folder(&self.injector)?.write("sidecar-token", token.trim())?;
        let delivered = self.app.received().len();
        let mut daprd = Daprd::builder(app_id)
            .args(["--mode", "kubernetes", "--enable-mtls", "--disable-builtin-k8s-secret-store"])
            .args(["--control-plane-address", &local(self.operator_port)])
            .args(["--sentry-address", &local(self.injector.sentry_port())])
            .placement(&local(self.placement_port))
            .scheduler(&local(self.scheduler_port))
            .args(["--app-port", &self.app.port().to_string()])
            .on_loopback()
            .env("DAPR_TRUST_ANCHORS", self.injector.anchors()?)
            .env("DAPR_SENTRY_TOKEN_FILE", token.to_string_lossy())
            .env("NAMESPACE", APPS)
            .env("POD_NAME", pod)
            .env("DAPR_CONTROLPLANE_NAMESPACE", NAMESPACE)
            .env("DAPR_CONTROLPLANE_TRUST_DOMAIN", "cluster.local")
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
            .start()?;
        let ready = daprd.wait_ready(soon());
        ready.with_context(|| self.logs())?;
        let job = json!({"dueTime": "0s", "data": {"round": number}});
        let answer = http::post(daprd.http_port, "/v1.0-alpha1/jobs/hello", &job)?;
        ensure!(answer.is_success(), "schedule a job: {} {}", answer.status, answer.body);
        let job =
            until(soon(), "the job", || Ok((self.app.received().len() > delivered).then_some(())));
        job.with_context(|| format!("{}\n{}", daprd.log(), self.logs()))
    }

    /// The ends of the logs of the services that a sidecar connects to.
    fn logs(&self) -> String {
        let services = [&self.operator, &self.placement, &self.scheduler, &self.injector.sentry];
        services.map(|process| blackbox::process::tail(&process.log())).join("\n")
    }
}

/// The roles of the control plane, as the chart grants them.
fn render(fixture: &InjectorFixture) -> Result<String> {
    let chart = environment::workspace().join("charts/dapr");
    let chart = chart.to_string_lossy();
    let mut args = vec!["template", "dapr", &chart, "--namespace", NAMESPACE];
    args.extend(["--set", "global.controlPlane.registry=registry.example/trilby"]);
    args.extend(["--show-only", "templates/operator/rbac.yaml"]);
    args.extend(["--show-only", "templates/placement/rbac.yaml"]);
    args.extend(["--show-only", "templates/scheduler/rbac.yaml"]);
    fixture.api.cluster().helm(&args)
}

/// The pod that the token of a service is bound to.
fn control_plane_pod(part: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": part, "namespace": NAMESPACE,
            "annotations": {"dapr.io/control-plane": part}},
        "spec": {"serviceAccountName": format!("dapr-{part}"),
            "containers": [{"name": part, "image": part}]},
    })
}

fn start(
    fixture: &InjectorFixture,
    part: &str,
    program: PathBuf,
    flags: &[String],
) -> Result<(Process, u16)> {
    let folder = folder(fixture)?;
    let file = format!("{part}-token");
    let token = bound_token(&fixture.api, folder, &file, &format!("dapr-{part}"), part)?;
    let anchors = folder.write("anchors.crt", fixture.anchors()?)?;
    let ports = Ports::free()?;
    let mut process = Spawn::new(part, program, folder.path())
        .args(["--tls-enabled", "--mode=kubernetes", "--trust-domain=cluster.local"])
        .arg(format!("--sentry-address={}", local(fixture.sentry_port())))
        .arg(format!("--trust-anchors-file={}", anchors.display()))
        .args(flags)
        .service_at(ports)
        .env("NAMESPACE", NAMESPACE)
        .env("KUBECONFIG", fixture.api.kubeconfig())
        .env("DAPR_SENTRY_TOKEN_FILE", token)
        .start()?;
    process.wait_for_http(ports.healthz, "/healthz", soon())?;
    Ok((process, ports.main))
}

fn folder(fixture: &InjectorFixture) -> Result<&Scratch> {
    fixture.api.scratch().context("the cluster has no folder of its own")
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A Deployment with pods that ask for a sidecar, and a Component.
fn app(name: &str, version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": APPS},
            "spec": {"replicas": REPLICAS, "selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}, "annotations": {
                    "dapr.io/enabled": "true", "dapr.io/app-id": name, "round": version.to_string()}},
                "spec": {"containers": [{"name": "app", "image": "app"}]}}},
        },
        {
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": name, "namespace": APPS},
            "scopes": [name],
            "spec": {"type": "state.in-memory", "version": "v1",
                "metadata": [{"name": "round", "value": version.to_string()}]},
        },
    ]})
}

/// The names of the pods that have a sidecar.
fn injected(pods: &Value) -> Vec<String> {
    let pods = pods.pointer("/items").and_then(Value::as_array).into_iter().flatten();
    let with_sidecar = pods.filter(|pod| {
        let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
        containers.into_iter().flatten().any(|c| c.get("name") == Some(&json!("daprd")))
    });
    let name = |pod: &Value| Some(pod.pointer("/metadata/name")?.as_str()?.to_owned());
    with_sidecar.filter_map(name).collect()
}
