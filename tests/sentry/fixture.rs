//! The fixture of the sentry suite: namespaces, objects, a sentry process and its clients.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail where they are")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::{ApiCluster, Deadline, Ports, Process, Scratch, Spawn, build_binary, http, until};
use identity::{CertChain, KeyKind, PrivateKey, SpiffeId, TrustAnchors};
use proto::sentry::ca_client::CaClient;
use proto::sentry::{SignCertificateRequest, SignCertificateResponse};
use serde_json::Value;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::Channel;

pub(crate) const TRUST_DOMAIN: &str = "cluster.local";
/// Timeout of a sentry's start, in seconds.
const START_TIMEOUT: u64 = 60;

/// A control plane namespace as the chart creates it, on the common API server.
pub(crate) struct System {
    pub(crate) api: &'static ApiCluster,
    pub(crate) namespace: String,
    logs: Scratch,
}

impl System {
    pub(crate) fn new() -> Result<Self> {
        Self::with_lifetimes("24h", "15m")
    }

    /// Creates one with the given certificate lifetime and clock skew.
    pub(crate) fn with_lifetimes(ttl: &str, clock_skew: &str) -> Result<Self> {
        Self::on(ApiCluster::common()?, ttl, clock_skew)
    }

    /// Creates one on an API server that no other test uses.
    pub(crate) fn alone() -> Result<Self> {
        // Its processes and its folder end with the process of the test.
        let api = Box::leak(Box::new(ApiCluster::start_with_definitions()?));
        Self::on(api, "24h", "15m")
    }

    fn on(api: &'static ApiCluster, ttl: &str, clock_skew: &str) -> Result<Self> {
        let namespace = api.namespace("system")?;
        let system = Self { api, namespace, logs: Scratch::new("sentry-logs")? };
        api.apply(&system.manifests(ttl, clock_skew))?;
        Ok(system)
    }

    fn manifests(&self, ttl: &str, clock_skew: &str) -> String {
        let namespace = &self.namespace;
        format!(
            "apiVersion: v1
kind: Secret
metadata: {{name: dapr-trust-bundle, namespace: {namespace}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: dapr-trust-bundle, namespace: {namespace}}}
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: daprsystem, namespace: {namespace}}}
spec:
  mtls: {{enabled: true, workloadCertTTL: {ttl}, allowedClockSkew: {clock_skew}, sentryAddress: x, controlPlaneTrustDomain: {TRUST_DOMAIN}}}
"
        )
    }

    /// Starts a sentry without waiting for it.
    pub(crate) fn start(&self, name: &str) -> Result<Sentry> {
        self.start_with(name, &[])
    }

    /// Starts a sentry with additional flags, without waiting for it.
    pub(crate) fn start_with(&self, name: &str, flags: &[&str]) -> Result<Sentry> {
        let ports = Ports::free()?;
        let process = Spawn::new(name, build_binary("sentry")?, self.logs.path())
            .args(["--mode", "kubernetes", "--log-level", "debug", "--trust-domain", TRUST_DOMAIN])
            .arg("--kubeconfig")
            .arg(self.api.kubeconfig())
            .service_at(ports)
            .args(flags)
            .env("NAMESPACE", &self.namespace)
            .start()?;
        let Ports { main: port, healthz, metrics } = ports;
        Ok(Sentry { process, port, healthz, metrics, namespace: self.namespace.clone() })
    }

    /// Starts a sentry and waits until it is ready.
    pub(crate) fn start_ready(&self) -> Result<Sentry> {
        let mut sentry = self.start("sentry")?;
        sentry.wait_ready()?;
        Ok(sentry)
    }

    /// `data` of the Secret (base64) or the ConfigMap.
    pub(crate) fn data(&self, kind: &str) -> Result<Value> {
        let object = self.api.get(&[kind, "dapr-trust-bundle", "-n", &self.namespace])?;
        Ok(object.get("data").cloned().unwrap_or_default())
    }

    /// Merges keys into `data` (ConfigMap) or `stringData` (Secret).
    pub(crate) fn patch(&self, kind: &str, data: &Value) -> Result<()> {
        let member = if kind == "secret" { "stringData" } else { "data" };
        let patch = serde_json::json!({ member: data }).to_string();
        let args =
            ["patch", kind, "dapr-trust-bundle", "-n", &self.namespace, "--type=merge", "-p"];
        self.api.kubectl(&[&args[..], &[&patch]].concat())?;
        Ok(())
    }

    /// A key of the Secret, decoded.
    pub(crate) fn secret(&self, key: &str) -> Result<String> {
        let data = self.data("secret")?;
        let text = data.get(key).and_then(Value::as_str).with_context(|| format!("no {key}"))?;
        Ok(String::from_utf8(STANDARD.decode(text)?)?)
    }

    /// The rotation stage in the annotations of the Secret.
    pub(crate) fn stage(&self) -> Result<Option<String>> {
        let secret = self.api.get(&["secret", "dapr-trust-bundle", "-n", &self.namespace])?;
        let stage = secret.pointer("/metadata/annotations/dapr.io~1ca-rotation-stage");
        Ok(stage.and_then(Value::as_str).map(str::to_owned))
    }

    pub(crate) fn wait_for_stage(&self, want: Option<&str>) -> Result<()> {
        until(Deadline::seconds(150), &format!("stage {want:?} of the rotation"), || {
            Ok((self.stage()?.as_deref() == want).then_some(()))
        })
    }

    /// Requests a rotation.
    pub(crate) fn rotate(&self) -> Result<()> {
        let secret = ["annotate", "secret", "dapr-trust-bundle", "dapr.io/rotate-ca=now"];
        self.api.kubectl(&[&secret[..], &["-n", &self.namespace]].concat()).map(drop)
    }

    /// The published trust anchors.
    pub(crate) fn anchors(&self) -> Result<TrustAnchors> {
        let data = self.data("configmap")?;
        let text = data.get("ca.crt").and_then(Value::as_str).context("no ca.crt")?;
        Ok(TrustAnchors::parse_pem(text.as_bytes())?)
    }

    /// The audience that sidecars' tokens carry.
    pub(crate) fn audience(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/dapr-sentry", self.namespace)
    }

    /// Creates a pod. It stays pending, which is enough for a token.
    pub(crate) fn pod(&self, namespace: &str, name: &str, annotations: &Value) -> Result<()> {
        self.pod_as(namespace, name, "default", annotations)
    }

    /// A pod that runs as this ServiceAccount.
    pub(crate) fn pod_as(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        annotations: &Value,
    ) -> Result<()> {
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
            "spec": {"serviceAccountName": account, "containers": [{"name": "app", "image": "none"}]},
        });
        self.api.apply(&pod.to_string()).map(drop)
    }

    /// The token that the kubelet would project into a pod.
    pub(crate) fn pod_token(&self, namespace: &str, pod: &str) -> Result<String> {
        self.pod_token_as(namespace, pod, "default")
    }

    /// The token of a pod that runs as this ServiceAccount.
    pub(crate) fn pod_token_as(&self, namespace: &str, pod: &str, account: &str) -> Result<String> {
        let audience = self.audience();
        let token = self.api.kubectl(&[
            "create",
            "token",
            account,
            "-n",
            namespace,
            "--bound-object-kind",
            "Pod",
            "--bound-object-name",
            pod,
            "--audience",
            &audience,
        ])?;
        Ok(token.trim().to_owned())
    }
}

/// A running sentry.
pub(crate) struct Sentry {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) healthz: u16,
    pub(crate) metrics: u16,
    namespace: String,
}

impl Sentry {
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        self.process.wait_for_http(self.healthz, "/healthz", Deadline::seconds(START_TIMEOUT))
    }

    /// The status of `/healthz`.
    pub(crate) fn health(&self) -> Result<u16> {
        Ok(http::get(self.healthz, "/healthz")?.status)
    }

    /// The value of a time series.
    pub(crate) fn metric(&self, line: &str) -> Result<Option<f64>> {
        http::metric(self.metrics, line)
    }

    pub(crate) fn wait_for_metric(&self, line: &str, want: f64) -> Result<()> {
        until(Deadline::seconds(60), &format!("{line} to be {want}"), || {
            let got = self.metric(line)?;
            Ok(got.is_some_and(|got| (got - want).abs() < 0.5).then_some(()))
        })
    }

    /// Connects, trusting `anchors`.
    pub(crate) async fn client(&self, anchors: &TrustAnchors) -> Result<CaClient<Channel>> {
        let id = format!("spiffe://{TRUST_DOMAIN}/ns/{}/dapr-sentry", self.namespace);
        let anchors = watch::channel(Arc::new(anchors.clone())).1;
        let tls = transport::tls::anonymous_client(anchors, SpiffeId::parse(&id)?)?;
        let channel = transport::dial(&format!("127.0.0.1:{}", self.port), tls).await?;
        Ok(CaClient::new(channel))
    }

    /// One request on one connection.
    pub(crate) fn sign(
        &self,
        anchors: &TrustAnchors,
        request: SignCertificateRequest,
    ) -> Result<SignCertificateResponse, Status> {
        runtime().block_on(async {
            let client = self.client(anchors).await;
            let mut client = client.map_err(|e| Status::unknown(format!("{e:#}")))?;
            let call = client.sign_certificate(request);
            match tokio::time::timeout(Duration::from_mins(1), call).await {
                Ok(answer) => answer.map(tonic::Response::into_inner),
                Err(_) => Err(Status::unknown("no response within a minute")),
            }
        })
    }
}

/// A runtime for the asynchronous part of a test.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A request with a new key.
pub(crate) fn request(namespace: &str, id: &str, token: &str) -> SignCertificateRequest {
    let key = PrivateKey::generate(KeyKind::Ed25519).unwrap();
    SignCertificateRequest {
        id: id.to_owned(),
        namespace: namespace.to_owned(),
        token: token.to_owned(),
        certificate_signing_request: identity::csr_pem(&key).unwrap().into_bytes(),
        token_validator: 2,
        ..SignCertificateRequest::default()
    }
}

/// The verified chain of a response.
pub(crate) fn verified(
    answer: &SignCertificateResponse,
    anchors: &TrustAnchors,
) -> (CertChain, SpiffeId) {
    let chain = CertChain::parse_pem(&answer.workload_certificate).unwrap();
    let id = identity::verify_svid(chain.certs(), anchors, runtime::clock::now()).unwrap();
    (chain, id)
}

/// The output of openssl for the leaf of a chain.
pub(crate) fn openssl_text(chain: &CertChain) -> String {
    let scratch = Scratch::new("leaf").unwrap();
    let file: PathBuf = scratch.path().join("leaf.pem");
    std::fs::write(&file, chain.to_pem()).unwrap();
    let mut command = std::process::Command::new("openssl");
    command.args(["x509", "-noout", "-text", "-in"]).arg(file);
    blackbox::process::output(&mut command).unwrap()
}
