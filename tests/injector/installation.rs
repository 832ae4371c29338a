//! The injector beside its real neighbours: kube-apiserver calls it, sentry gives it its
//! certificate. Both of ours run as processes, with the rights of the account `dapr-injector`.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::OnceLock;

use anyhow::Result;
use blackbox::{ApiBed, Deadline, Process, Scratch, Spawn, build_binary, environment, until};
use serde_json::{Value, json};

/// Namespace of the control plane.
const NAMESPACE: &str = "dapr-system";
/// Audience of the tokens that sentry accepts.
const AUDIENCE: &str = "spiffe://cluster.local/ns/dapr-system/dapr-sentry";
/// Enough for a process to start on a machine that others use too.
pub(crate) const START: u64 = 60;

/// What the injector's account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rights {
    /// What our chart grants.
    Ours,
    /// What the chart of Dapr 1.18.3 grants: no watch, and `patch` alone on the webhook.
    Dapr,
}

/// Sentry, the injector and the webhook's registration, in a cluster of their own.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) injector: Process,
    pub(crate) sentry: Process,
    pub(crate) health_port: u16,
    pub(crate) metrics_port: u16,
    pub(crate) bed: ApiBed,
    scratch: Scratch,
}

impl Installation {
    /// The one that the tests that disturb nobody share.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Installation> = OnceLock::new();
        SHARED.get_or_init(|| Self::start(Rights::Ours).unwrap())
    }

    /// A cluster with the injector, ready.
    pub(crate) fn start(rights: Rights) -> Result<Self> {
        let bed = ApiBed::start()?;
        let scratch = Scratch::new("injector")?;
        prepare(&bed, rights)?;
        let sentry_port = environment::free_port()?;
        let sentry = start_sentry(&bed, &scratch, sentry_port)?;
        let pod_token = bed.kubectl(&[
            "create",
            "token",
            "dapr-injector",
            "-n",
            NAMESPACE,
            "--audience",
            AUDIENCE,
            "--bound-object-kind",
            "Pod",
            "--bound-object-name",
            "injector",
        ])?;
        scratch.write("token", pod_token.trim())?;
        let [port, health_port, metrics_port] =
            [environment::free_port()?, environment::free_port()?, environment::free_port()?];
        register(&bed, port)?;
        let kubeconfig = kubeconfig(&bed, &scratch)?;
        let mut injector = Spawn::new("injector", build_binary("injector")?, scratch.path())
            .args(["-port", &port.to_string(), "--listen-address", "127.0.0.1"])
            .args(["--healthz-port", &health_port.to_string()])
            .args(["--healthz-listen-address", "127.0.0.1"])
            .args(["--metrics-port", &metrics_port.to_string()])
            .args(["--metrics-listen-address", "127.0.0.1", "--log-level", "debug"])
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .env("NAMESPACE", NAMESPACE)
            .env("SIDECAR_IMAGE", "ghcr.io/dapr/daprd:1.18.3")
            .env("KUBE_CLUSTER_DOMAIN", "cluster.local")
            .env("DAPR_TRUST_ANCHORS_FILE", scratch.path().join("ca.crt"))
            .env("DAPR_SENTRY_ADDRESS", format!("127.0.0.1:{sentry_port}"))
            .env("DAPR_SENTRY_TOKEN_FILE", scratch.path().join("token"))
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
            .env("MARK_SKIPPED_PODS", "true")
            .env("INJECTION_EVENTS", "true")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .start()?;
        injector.wait_for_http(health_port, "/healthz", Deadline::seconds(START))?;
        let installed = Self { injector, sentry, health_port, metrics_port, bed, scratch };
        installed.wait_until_called()?;
        Ok(installed)
    }

    /// kube-apiserver learns of a webhook a moment after its registration.
    fn wait_until_called(&self) -> Result<()> {
        until(Deadline::seconds(START), "the first call of the webhook", || {
            let pod = probe_pod();
            let answer =
                self.kubectl(&["create", "--dry-run=server", "-o", "json", "-f", "-"], &pod)?;
            let pod: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
            Ok(names_of(&pod).contains(&"daprd".to_owned()).then_some(()))
        })
    }

    /// Runs kubectl with this input and returns all that came of it.
    pub(crate) fn kubectl(&self, args: &[&str], input: &Value) -> Result<Output> {
        self.bed.cluster().kubectl_output(args, &input.to_string())
    }

    /// Creates an object, and returns what kubectl wrote to standard error.
    pub(crate) fn create(&self, namespace: &str, object: &Value, more: &[&str]) -> (bool, String) {
        let args = [&["create", "-n", namespace, "-f", "-"], more].concat();
        let output = self.kubectl(&args, object).unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The caBundle in the webhook's registration, as base64.
    pub(crate) fn ca_bundle(&self) -> String {
        let name = "dapr-sidecar-injector";
        let found = self.bed.get(&["mutatingwebhookconfigurations", name]).unwrap();
        let bundle = found["webhooks"][0]["clientConfig"]["caBundle"].as_str();
        bundle.unwrap_or_default().to_owned()
    }

    /// Replaces the injector's trust anchors, as the kubelet does.
    pub(crate) fn write_anchors(&self, pem: &str) {
        self.scratch.write("ca.crt", pem).unwrap();
    }

    /// The injector's trust anchors.
    pub(crate) fn anchors(&self) -> String {
        fs::read_to_string(self.scratch.path().join("ca.crt")).unwrap()
    }

    /// The value of a series.
    pub(crate) fn metric(&self, series: &str) -> f64 {
        let text = blackbox::http::get(self.metrics_port, "/").unwrap().body;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// A pod of one container.
pub(crate) fn pod(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

fn probe_pod() -> Value {
    let mut pod = pod("probe", &json!({"dapr.io/enabled": "true"}));
    pod["metadata"]["namespace"] = json!("default");
    pod
}

/// The names of a pod's containers.
pub(crate) fn names_of(pod: &Value) -> Vec<String> {
    let containers = pod["spec"]["containers"].as_array();
    let names = containers.into_iter().flatten().filter_map(|c| c["name"].as_str());
    names.map(str::to_owned).collect()
}

/// The rule that lets the injector tell the owners of pods.
const EVENTS: &str = "- {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}";

/// Namespace, kinds, accounts, rights, and the pod that the injector's token is bound to.
fn prepare(bed: &ApiBed, rights: Rights) -> Result<()> {
    let crds = environment::workspace().join("crds");
    bed.kubectl(&["apply", "--server-side", "-f", &crds.to_string_lossy()])?;
    bed.kubectl(&["create", "namespace", NAMESPACE])?;
    let (hook_verbs, component_verbs, event_rule) = match rights {
        Rights::Ours => ("get, list, watch, patch", "get, list, watch", EVENTS),
        Rights::Dapr => ("patch", "get, list", ""),
    };
    bed.apply(&format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{name: dapr-injector, namespace: {NAMESPACE}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: dapr-injector}}
rules:
- {{apiGroups: [""], resources: [serviceaccounts], verbs: [get, list]}}
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations]
  resourceNames: [dapr-sidecar-injector]
  verbs: [{hook_verbs}]
- {{apiGroups: [dapr.io], resources: [components], verbs: [{component_verbs}]}}
{event_rule}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: dapr-injector}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: dapr-injector}}
subjects: [{{kind: ServiceAccount, name: dapr-injector, namespace: {NAMESPACE}}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: dapr-injector, namespace: {NAMESPACE}}}
rules:
- {{apiGroups: [dapr.io], resources: [configurations], verbs: [get]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: dapr-injector, namespace: {NAMESPACE}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: dapr-injector}}
subjects: [{{kind: ServiceAccount, name: dapr-injector, namespace: {NAMESPACE}}}]
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: daprsystem, namespace: {NAMESPACE}}}
spec:
  mtls:
    enabled: true
    controlPlaneTrustDomain: cluster.local
    sentryAddress: dapr-sentry.{NAMESPACE}.svc.cluster.local:443
---
apiVersion: v1
kind: Pod
metadata:
  name: injector
  namespace: {NAMESPACE}
  annotations: {{dapr.io/control-plane: injector}}
spec:
  serviceAccountName: dapr-injector
  containers: [{{name: injector, image: injector}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: dapr-trust-bundle, namespace: {NAMESPACE}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: dapr-trust-bundle, namespace: {NAMESPACE}}}
"#
    ))
    .map(|_| ())
}

/// Starts our sentry and waits for its CA, which goes where the kubelet would project it.
fn start_sentry(bed: &ApiBed, scratch: &Scratch, port: u16) -> Result<Process> {
    let [health, metrics] = [environment::free_port()?, environment::free_port()?];
    let mut sentry = Spawn::new("sentry", build_binary("sentry")?, scratch.path())
        .args(["--mode", "kubernetes", "--trust-domain", "cluster.local"])
        .args(["--listen-address", "127.0.0.1", "--port", &port.to_string()])
        .args(["--healthz-listen-address", "127.0.0.1", "--healthz-port", &health.to_string()])
        .args(["--metrics-listen-address", "127.0.0.1", "--metrics-port", &metrics.to_string()])
        .arg("--issuer-credentials")
        .arg(scratch.path().join("credentials"))
        .arg("--kubeconfig")
        .arg(bed.kubeconfig())
        .env("NAMESPACE", NAMESPACE)
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .start()?;
    let anchors = until(Deadline::seconds(START), "the CA of sentry", || {
        anyhow::ensure!(sentry.is_running(), "sentry ended: {}", sentry.log());
        let found = bed.get(&["configmap", "dapr-trust-bundle", "-n", NAMESPACE])?;
        Ok(found["data"]["ca.crt"].as_str().map(str::to_owned))
    })?;
    scratch.write("ca.crt", anchors)?;
    sentry.wait_for_http(health, "/healthz", Deadline::seconds(START))?;
    Ok(sentry)
}

/// Registers the webhook as the chart does. The Service leads to this machine: kube-apiserver dials
/// it by its external name, and verifies the certificate by the name of the Service.
fn register(bed: &ApiBed, port: u16) -> Result<()> {
    bed.apply(&format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: dapr-sidecar-injector, namespace: {NAMESPACE}}}
spec: {{type: ExternalName, externalName: localhost}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {{name: dapr-sidecar-injector}}
webhooks:
- name: sidecar-injector.dapr.io
  reinvocationPolicy: IfNeeded
  clientConfig:
    service: {{namespace: {NAMESPACE}, name: dapr-sidecar-injector, path: /mutate, port: {port}}}
  rules:
  - {{apiGroups: [""], apiVersions: [v1], resources: [pods], operations: [CREATE]}}
  failurePolicy: Ignore
  sideEffects: NoneOnDryRun
  admissionReviewVersions: [v1, v1beta1]
"#
    ))
    .map(|_| ())
}

/// The way in of the injector's account.
fn kubeconfig(bed: &ApiBed, scratch: &Scratch) -> Result<PathBuf> {
    let token = bed.kubectl(&["create", "token", "dapr-injector", "-n", NAMESPACE])?;
    scratch.write("api-ca.crt", bed.ca_pem()?)?;
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {
            "server": bed.server(), "certificate-authority": scratch.path().join("api-ca.crt"),
        }}],
        "users": [{"name": "it", "user": {"token": token.trim()}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    });
    scratch.write("kubeconfig", config.to_string())
}
