//! An API server, sentry and the operator, shared by the tests of this suite.
pub(crate) mod proxy;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use anyhow::{Context as _, Result};
use blackbox::{
    ApiCluster, ApiClusterOptions, Deadline, Ports, Process, Scratch, Spawn, Tool, build_binary,
    environment, http,
};
use identity::{KeyKind, SpiffeId, TrustAnchors, TrustDomain};
use proto::operator::operator_client::OperatorClient;
use runtime::Scope;
use testkit::ca::Ca;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use transport::{Svid, anchors::AnchorSource, svid};

/// Namespace of the control plane.
pub(crate) const SYSTEM: &str = "dapr-system";
/// Timeout of every wait.
pub(crate) const TIMEOUT: u64 = 60;

/// The programs that all tests share.
pub(crate) struct Fixture {
    pub(crate) api: &'static ApiCluster,
    pub(crate) sentry_port: u16,
    pub(crate) operator: Operator,
    pub(crate) anchors: String,
    folder: Scratch,
    _sentry: Process,
}

/// An operator as a process.
pub(crate) struct Operator {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) ports: Ports,
}

impl Fixture {
    /// The fixture of this test process; the first test sets it up.
    pub(crate) fn shared() -> &'static Self {
        static FIXTURE: OnceLock<Fixture> = OnceLock::new();
        FIXTURE.get_or_init(|| Self::new().expect("set up the fixture"))
    }

    fn new() -> Result<Self> {
        let api = ApiCluster::shared()?;
        let folder = Scratch::new("operator-suite")?;
        let sentry_port = environment::free_port()?;
        let webhook_port = environment::free_port()?;
        install(api, sentry_port, webhook_port)?;
        let sentry = start_sentry(&folder, sentry_port)?;
        let anchors = folder.path().join("credentials/ca.crt");
        let mut operator = spawn_operator(&folder, &api.kubeconfig().to_path_buf(), "operator")?
            .args(["--webhook-server-port", &webhook_port.to_string()])
            .args(["--watch-secrets", "--enable-daemonset-service-reconciler"])
            .start_operator()?;
        operator.wait_ready()?;
        let anchors = fs::read_to_string(anchors).context("read the root of sentry")?;
        Ok(Self { api, sentry_port, operator, anchors, folder, _sentry: sentry })
    }

    /// Held by a test that breaks the definition of Subscriptions: conversion fails for all tests until
    /// the operator repairs it.
    pub(crate) fn subscription_definition() -> MutexGuard<'static, ()> {
        static HELD: Mutex<()> = Mutex::new(());
        HELD.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts another operator, which reconciles neither Services nor the CRD.
    pub(crate) fn another_operator(&self) -> Operator {
        let mut operator =
            self.spawn("another").arg("--disable-service-reconciler").start_operator();
        if let Ok(operator) = operator.as_mut() {
            operator.wait_ready().expect("another operator is ready");
        }
        operator.expect("start another operator")
    }

    /// An operator that is not started.
    pub(crate) fn spawn(&self, name: &str) -> OperatorSpawn {
        let kubeconfig = self.api.kubeconfig().to_path_buf();
        let mut spawn =
            spawn_operator(&self.folder, &kubeconfig, name).expect("build the operator");
        spawn.spawn = spawn.spawn.env("ENABLE_WEBHOOKS", "false");
        spawn
    }

    /// Starts the reference operator, with the same sentry and API server.
    pub(crate) fn reference_operator(&self) -> Operator {
        let kubeconfig = self.api.kubeconfig().to_path_buf();
        let program = Tool::REFERENCE_OPERATOR.path().expect("find the reference operator");
        let spawn = operator_args(&self.folder, program, &kubeconfig, "reference")
            .expect("take ports")
            .arg("--disable-service-reconciler");
        let spawn = OperatorSpawn { spawn: spawn.spawn.env("ENABLE_WEBHOOKS", "false"), ..spawn };
        let mut operator = spawn.start_operator().expect("start the reference operator");
        operator.wait_ready().expect("the reference operator is ready");
        operator
    }

    /// A sidecar with a certificate from sentry.
    pub(crate) fn sidecar(&self, namespace: &str, app_id: &str, port: u16) -> Sidecar {
        Sidecar::new(self, namespace, app_id, port).expect("get a certificate from sentry")
    }

    /// A second API server, used only by the test that holds the guard.
    #[expect(clippy::unused_self, reason = "callers have the fixture")]
    pub(crate) fn second(&self) -> (MutexGuard<'static, ()>, &'static ApiCluster) {
        static API: OnceLock<ApiCluster> = OnceLock::new();
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let api = API.get_or_init(|| {
            let options = ApiClusterOptions { controllers: false, ..ApiClusterOptions::default() };
            ApiCluster::start_with(options).expect("start a second API server")
        });
        (turn, api)
    }

    /// A third API server, which does not support streaming lists, and the port of its conversion
    /// webhook. Each test uses its own namespace.
    pub(crate) fn of_old(&self) -> (&'static ApiCluster, u16) {
        static API: OnceLock<(ApiCluster, u16)> = OnceLock::new();
        let (api, webhook) = API.get_or_init(|| {
            let options = ApiClusterOptions { controllers: false, streamed_lists: false };
            let api = ApiCluster::start_with(options).expect("start a cluster as of old");
            let webhook = self.install_on(&api).expect("install the CRDs");
            (api, webhook)
        });
        (api, *webhook)
    }

    /// Installs CRDs and the control plane's Configuration on another API server; returns the port of
    /// its conversion webhook.
    pub(crate) fn install_on(&self, other: &ApiCluster) -> Result<u16> {
        let port = environment::free_port()?;
        install(other, self.sentry_port, port)?;
        Ok(port)
    }

    /// Applies manifests to a namespace of another API server; creates the namespace if it is absent.
    #[expect(clippy::unused_self, reason = "beside `apply`")]
    pub(crate) fn apply_on(&self, other: &ApiCluster, namespace: &str, manifests: &str) {
        let _ = other.kubectl(&["create", "namespace", namespace]);
        let args = ["apply", "-n", namespace, "-f", "-"];
        other.cluster().kubectl_with_input(&args, manifests).expect("apply manifests");
    }

    /// Applies manifests to a namespace.
    pub(crate) fn apply(&self, namespace: &str, manifests: &str) {
        let args = ["apply", "-n", namespace, "-f", "-"];
        self.api.cluster().kubectl_with_input(&args, manifests).expect("apply manifests");
    }
}

/// Namespace, CRDs and the control plane's Configuration.
fn install(api: &ApiCluster, sentry_port: u16, webhook_port: u16) -> Result<()> {
    let mut manifests = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {SYSTEM}}}\n");
    for entry in fs::read_dir(environment::workspace().join("crds"))? {
        // The API server reaches the webhook through the Service below, at our port.
        let with_port = format!("          path: /convert\n          port: {webhook_port}");
        let definition = fs::read_to_string(entry?.path())?;
        manifests += "\n---\n";
        manifests += &definition.replace("          path: /convert", &with_port);
    }
    api.apply(&manifests)?;
    let names = ["crd", "--all", "--for=condition=Established", "--timeout=60s"];
    api.kubectl(&[&["wait"], names.as_slice()].concat())?;
    api.apply(&format!(
        "
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: daprsystem, namespace: {SYSTEM}}}
spec: {{mtls: {{enabled: true, controlPlaneTrustDomain: cluster.local, sentryAddress: '127.0.0.1:{sentry_port}'}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: dapr-webhook, namespace: {SYSTEM}}}
spec: {{type: ExternalName, externalName: 127.0.0.1, ports: [{{port: {webhook_port}}}]}}
"
    ))?;
    Ok(())
}

fn start_sentry(folder: &Scratch, port: u16) -> Result<Process> {
    let config = folder.write(
        "sentry.yaml",
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: daprsystem}\nspec: {mtls: {enabled: true}}\n",
    )?;
    let credentials = folder.path().join("credentials");
    fs::create_dir_all(&credentials)?;
    let ports = Ports::with_main(port)?;
    let mut sentry = Spawn::new("sentry", build_binary("sentry")?, folder.path())
        .args(["--mode", "standalone", "--trust-domain", "cluster.local", "--enable-metrics=false"])
        .arg("--config")
        .arg(config)
        .arg("--issuer-credentials")
        .arg(credentials)
        .service_at(ports)
        .env("NAMESPACE", SYSTEM)
        .start()?;
    sentry.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(TIMEOUT))?;
    Ok(sentry)
}

/// An operator that is not started.
pub(crate) struct OperatorSpawn {
    pub(crate) spawn: Spawn,
    ports: Ports,
}

impl OperatorSpawn {
    pub(crate) fn arg(mut self, arg: &str) -> Self {
        self.spawn = self.spawn.arg(arg);
        self
    }

    pub(crate) fn args<const N: usize>(mut self, args: [&str; N]) -> Self {
        self.spawn = self.spawn.args(args);
        self
    }

    pub(crate) fn start_operator(self) -> Result<Operator> {
        let process = self.spawn.start()?;
        Ok(Operator { process, port: self.ports.main, ports: self.ports })
    }
}

impl Operator {
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        self.process.wait_for_http(self.ports.healthz, "/healthz", Deadline::seconds(TIMEOUT))
    }

    /// The value of a series; 0 if it does not exist.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        http::metric(self.ports.metrics, series).expect("read the metrics").unwrap_or_default()
    }
}

fn spawn_operator(folder: &Scratch, kubeconfig: &PathBuf, name: &str) -> Result<OperatorSpawn> {
    operator_args(folder, build_binary("operator")?, kubeconfig, name)
}

fn operator_args(
    folder: &Scratch,
    program: PathBuf,
    kubeconfig: &PathBuf,
    name: &str,
) -> Result<OperatorSpawn> {
    let ports = Ports::free()?;
    let spawn = Spawn::new(name, program, folder.path())
        .service_at(ports)
        // One dash, as in manifests written for Go programs.
        .arg("-kubeconfig")
        .arg(kubeconfig)
        .arg("--disable-leader-election")
        .arg("--trust-anchors-file")
        .arg(folder.path().join("credentials/ca.crt"))
        .env("NAMESPACE", SYSTEM);
    Ok(OperatorSpawn { spawn, ports })
}

/// A certificate and a connection to the operator, with blocking methods.
pub(crate) struct Sidecar {
    pub(crate) runtime: Runtime,
    pub(crate) client: OperatorClient<Channel>,
    pub(crate) namespace: String,
    scope: Scope,
}

impl Sidecar {
    fn new(fixture: &Fixture, namespace: &str, app_id: &str, port: u16) -> Result<Self> {
        let options = svid::Options {
            app_id: app_id.to_owned(),
            namespace: namespace.to_owned(),
            trust_domain: TrustDomain::parse("cluster.local")?,
            control_plane_namespace: SYSTEM.to_owned(),
            sentry_address: format!("127.0.0.1:{}", fixture.sentry_port),
            anchors: AnchorSource::Pem(fixture.anchors.clone()),
            key_kind: KeyKind::Ed25519,
            mode: svid::Mode::Standalone,
        };
        let (scope, runtime) = (Scope::for_test(), Runtime::new()?);
        let svid = runtime.block_on(svid::start(options, &scope))?;
        Self::connect(runtime, scope, &svid, namespace, port)
    }

    /// The app `orders` with a certificate of another CA.
    pub(crate) fn of_authority(
        fixture: &Fixture,
        ca: &Ca,
        namespace: &str,
        port: u16,
    ) -> Result<Self> {
        let anchors = TrustAnchors::parse_pem(fixture.anchors.as_bytes())?;
        let (_, anchors) = tokio::sync::watch::channel(Arc::new(anchors));
        let own = ca.svid(namespace, "orders");
        let svid = Svid::fixed(svid::CertifiedSvid::new(own.chain, &own.key)?, anchors);
        Self::connect(Runtime::new()?, Scope::for_test(), &svid, namespace, port)
    }

    fn connect(
        runtime: Runtime,
        scope: Scope,
        svid: &Svid,
        namespace: &str,
        port: u16,
    ) -> Result<Self> {
        let trust_domain = TrustDomain::parse("cluster.local")?;
        let operator = SpiffeId::new(&trust_domain, SYSTEM, "dapr-operator")?;
        let client = runtime.block_on(async {
            let channel = transport::channel(svid, &format!("127.0.0.1:{port}"), operator)?;
            anyhow::Ok(OperatorClient::new(channel))
        })?;
        Ok(Self { runtime, client, namespace: namespace.to_owned(), scope })
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.scope.shutdown());
    }
}

/// Makes the type `Sync`; the process is only read.
const _: fn() = || {
    fn shareable<T: Send + Sync>() {}
    shareable::<Arc<Fixture>>();
};
