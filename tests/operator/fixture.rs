//! An API server, sentry and the operator, shared by the tests of this suite.
pub(crate) mod proxy;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, Result};
pub(crate) use blackbox::operator_fixture::SYSTEM;
use blackbox::operator_fixture::{self, OperatorFixture, install};
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
use transport::anchors::AnchorSource;
use transport::{Svid, svid};

/// Timeout of every wait.
pub(crate) const TIMEOUT: u64 = 60;

/// The programs that all tests of a run share, and the folder of this process.
pub(crate) struct Fixture {
    pub(crate) api: &'static ApiCluster,
    pub(crate) sentry_port: u16,
    pub(crate) operator: SharedOperator,
    pub(crate) anchors: String,
    folder: Scratch,
}

/// The operator that all tests share.
pub(crate) struct SharedOperator {
    common: &'static OperatorFixture,
    pub(crate) port: u16,
}

impl SharedOperator {
    /// The value of a series; 0 if it does not exist.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        metric(self.common.ports.metrics, series)
    }

    pub(crate) fn log(&self) -> String {
        self.common.log()
    }
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
        let common = OperatorFixture::common()?;
        let folder = Scratch::new("operator-suite")?;
        let anchors =
            fs::read_to_string(common.anchors_file()).context("read the root of sentry")?;
        let operator = SharedOperator { common, port: common.ports.main };
        Ok(Self { api: &common.api, sentry_port: common.sentry_port, operator, anchors, folder })
    }

    /// Held by a test that breaks the definition of Subscriptions: conversion fails for all tests until
    /// the operator repairs it.
    pub(crate) fn subscription_definition(&self) -> File {
        self.operator.common.turn("subscription-definition").expect("wait for the definition")
    }

    /// Held by a test whose operator writes the status of Components, in all namespaces.
    pub(crate) fn component_status(&self) -> File {
        self.operator.common.turn("component-status").expect("wait for the status")
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
        let program = build_binary("operator").expect("build the operator");
        let mut spawn = self.operator_args(program, &kubeconfig, name).expect("take ports");
        spawn.spawn = spawn.spawn.env("ENABLE_WEBHOOKS", "false");
        spawn
    }

    /// Starts the reference operator, with the same sentry and API server.
    pub(crate) fn reference_operator(&self) -> Operator {
        let kubeconfig = self.api.kubeconfig().to_path_buf();
        let program = Tool::REFERENCE_OPERATOR.path().expect("find the reference operator");
        let spawn = self
            .operator_args(program, &kubeconfig, "reference")
            .expect("take ports")
            .arg("--disable-service-reconciler");
        let spawn = OperatorSpawn { spawn: spawn.spawn.env("ENABLE_WEBHOOKS", "false"), ..spawn };
        let mut operator = spawn.start_operator().expect("start the reference operator");
        operator.wait_ready().expect("the reference operator is ready");
        operator
    }

    fn operator_args(
        &self,
        program: PathBuf,
        kubeconfig: &Path,
        name: &str,
    ) -> Result<OperatorSpawn> {
        let (ports, logs) = (Ports::free()?, self.folder.path());
        let anchors = self.operator.common.anchors_file();
        let spawn = operator_fixture::spawn(name, program, logs, ports, kubeconfig, &anchors);
        Ok(OperatorSpawn { spawn, ports })
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
        metric(self.ports.metrics, series)
    }
}

fn metric(port: u16, series: &str) -> f64 {
    http::metric(port, series).expect("read the metrics").unwrap_or_default()
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
