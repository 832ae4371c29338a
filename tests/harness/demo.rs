//! The demo, end to end: chart, sample, and what it shows. `cargo xtask
//! demo` prints it; the end-to-end suite asserts it.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

pub mod dashboard;
mod images;
mod jobs;
pub mod tour;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

pub use images::{LOCAL, build_programs, daprd_image, import_images, import_tour_image};

use crate::{Cluster, Deadline, until};

/// Where the control plane is installed.
pub const CONTROL_PLANE: &str = "dapr-system";
/// The workloads of the control plane, as `kubectl rollout` names them.
pub const SERVICES: [&str; 5] = [
    "deployment/dapr-sentry",
    "deployment/dapr-operator",
    "deployment/dapr-sidecar-injector",
    "statefulset/dapr-placement-server",
    "statefulset/dapr-scheduler-server",
];
/// Sample applications with a sidecar.
const APPS: [&str; 3] = ["node", "python", "actor"];

/// The sample on a test cluster, with the images of [`import_images`].
pub fn on_cluster(cluster: Cluster, root: impl Into<PathBuf>, namespace: &str) -> Demo {
    Demo { overlay: "local", ..Demo::new(cluster, root, namespace) }
        .value(format!("global.controlPlane.registry={LOCAL}"))
        // The dashboard shows the actor hosts, the owner of an actor, and jobs by application.
        .value("dapr_placement.metadataEnabled=true")
        .value("dapr_scheduler.metadataEnabled=true")
        .value(format!("dapr_sidecar_injector.image.name={}", daprd_image()))
}

/// How the chart is installed for the sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// With the default values.
    #[default]
    Default,
    /// Several pods of each service.
    Ha,
    /// Rights only in the release namespace, where the sample runs too.
    Namespaced,
    /// Sidecars talk to each other without mTLS.
    NoMtls,
}

impl Mode {
    /// The settings of the chart.
    const fn value(self) -> Option<&'static str> {
        match self {
            Self::Default => None,
            Self::Ha => Some("global.ha.enabled=true"),
            Self::Namespaced => Some("global.rbac.namespaced=true"),
            Self::NoMtls => Some("global.mtls.enabled=false"),
        }
    }
}

/// The sample on a cluster.
#[derive(Clone, Debug)]
pub struct Demo {
    cluster: Cluster,
    /// Root of the source tree: chart and sample are read from it.
    root: PathBuf,
    /// Namespace of the sample.
    namespace: String,
    /// `key=value` settings of the chart.
    values: Vec<String>,
    /// The kustomization of the sample, relative to its folder; empty for the plain one.
    overlay: &'static str,
}

impl Demo {
    /// The sample with public images in a namespace of its own; `values` are chart settings.
    pub fn new(cluster: Cluster, root: impl Into<PathBuf>, namespace: &str) -> Self {
        let (root, namespace) = (root.into(), namespace.to_owned());
        Self { cluster, root, namespace, values: Vec::new(), overlay: "" }
    }

    /// Sets how the chart is installed, and the namespace of the sample that fits.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        if mode == Mode::Namespaced {
            CONTROL_PLANE.clone_into(&mut self.namespace);
        }
        self.values.extend(mode.value().map(str::to_owned));
        self
    }

    /// Adds a chart setting, `key=value`.
    #[must_use]
    pub fn value(mut self, setting: impl Into<String>) -> Self {
        self.values.push(setting.into());
        self
    }

    /// The cluster that it runs on.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Installs the chart, or upgrades it, and waits until every pod is Ready.
    ///
    /// # Errors
    /// Helm's error, with the state of the pods that do not get Ready.
    pub fn install(&self) -> Result<()> {
        let chart = self.root.join("charts/dapr");
        let chart = path(&chart)?;
        let mut args = vec!["upgrade", "--install", "dapr", chart, "--namespace", CONTROL_PLANE];
        args.extend(["--create-namespace", "--wait", "--timeout", "4m"]);
        for value in &self.values {
            args.extend(["--set", value]);
        }
        let again = self.cluster.helm(&["status", "dapr", "--namespace", CONTROL_PLANE]).is_ok();
        self.cluster.helm(&args).map(drop).or_else(|e| self.explain(&e, CONTROL_PLANE))?;
        if again {
            // The images may be newer than the pods although their tags are the same.
            for service in SERVICES {
                self.cluster.kubectl(&["-n", CONTROL_PLANE, "rollout", "restart", service])?;
            }
        }
        Ok(())
    }

    /// Deploys the sample and waits until its pods are Ready.
    ///
    /// # Errors
    /// kubectl's error, with the state of the pods that do not get Ready.
    pub fn deploy(&self) -> Result<()> {
        if self.cluster.get(&["namespace", &self.namespace]).is_err() {
            self.cluster.kubectl(&["create", "namespace", &self.namespace])?;
        }
        self.kubectl(&["apply", "-k", path(&self.sample())?])?;
        self.kubectl(&["wait", "--for=condition=Available", "deployment", "--all", "--timeout=4m"])
            .map(drop)
            .or_else(|e| self.explain(&e, &self.namespace))
    }

    /// Runs `helm test`, the chart's own checks of the control plane. Returns Helm's output.
    ///
    /// # Errors
    /// A check failed; the error holds the log of its pod.
    pub fn helm_test(&self) -> Result<String> {
        let test = ["test", "dapr", "--namespace", CONTROL_PLANE, "--timeout", "3m"];
        self.cluster.helm(&test).or_else(|error| {
            let logs = ["-n", CONTROL_PLANE, "logs", "dapr-test", "--tail=30"];
            bail!("{error:#}\n{}", self.cluster.kubectl(&logs).unwrap_or_default())
        })
    }

    /// Removes sample and chart from the cluster.
    ///
    /// # Errors
    /// What kubectl or helm says.
    pub fn remove(&self) -> Result<()> {
        self.remove_dashboard()?;
        let sample = self.sample();
        self.kubectl(&["delete", "-k", path(&sample)?, "--ignore-not-found", "--timeout=2m"])?;
        if self.namespace != CONTROL_PLANE {
            let gone =
                ["delete", "namespace", &self.namespace, "--ignore-not-found", "--timeout=2m"];
            self.cluster.kubectl(&gone)?;
        }
        self.cluster.helm(&["uninstall", "dapr", "--namespace", CONTROL_PLANE, "--wait"])?;
        Ok(())
    }

    /// The folder of the sample's kustomization.
    fn sample(&self) -> PathBuf {
        self.root.join("deploy/samples/hello-kubernetes").join(self.overlay)
    }

    /// `kubectl get pods` of the control plane, all of them Ready.
    ///
    /// # Errors
    /// A pod is not Ready.
    pub fn control_plane(&self) -> Result<String> {
        for service in SERVICES {
            self.cluster.kubectl(&[
                "-n",
                CONTROL_PLANE,
                "rollout",
                "status",
                service,
                "--timeout=2m",
            ])?;
        }
        self.cluster.kubectl(&["-n", CONTROL_PLANE, "get", "pods"])
    }

    /// `kubectl get pods` of the sample, once every application pod has both containers ready. A
    /// sidecar that started before its store is restarted by the kubelet.
    ///
    /// # Errors
    /// A pod has no sidecar, or a container does not get ready in time.
    pub fn pods(&self) -> Result<String> {
        for app in APPS {
            until(Deadline::seconds(60), &format!("application and sidecar of {app}"), || {
                let pods = self.app_pods(app)?;
                for pod in &pods {
                    let name = text(&pod["metadata"]["name"]);
                    let injected = array(&pod["spec"]["containers"]).any(|c| c["name"] == "daprd");
                    ensure!(injected, "pod {name} was created without its sidecar");
                }
                let both = |pod| containers(pod).filter(|c| c["ready"] == true).count() == 2;
                Ok((!pods.is_empty() && pods.iter().all(both)).then_some(()))
            })
            .or_else(|e| self.explain(&e, &self.namespace))?;
        }
        self.kubectl(&["get", "pods"])
    }

    /// The arguments of the injected container, one option a line.
    ///
    /// # Errors
    /// The pod has no `daprd` container.
    pub fn sidecar_arguments(&self) -> Result<String> {
        let pod = self.first_pod("node")?;
        let daprd = array(&pod["spec"]["containers"])
            .find(|c| c["name"] == "daprd")
            .context("the pod of nodeapp has no container daprd")?;
        let mut lines = format!("image {}", text(&daprd["image"]));
        for argument in array(&daprd["args"]).map(text) {
            let separator = if argument.starts_with("--") { "\n" } else { " " };
            write!(lines, "{separator}{argument}")?;
        }
        Ok(lines)
    }

    /// The SVID of the order service's sidecar, read in a TLS handshake with it.
    ///
    /// # Errors
    /// The handshake fails, or the id is not the application's.
    pub fn svid(&self) -> Result<Value> {
        let script = "const s = require('tls').connect({host: '127.0.0.1', port: 50002, \
            rejectUnauthorized: false, ALPNProtocols: ['h2']}, () => { \
            const c = s.getPeerX509Certificate(); \
            console.log(JSON.stringify({id: c.subjectAltName, issuer: c.issuer, \
            serial: c.serialNumber, validTo: c.validTo})); process.exit(0); }); \
            s.on('error', e => { console.error(e.message); process.exit(1); });";
        let svid: Value = serde_json::from_str(&self.node(script)?)?;
        let wanted = format!("URI:spiffe://public/ns/{}/nodeapp", self.namespace);
        ensure!(
            text(&svid["id"]) == wanted,
            "the sidecar has the SPIFFE id {}, not {wanted}",
            svid["id"]
        );
        Ok(svid)
    }

    /// The metadata API of the order service's sidecar.
    ///
    /// # Errors
    /// The sidecar does not answer, or lacks the Components of the sample.
    pub fn metadata(&self) -> Result<Value> {
        let script = "fetch('http://127.0.0.1:3500/v1.0/metadata').then(r => r.text())\
            .then(t => console.log(t))";
        let metadata: Value = serde_json::from_str(&self.node(script)?)?;
        let loaded: BTreeSet<&str> =
            array(&metadata["components"]).filter_map(|c| c["name"].as_str()).collect();
        for wanted in ["pubsub", "statestore"] {
            ensure!(
                loaded.contains(wanted),
                "the sidecar has not loaded {wanted}, only {loaded:?}"
            );
        }
        Ok(metadata)
    }

    /// The number of the last order in the state store of the order service.
    ///
    /// # Errors
    /// There is none in time.
    pub fn last_order(&self) -> Result<i64> {
        until(Deadline::seconds(60), "an order in the state store", || {
            let order = self.raw(&["get"], "/order", None).ok();
            Ok(order
                .and_then(|text| serde_json::from_str::<Value>(&text).ok()?["orderId"].as_i64()))
        })
    }

    /// Stops the client, restarts the order service and reads the last order again: it must be
    /// there although the service keeps no state. Then starts the client again. Returns the number.
    ///
    /// # Errors
    /// The order is lost or changed.
    pub fn order_survives_restart(&self) -> Result<i64> {
        self.last_order()?; // the client has sent one before it stops
        self.scale("pythonapp", 0)?;
        until(Deadline::seconds(60), "the client to be gone", || {
            Ok(self.app_pods("python")?.is_empty().then_some(()))
        })?;
        let before = self.last_order()?;
        self.kubectl(&["rollout", "restart", "deployment/nodeapp"])?;
        self.kubectl(&["rollout", "status", "deployment/nodeapp", "--timeout=3m"])?;
        let after = self.last_order()?;
        ensure!(before == after, "order {before} was stored before the restart, {after} after it");
        self.scale("pythonapp", 1)?;
        Ok(after)
    }

    /// Waits for a new order; returns its number.
    ///
    /// # Errors
    /// None arrives in time.
    pub fn orders_go_on(&self) -> Result<i64> {
        let before = self.last_order()?;
        until(Deadline::seconds(60), "another order", || {
            let now = self.last_order()?;
            Ok((now != before).then_some(now))
        })
    }

    /// Invokes the actor `Counter/<id>` once: its count, and the pod that hosts it.
    ///
    /// # Errors
    /// It does not answer in time.
    pub fn count(&self, id: &str) -> Result<(i64, String)> {
        until(Deadline::seconds(60), "an actor to answer", || {
            let Ok(answer) = self.raw(&["create"], &format!("/count/{id}"), Some("{}")) else {
                return Ok(None);
            };
            let answer: Value = serde_json::from_str(&answer)?;
            let count =
                answer["count"].as_i64().with_context(|| format!("no count in {answer}"))?;
            Ok(Some((count, text(&answer["host"]).to_owned())))
        })
    }

    /// The last log lines of a control plane service.
    ///
    /// # Errors
    /// There is no such workload.
    pub fn service_log(&self, service: &str, lines: u32) -> Result<String> {
        let tail = format!("--tail={lines}");
        self.cluster.kubectl(&["-n", CONTROL_PLANE, "logs", service, &tail])
    }

    /// `kubectl` in the sample's namespace.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn kubectl(&self, args: &[&str]) -> Result<String> {
        let mut words = vec!["-n", self.namespace.as_str()];
        words.extend(args);
        self.cluster.kubectl(&words)
    }

    /// Applies manifests in the sample's namespace.
    ///
    /// # Errors
    /// When the API server rejects one; the error holds its message.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let args = ["-n", &self.namespace, "apply", "--server-side", "-f", "-"];
        self.cluster.kubectl_with_input(&args, manifests)
    }

    /// The pods of one application, without those that terminate.
    ///
    /// # Errors
    /// What kubectl says.
    pub fn app_pods(&self, app: &str) -> Result<Vec<Value>> {
        let label = format!("app={app}");
        let list = self.cluster.get(&["pods", "-n", &self.namespace, "-l", &label])?;
        Ok(array(&list["items"])
            .filter(|pod| pod["metadata"].get("deletionTimestamp").is_none())
            .cloned()
            .collect())
    }

    fn first_pod(&self, app: &str) -> Result<Value> {
        let mut pods = self.app_pods(app)?;
        ensure!(!pods.is_empty(), "there is no pod with app={app}");
        Ok(pods.swap_remove(0))
    }

    fn scale(&self, deployment: &str, replicas: u32) -> Result<()> {
        let (deployment, replicas) =
            (format!("deployment/{deployment}"), format!("--replicas={replicas}"));
        self.kubectl(&["scale", &deployment, &replicas]).map(drop)
    }

    /// Runs a script in the order service's own container.
    fn node(&self, script: &str) -> Result<String> {
        self.kubectl(&["exec", "deployment/nodeapp", "-c", "node", "--", "node", "-e", script])
    }

    /// A request to the order service through the API server.
    fn raw(&self, verb: &[&str], request: &str, body: Option<&str>) -> Result<String> {
        self.service("nodeapp", verb, request, body)
    }

    /// A request to port 80 of a Service of the sample through the API server.
    fn service(
        &self,
        name: &str,
        verb: &[&str],
        request: &str,
        body: Option<&str>,
    ) -> Result<String> {
        let url =
            format!("/api/v1/namespaces/{}/services/{name}:80/proxy{request}", self.namespace);
        let mut args = verb.to_vec();
        args.extend(["--raw", &url]);
        match body {
            None => self.cluster.kubectl(&args),
            Some(body) => {
                args.extend(["-f", "-"]);
                self.cluster.kubectl_with_input(&args, body)
            }
        }
    }

    /// Adds the state of the pods of a namespace to an error.
    ///
    /// # Errors
    /// Always that error.
    pub fn explain(&self, error: &anyhow::Error, namespace: &str) -> Result<()> {
        let get = |args: &[&str]| self.cluster.kubectl(args).unwrap_or_else(|e| format!("{e:#}"));
        let pods = get(&["-n", namespace, "get", "pods", "-o", "wide"]);
        let events = get(&["-n", namespace, "get", "events", "--sort-by=.lastTimestamp"]);
        let recent: Vec<&str> = events.lines().rev().take(15).collect();
        let mut logs = String::new();
        for pod in get(&["-n", namespace, "get", "pods", "-o", "name"]).lines() {
            let log = get(&["-n", namespace, "logs", pod, "--all-containers", "--tail=12"]);
            write!(logs, "--- {pod}\n{log}")?;
        }
        bail!("{error:#}\n{pods}\n{}\n{logs}", recent.join("\n"))
    }
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is no UTF-8", path.display()))
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    array(&pod["status"]["containerStatuses"])
}
