//! An injector with its real peers: kube-apiserver calls it, sentry signs its
//! certificate. All run as processes, the injector with the rights of the account `dapr-injector`.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

mod called_webhook;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

pub use called_webhook::{CalledWebhook, Guard};

use crate::accounts::{bound_token, kubeconfig};
use crate::{
    ApiCluster, Deadline, Ports, Process, Scratch, Spawn, build_binary, environment, http, until,
};

/// Namespace of the control plane.
pub const NAMESPACE: &str = "dapr-system";
/// The object that makes kube-apiserver call the injector.
const WEBHOOK: &str = "dapr-sidecar-injector";
/// Variables of every injector of a test cluster.
pub const SETTINGS: &[(&str, &str)] = &[
    ("NAMESPACE", NAMESPACE),
    ("SIDECAR_IMAGE", "ghcr.io/dapr/daprd:1.18.3"),
    ("SIDECAR_IMAGE_PULL_POLICY", "IfNotPresent"),
    ("KUBE_CLUSTER_DOMAIN", "cluster.local"),
];
/// The file in the folder of a fixture that names the state folder of its cluster.
const CLUSTER: &str = "cluster";
/// Label of pods for which the webhook is not called.
const UNCALLED: &str = "trilby.test/uncalled";
/// Seconds for a process to start on a busy machine.
const START_SECONDS: u64 = 60;

/// What the injector's account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Those of our chart.
    Ours,
    /// Those of the chart of Dapr 1.18.3: no watch, and only `patch` on the webhook.
    Dapr,
}

/// A cluster, sentry, and the webhook's registration with the injector behind it.
#[derive(Debug)]
pub struct InjectorFixture {
    /// The injector that kube-apiserver calls: ours.
    pub injector: Injector,
    /// Sentry.
    pub sentry: Process,
    sentry_port: u16,
    called: CalledWebhook,
    scratch: Scratch,
}

impl Deref for InjectorFixture {
    type Target = CalledWebhook;

    fn deref(&self) -> &CalledWebhook {
        &self.called
    }
}

/// An injector as a process, ours or the reference's.
#[derive(Debug)]
pub struct Injector {
    /// Ends with this value.
    pub process: Process,
    /// Port of the webhook.
    pub port: u16,
    /// Port of `/healthz`.
    pub health_port: u16,
    /// Port of the metrics.
    pub metrics_port: u16,
}

impl InjectorFixture {
    /// A cluster with our injector, ready and called by kube-apiserver.
    ///
    /// # Errors
    /// When a part does not start; the error holds the end of its log.
    pub fn start(rights: Rights) -> Result<Self> {
        let api = ApiCluster::start()?;
        let scratch = Scratch::new("injector")?;
        prepare(&api, rights)?;
        let sentry_port = environment::free_port()?;
        let sentry = start_sentry(&api, &scratch, sentry_port)?;
        bound_token(&api, &scratch, "token", "dapr-injector", "injector")?;
        kubeconfig(&api, &scratch, "kubeconfig", "dapr-injector")?;
        let port = environment::free_port()?;
        register(&api, port)?;
        let injector = Injector::start(ours(&scratch, "injector", sentry_port)?, port)?;
        scratch.write(CLUSTER, api.state().to_string_lossy().as_ref())?;
        let called = CalledWebhook { api, folder: scratch.path().to_path_buf() };
        let installed = Self { injector, sentry, sentry_port, called, scratch };
        installed.wait_until_called()?;
        Ok(installed)
    }

    /// Another injector, which kube-apiserver does not call: `program` is ours or the
    /// reference's, with the same settings except these flags and variables.
    ///
    /// # Errors
    /// As [`InjectorFixture::start`].
    pub fn another(
        &self,
        name: &str,
        program: PathBuf,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Injector> {
        let mut spawn = spawn(&self.scratch, name, program, self.sentry_port).args(flags);
        for (variable, value) in variables {
            spawn = spawn.env(variable, value);
        }
        Injector::start(spawn, environment::free_port()?)
    }

    /// Starts our injector again on the port that kube-apiserver calls, after it has ended.
    ///
    /// # Errors
    /// As [`InjectorFixture::start`].
    pub fn restart_injector(&mut self) -> Result<()> {
        let spawn = ours(&self.scratch, "injector", self.sentry_port)?;
        self.injector = Injector::start(spawn, self.injector.port)?;
        Ok(())
    }

    /// A process with another account of the control plane, and its API server, sentry and
    /// trust anchors. `pod` must exist and use the account.
    ///
    /// # Errors
    /// When there is no such account or pod.
    pub fn spawn_as(&self, account: &str, pod: &str, program: PathBuf) -> Result<Spawn> {
        let token = bound_token(&self.api, &self.scratch, &format!("{pod}-token"), account, pod)?;
        let way = kubeconfig(&self.api, &self.scratch, &format!("{pod}.kubeconfig"), account)?;
        let spawn = Spawn::new(pod, program, self.scratch.path())
            .arg("--kubeconfig")
            .arg(way)
            .arg("--trust-anchors-file")
            .arg(self.scratch.path().join("ca.crt"))
            .env("NAMESPACE", NAMESPACE)
            .env("DAPR_SENTRY_TOKEN_FILE", token)
            .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
            .env_remove("KUBERNETES_SERVICE_HOST");
        Ok(spawn)
    }

    /// Our operator beside the injector, with the current rights of its account.
    ///
    /// # Errors
    /// When its account does not exist.
    pub fn spawn_operator(&self, ports: Ports) -> Result<Spawn> {
        self.api.apply(&format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: operator, namespace: {NAMESPACE}, annotations: {{dapr.io/control-plane: operator}}}}
spec: {{serviceAccountName: dapr-operator, containers: [{{name: operator, image: operator}}]}}
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {{name: daprsystem, namespace: {NAMESPACE}}}
spec: {{mtls: {{enabled: true, controlPlaneTrustDomain: cluster.local, sentryAddress: '127.0.0.1:{}'}}}}
",
            self.sentry_port
        ))?;
        let spawn = self.spawn_as("dapr-operator", "operator", build_binary("operator")?)?;
        Ok(spawn.service_at(ports).arg("--disable-leader-election"))
    }

    /// Port of sentry on 127.0.0.1.
    pub fn sentry_port(&self) -> u16 {
        self.sentry_port
    }

    /// A second injector beside the one that is called, as in a rolling upgrade.
    ///
    /// # Errors
    /// As [`InjectorFixture::start`].
    pub fn next_injector(&self) -> Result<Injector> {
        let spawn = ours(&self.scratch, "next-injector", self.sentry_port)?;
        Injector::start(spawn, environment::free_port()?)
    }

    /// The folder that another process needs to use it.
    pub(crate) fn folder(&self) -> &Path {
        self.scratch.path()
    }
}

impl Injector {
    fn start(spawn: Spawn, port: u16) -> Result<Self> {
        let ports = Ports::with_main(port)?;
        let mut process = spawn.service_at(ports).start()?;
        process.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(START_SECONDS))?;
        Ok(Self { process, port, health_port: ports.healthz, metrics_port: ports.metrics })
    }

    /// The value of a series; 0 for one that does not exist.
    ///
    /// # Errors
    /// When the metrics cannot be read.
    pub fn metric(&self, series: &str) -> Result<f64> {
        Ok(http::metric(self.metrics_port, series)?.unwrap_or_default())
    }
}

/// An injector with the settings shared by all of a test cluster.
fn spawn(scratch: &Scratch, name: &str, program: PathBuf, sentry_port: u16) -> Spawn {
    let file = |name: &str| scratch.path().join(name);
    let mut spawn = Spawn::new(name, program, scratch.path());
    for (variable, value) in SETTINGS {
        spawn = spawn.env(variable, value);
    }
    spawn
        .arg("--kubeconfig")
        .arg(file("kubeconfig"))
        .env("DAPR_TRUST_ANCHORS_FILE", file("ca.crt"))
        .env("DAPR_SENTRY_ADDRESS", format!("127.0.0.1:{sentry_port}"))
        .env("DAPR_SENTRY_TOKEN_FILE", file("token"))
}

/// Ours as the chart starts it.
fn ours(scratch: &Scratch, name: &str, sentry_port: u16) -> Result<Spawn> {
    Ok(spawn(scratch, name, build_binary("injector")?, sentry_port)
        .env("MARK_SKIPPED_PODS", "true")
        .env("INJECTION_EVENTS", "true"))
}

/// A pod of one container.
pub fn pod(name: &str, annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    })
}

/// The names of a pod's containers.
pub fn names_of(pod: &Value) -> Vec<String> {
    let containers = pod["spec"]["containers"].as_array();
    let names = containers.into_iter().flatten().filter_map(|c| c["name"].as_str());
    names.map(str::to_owned).collect()
}

/// The registration of a webhook that matches no pod: an injector in this namespace writes its caBundle
/// there when it starts.
pub fn registration_without_rules(namespace: &str) -> String {
    format!(
        "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {{name: {WEBHOOK}}}
webhooks:
- name: sidecar-injector.dapr.io
  clientConfig: {{service: {{namespace: {namespace}, name: {WEBHOOK}, path: /mutate}}}}
  failurePolicy: Ignore
  sideEffects: None
  admissionReviewVersions: [v1]
"
    )
}

/// Rules that only our chart has: to record Events on owners of pods, to watch Namespaces, and to
/// find pods that the API server did not review.
const MORE_RULES: &str = "- {apiGroups: [events.k8s.io], resources: [events], verbs: [create]}
- {apiGroups: [\"\"], resources: [namespaces], verbs: [list, watch]}
- {apiGroups: [\"\"], resources: [pods], verbs: [list]}";

/// Namespace, kinds, accounts, rights, and the pod that the injector's token is bound to.
fn prepare(api: &ApiCluster, rights: Rights) -> Result<()> {
    let crds = environment::workspace().join("crds");
    api.kubectl(&["apply", "--server-side", "-f", &crds.to_string_lossy()])?;
    api.kubectl(&["create", "namespace", NAMESPACE])?;
    let (hook_verbs, component_verbs, more_rules) = match rights {
        Rights::Ours => ("list, watch, patch", "list, watch", MORE_RULES),
        Rights::Dapr => ("patch", "get, list", ""),
    };
    api.apply(&format!(
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
{more_rules}
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

/// Starts our sentry, waits for its CA and writes it where the kubelet would project it.
fn start_sentry(api: &ApiCluster, scratch: &Scratch, port: u16) -> Result<Process> {
    let ports = Ports::with_main(port)?;
    let mut sentry = Spawn::new("sentry", build_binary("sentry")?, scratch.path())
        .args(["--mode", "kubernetes", "--trust-domain", "cluster.local"])
        .service_at(ports)
        .arg("--issuer-credentials")
        .arg(scratch.path().join("credentials"))
        .arg("--kubeconfig")
        .arg(api.kubeconfig())
        .env("NAMESPACE", NAMESPACE)
        .start()?;
    let anchors = until(Deadline::seconds(START_SECONDS), "the CA of sentry", || {
        anyhow::ensure!(sentry.is_running(), "sentry ended: {}", sentry.log());
        let found = api.get(&["configmap", "dapr-trust-bundle", "-n", NAMESPACE])?;
        Ok(found["data"]["ca.crt"].as_str().map(str::to_owned))
    })?;
    scratch.write("ca.crt", anchors)?;
    sentry.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(START_SECONDS))?;
    Ok(sentry)
}

/// Registers the webhook as the chart does. The Service points at this machine: kube-apiserver
/// dials it by its external name, and verifies the certificate by the name of the Service.
fn register(api: &ApiCluster, port: u16) -> Result<()> {
    api.apply(&format!(
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
  namespaceSelector:
    matchExpressions: [{{key: kubernetes.io/metadata.name, operator: NotIn, values: [kube-system]}}]
  objectSelector: {{matchExpressions: [{{key: {UNCALLED}, operator: DoesNotExist}}]}}
  failurePolicy: Ignore
  timeoutSeconds: 5
  sideEffects: NoneOnDryRun
  admissionReviewVersions: [v1, v1beta1]
"#
    ))
    .map(|_| ())
}
