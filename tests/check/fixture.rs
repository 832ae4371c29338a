//! An installation as the chart creates it, with its services as processes: the API server calls
//! the injector and the operator that run here, and considers the pods of the chart ready.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use blackbox::injector_fixture::{NAMESPACE, Rights};
use blackbox::{
    ApiCluster, Cluster, Deadline, InjectorFixture, Ports, Process, Service, Tool, build_daprctl,
    environment, process, until,
};
use serde_json::{Value, json};

/// Enough for a process to start, or an object to be observed, on a busy machine.
pub(crate) const START: u64 = 60;
/// Objects of the test cluster itself: the API server reaches our processes by them, not by
/// addresses of pods.
const OWN: [&str; 6] = [
    "Secret/dapr-trust-bundle",
    "ConfigMap/dapr-trust-bundle",
    "Service/dapr-sidecar-injector",
    "Service/dapr-webhook",
    "MutatingWebhookConfiguration/dapr-sidecar-injector",
    "Configuration/daprsystem",
];

/// Cluster, chart, injector, sentry, operator.
pub(crate) struct Installed {
    pub(crate) it: InjectorFixture,
    _operator: Process,
}

/// The result of a run of the command.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
    pub(crate) report: Value,
}

impl Run {
    /// `id status` of each finding that is not ok.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let checks = self.report["checks"].as_array().into_iter().flatten();
        let bad = checks.filter(|check| check["status"] != "ok");
        bad.map(|check| format!("{} {}", text(&check["id"]), text(&check["status"]))).collect()
    }

    /// The finding of a check.
    pub(crate) fn finding(&self, id: &str) -> Result<&Value> {
        let checks = self.report["checks"].as_array().into_iter().flatten();
        let mut found = checks.filter(|check| check["id"] == id);
        found.next().with_context(|| format!("no check {id} in {}", self.text))
    }

    /// Asserts the status of a check, and words in its text.
    pub(crate) fn expect(&self, id: &str, status: &str, words: &str) -> Result<()> {
        let finding = self.finding(id)?;
        let fits = finding["status"] == status && text(&finding["text"]).contains(words);
        ensure!(fits, "{id} is not {status} with {words:?}: {finding:#}");
        Ok(())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Runs `daprctl check -o json` against a cluster.
pub(crate) fn run(cluster: &Cluster, args: &[&str]) -> Result<Run> {
    let mut command = cluster.command(build_daprctl()?);
    let output: Output = command.args(["check", "-o", "json"]).args(args).output()?;
    let text = String::from_utf8(output.stdout)?;
    let report = serde_json::from_str(&text)
        .with_context(|| format!("{text} {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok(Run { code: output.status.code(), text, report })
}

impl Installed {
    pub(crate) fn start() -> Result<Self> {
        let it = InjectorFixture::start(Rights::Ours)?;
        let manifests = chart()?;
        it.api.apply(&manifests)?;
        let operator = start_operator(&it)?;
        let installed = Self { it, _operator: operator };
        installed.add_node()?;
        until(Deadline::seconds(START), "the chart's pods to be ready", || {
            installed.pods_become_ready()
        })?;
        Ok(installed)
    }

    pub(crate) fn api(&self) -> &ApiCluster {
        &self.it.api
    }

    /// Runs with a cluster administrator's rights.
    pub(crate) fn check(&self, args: &[&str]) -> Result<Run> {
        beat(self.api())?;
        // The operator does not run in a pod, so it leads without election.
        renew(self.api(), NAMESPACE, "operator.dapr.io")?;
        run(self.api().cluster(), args)
    }

    /// Restores the chart's objects.
    pub(crate) fn repair(&self) -> Result<()> {
        self.api().apply(&chart()?)?;
        let crds = environment::workspace().join("crds");
        let crds = crds.to_string_lossy();
        // Only deleted ones: the port of the conversion webhook is the cluster's.
        self.api().kubectl(&["create", "-f", &crds]).ok();
        Ok(())
    }

    fn add_node(&self) -> Result<()> {
        node(self.api())?;
        beat(self.api())
    }

    /// Reports the containers of the control plane's pods as running, as scheduler and kubelet
    /// would: only pods on a node become addresses of Services.
    fn pods_become_ready(&self) -> Result<Option<()>> {
        let list =
            self.api().get(&["pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/part-of=dapr"])?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        for (at, pod) in pods.iter().enumerate() {
            let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
            let statuses: Vec<Value> = containers
                .map(|c| {
                    json!({"name": c["name"], "image": c["image"], "imageID": "", "ready": true,
                    "restartCount": 0, "state": {"running": {}}})
                })
                .collect();
            let address = format!("10.1.0.{}", at + 1);
            let status = json!({"status": {"phase": "Running", "podIP": address,
                "podIPs": [{"ip": address}], "containerStatuses": statuses,
                "conditions": [{"type": "Ready", "status": "True"}]}});
            let name = text(&pod["metadata"]["name"]);
            if pod["spec"]["nodeName"].is_null() {
                bind(self.api(), name)?;
            }
            let args = [
                "patch",
                "pod",
                name,
                "-n",
                NAMESPACE,
                "--subresource=status",
                "--type=merge",
                "-p",
            ];
            self.api().kubectl(&[&args[..], &[&status.to_string()]].concat())?;
        }
        Ok((pods.len() == Service::ALL.len()).then_some(()))
    }
}

fn bind(api: &ApiCluster, pod: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}/binding");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "node1"}});
    let args = ["create", "--raw", &path, "-f", "-"];
    api.cluster().kubectl_with_input(&args, &binding.to_string()).map(drop)
}

/// The chart's objects, without those that the test cluster makes.
fn chart() -> Result<String> {
    let folder = environment::workspace().join("charts/dapr");
    let mut helm = std::process::Command::new(Tool::HELM.path()?);
    helm.arg("template").arg("dapr").arg(folder).args(["--namespace", NAMESPACE, "--no-hooks"]);
    helm.args(["--set", "global.controlPlane.registry=registry.example/trilby"]);
    let rendered = process::output(&mut helm)?;
    let documents: Vec<Value> = serde_saphyr::from_multiple(&rendered).context("read the chart")?;
    let kept = documents.into_iter().filter(|object| {
        let name = format!("{}/{}", text(&object["kind"]), text(&object["metadata"]["name"]));
        !object.is_null() && !OWN.contains(&name.as_str())
    });
    Ok(json!({"apiVersion": "v1", "kind": "List", "items": kept.collect::<Vec<_>>()}).to_string())
}

/// A node that accepts pods, for the API server.
pub(crate) fn node(api: &ApiCluster) -> Result<()> {
    api.apply(
        &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"}}).to_string(),
    )?;
    let info = json!({"architecture": "amd64", "operatingSystem": "linux", "bootID": "", "machineID": "",
        "kernelVersion": "", "osImage": "", "containerRuntimeVersion": "", "kubeletVersion": "",
        "kubeProxyVersion": "", "systemUUID": ""});
    patch_node(api, &json!({"status": {"nodeInfo": info}}))
}

/// A kubelet does this every ten seconds.
pub(crate) fn beat(api: &ApiCluster) -> Result<()> {
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady",
        "lastHeartbeatTime": now("%Y-%m-%dT%H:%M:%SZ")});
    patch_node(api, &json!({"status": {"conditions": [ready]}}))?;
    // Every node starts with a taint, which not every cluster's controllers may remove.
    api.kubectl(&["patch", "node", "node1", "--type=merge", "-p", r#"{"spec":{"taints":null}}"#])?;
    renew(api, "kube-node-lease", "node1")
}

/// Renews a Lease in the name of its holder.
fn renew(api: &ApiCluster, namespace: &str, name: &str) -> Result<()> {
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40,
            "renewTime": now("%Y-%m-%dT%H:%M:%S.%6fZ")}});
    api.apply(&lease.to_string()).map(drop)
}

fn now(format: &str) -> String {
    runtime::clock::now().strftime(format).to_string()
}

fn patch_node(api: &ApiCluster, patch: &Value) -> Result<()> {
    let args = ["patch", "node", "node1", "--subresource=status", "--type=merge", "-p"];
    api.kubectl(&[&args[..], &[&patch.to_string()]].concat()).map(drop)
}

/// The operator as the chart starts it, with its webhook at the address that the API server uses.
fn start_operator(it: &InjectorFixture) -> Result<Process> {
    let (ports, webhook) = (Ports::free()?, environment::free_port()?);
    it.api.apply(&format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: dapr-webhook, namespace: {NAMESPACE}}}
spec: {{type: ExternalName, externalName: 127.0.0.1, ports: [{{port: {webhook}}}]}}
"
    ))?;
    let place = "/spec/conversion/webhook/clientConfig/service/port";
    let patch = json!([{"op": "add", "path": place, "value": webhook}]).to_string();
    it.api.kubectl(&["patch", "crd", "subscriptions.dapr.io", "--type=json", "-p", &patch])?;
    let mut operator =
        it.spawn_operator(ports)?.args(["--webhook-server-port", &webhook.to_string()]).start()?;
    operator.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(START))?;
    Ok(operator)
}
