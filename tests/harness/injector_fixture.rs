//! An injector with its real peers: kube-apiserver calls it, sentry signs its
//! certificate. All run as processes, the injector with the rights of the account `dapr-injector`.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::accounts::{bound_token, kubeconfig};
use crate::admission::AdmissionClient;
use crate::{
    ApiCluster, Deadline, Ports, Process, Scratch, Spawn, Tool, build_binary, environment, http,
    process, until,
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
    /// The cluster.
    pub api: ApiCluster,
    scratch: Scratch,
}

/// An injector as a process, ours or the reference's.
#[derive(Debug)]
pub struct Injector {
    /// The process.
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
        let installed = Self { injector, sentry, sentry_port, api, scratch };
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

    /// Makes kube-apiserver call another port of this machine.
    ///
    /// # Errors
    /// When the registration is gone.
    pub fn call_port(&self, port: u16) -> Result<()> {
        let place = "/webhooks/0/clientConfig/service/port";
        let patch = json!([{"op": "replace", "path": place, "value": port}]).to_string();
        let object = ["mutatingwebhookconfiguration", WEBHOOK];
        let args = [&["patch"], &object[..], &["--type=json", "-p", &patch]].concat();
        self.api.kubectl(&args).map(drop)
    }

    /// Installs the chart's admission guard and waits until it is enforced.
    ///
    /// # Errors
    /// When the chart does not render or the API server refuses the policy.
    pub fn guard(&self) -> Result<()> {
        let mut helm = Command::new(Tool::HELM.path()?);
        helm.arg("template").arg("dapr").arg(environment::workspace().join("charts/dapr"));
        helm.args(["--namespace", NAMESPACE, "--set", "global.controlPlane.registry=none"]);
        helm.args(["--show-only", "templates/sidecar-injector/guard.yaml"]);
        self.api.apply(&process::output(&mut helm)?)?;
        // It is enforced when it denies this pod, which the webhook does not match.
        let mut probe = pod("probe", &json!({"dapr.io/enabled": "true"}));
        probe["metadata"]["namespace"] = json!("default");
        probe["metadata"]["labels"] = json!({UNCALLED: "true"});
        until(Deadline::seconds(START_SECONDS), "the guard to be enforced", || {
            let answer = self.kubectl(&["create", "--dry-run=server", "-f", "-"], &probe)?;
            let words = String::from_utf8_lossy(&answer.stderr);
            Ok(words.contains("dapr-sidecar-guard").then_some(()))
        })
    }

    /// Sends reviews to an injector of this test cluster as kube-apiserver does.
    ///
    /// # Errors
    /// When the trust anchors cannot be read.
    pub fn admission_client(&self, injector: &Injector) -> Result<AdmissionClient> {
        AdmissionClient::new(injector.port, &format!("{WEBHOOK}.{NAMESPACE}.svc"), &self.anchors()?)
    }

    /// Waits until kube-apiserver calls the webhook, some time after its registration.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_until_called(&self) -> Result<()> {
        let mut probe = pod("probe", &json!({"dapr.io/enabled": "true"}));
        probe["metadata"]["namespace"] = json!("default");
        until(Deadline::seconds(START_SECONDS), "the first call of the webhook", || {
            let args = ["create", "--dry-run=server", "-o", "json", "-f", "-"];
            let answer = self.kubectl(&args, &probe)?;
            let pod: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
            Ok(names_of(&pod).contains(&"daprd".to_owned()).then_some(()))
        })
    }

    /// Runs kubectl with this input and returns its output.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn kubectl(&self, args: &[&str], input: &Value) -> Result<Output> {
        self.api.cluster().kubectl_output(args, &input.to_string())
    }

    /// Creates an object; returns whether it was accepted, and kubectl's standard error.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub fn create(&self, namespace: &str, object: &Value, more: &[&str]) -> Result<(bool, String)> {
        let args = [&["create", "-n", namespace, "-f", "-"], more].concat();
        let output = self.kubectl(&args, object)?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// The caBundle in the webhook's registration, as base64; empty when there is none.
    ///
    /// # Errors
    /// When the registration is gone.
    pub fn ca_bundle(&self) -> Result<String> {
        let found = self.api.get(&["mutatingwebhookconfigurations", WEBHOOK])?;
        let bundle = found["webhooks"][0]["clientConfig"]["caBundle"].as_str();
        Ok(bundle.unwrap_or_default().to_owned())
    }

    /// Replaces the injector's trust anchors, as the kubelet does.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_anchors(&self, pem: &str) -> Result<()> {
        self.scratch.write("ca.crt", pem).map(drop)
    }

    /// The injector's trust anchors in PEM.
    ///
    /// # Errors
    /// When the file is gone.
    pub fn anchors(&self) -> Result<String> {
        let file = self.scratch.path().join("ca.crt");
        fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
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
