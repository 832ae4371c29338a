//! A real Zipkin, which sidecars send their traces to, and a real Prometheus, which asks sidecars
//! and control plane for metrics. Both run beside the node, behind Services of the sample.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{SECONDS, Tour};
use crate::demo::{CONTROL_PLANE, SERVICES, array, text};
use crate::node_cluster::NODE_ADDRESS;
use crate::programs::{servers, zipkin};
use crate::{Deadline, NodeCluster, Process, Scratch, Spawn, environment, packages, until};

/// Where Zipkin listens.
const ZIPKIN_PORT: u16 = 9411;
/// Where Prometheus listens.
const PROMETHEUS_PORT: u16 = 9490;
/// The file with the targets of Prometheus. Debian's has no discovery of pods.
const TARGETS: &str = "targets.json";
/// Zipkin's heap. It holds the traces of minutes.
const ZIPKIN_HEAP: &str = "-Xmx256m";

/// Zipkin and Prometheus; they end when this is dropped.
#[derive(Debug)]
pub struct Observers {
    _zipkin: Process,
    _prometheus: Process,
    folder: Scratch,
}

impl Observers {
    /// Installs and fetches both, so that a start needs no other machine.
    ///
    /// # Errors
    /// When one of them is missing on this machine and cannot be installed or fetched.
    pub fn provide() -> Result<()> {
        packages::require_for_tour()?;
        servers::prometheus()?;
        zipkin::jar().map(drop)
    }

    /// Starts both in the network of the node; does not wait until they serve.
    ///
    /// # Errors
    /// When one of them is missing on this machine and cannot be installed.
    pub fn start(node: &NodeCluster) -> Result<Self> {
        Self::provide()?;
        let folder = Scratch::new("observers")?;
        let spawn = |name: &str, program: PathBuf| {
            let network = Some(node.network_handle().to_path_buf());
            Spawn::new(name, program, folder.path()).network(network).folder(folder.path())
        };
        let jar = zipkin::jar()?;
        let java = environment::find_program("java").context("java is missing")?;
        let zipkin = spawn("zipkin", java)
            .args([ZIPKIN_HEAP, "-jar"])
            .arg(jar)
            .env("QUERY_PORT", ZIPKIN_PORT.to_string())
            .start()?;
        let config = folder.write("prometheus.json", prometheus_config().to_string())?;
        let prometheus = spawn("prometheus", servers::prometheus()?)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("metrics").display()))
            .arg(format!("--web.listen-address={NODE_ADDRESS}:{PROMETHEUS_PORT}"))
            .start()?;
        Ok(Self { _zipkin: zipkin, _prometheus: prometheus, folder })
    }
}

impl Tour {
    /// Tells Prometheus what pods there are, and makes Services for both; the sample's sidecars send
    /// their traces to the first.
    pub(super) fn connect(&self, observers: &Observers) -> Result<()> {
        let pods = self.demo.cluster.get(&["pods", "--all-namespaces"])?;
        observers.folder.write(TARGETS, targets(&pods).to_string())?;
        let services = [("zipkin", ZIPKIN_PORT), ("prometheus", PROMETHEUS_PORT)];
        let items: Vec<Value> = services
            .iter()
            .flat_map(|(name, port)| service_of_node(name, self.namespace(), *port))
            .collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        self.demo.cluster.apply(&list.to_string()).map(drop)
    }

    /// A call between the applications is one trace of both in Zipkin.
    pub(super) fn traces_arrive(&self) -> Result<String> {
        until(Deadline::seconds(SECONDS), "a trace of both applications", || {
            super::blocks::greeted(self)?;
            let query = "/api/v2/traces?serviceName=strict&lookback=600000&limit=100";
            let Ok(traces) = self.fetch("zipkin", query) else { return Ok(None) };
            let traces: Value = serde_json::from_str(&traces)?;
            let found = array(&traces).find(|trace| {
                let services = services_of(trace);
                ["tour", "strict"].iter().all(|app| services.contains(app))
            });
            Ok(found.map(|trace| trace.as_array().map_or(0, Vec::len)))
        })
        .map(|spans| format!("a call is one trace of {spans} spans in Zipkin, of both sidecars"))
    }

    /// Prometheus has metrics of the sidecars and of each service of the control plane.
    pub(super) fn metrics_arrive(&self) -> Result<String> {
        let calls = "sum(dapr_http_server_request_count{app_id=\"tour\"})";
        until(Deadline::seconds(SECONDS), "metrics of a sidecar", || {
            Ok((!self.query(calls)?.is_empty()).then_some(()))
        })?;
        let up = format!("up{{namespace=\"{CONTROL_PLANE}\"}} == 1");
        until(Deadline::seconds(SECONDS), "metrics of the control plane", || {
            let pods = self.query(&up)?;
            let is_there = |service: &str| {
                let name = service.rsplit('/').next().unwrap_or_default();
                pods.iter().any(|series| text(&series["metric"]["pod"]).starts_with(name))
            };
            Ok(SERVICES.iter().all(|service| is_there(service)).then_some(()))
        })?;
        let services = SERVICES.len();
        Ok(format!("Prometheus has those of the sidecars and of {services} services"))
    }

    /// What an observer answers to the application: the API server passes requests on to pods only.
    fn fetch(&self, service: &str, path: &str) -> Result<String> {
        let script =
            "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())";
        let url = format!("http://{service}{path}");
        let run = ["exec", "deployment/tour", "-c", "tour", "--", "python3", "-c", script, &url];
        self.demo.kubectl(&run)
    }

    /// What Prometheus answers to a query; nothing while it does not serve.
    fn query(&self, query: &str) -> Result<Vec<Value>> {
        let mut parameters = form_urlencoded::Serializer::new(String::new());
        let path = format!("/api/v1/query?{}", parameters.append_pair("query", query).finish());
        let Ok(answer) = self.fetch("prometheus", &path) else { return Ok(Vec::new()) };
        let answer: Value = serde_json::from_str(&answer)?;
        ensure!(answer["status"] == "success", "Prometheus answers {answer}");
        Ok(array(&answer["data"]["result"]).cloned().collect())
    }
}

/// The names of the applications in a trace.
fn services_of(trace: &Value) -> BTreeSet<&str> {
    array(trace).map(|span| text(&span["localEndpoint"]["serviceName"])).collect()
}

/// A Service on port 80 without selector, and what stands behind it: a port of the node.
fn service_of_node(name: &str, namespace: &str, port: u16) -> [Value; 2] {
    let metadata = json!({"name": name, "namespace": namespace});
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": "IPv4", "ports": [{"name": "http", "port": port}],
        "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": true}}],
    });
    slice["metadata"]["labels"] = json!({"kubernetes.io/service-name": name});
    let ports = json!([{"name": "http", "port": 80, "targetPort": port}]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports},
    });
    [service, slice]
}

/// Reads its targets from [`TARGETS`], which may come later.
fn prometheus_config() -> Value {
    let files = json!([{"files": [TARGETS], "refresh_interval": "5s"}]);
    json!({
        "global": {"scrape_interval": "2s"},
        "scrape_configs": [{"job_name": "pods", "file_sd_configs": files}],
    })
}

/// Every pod whose annotations ask for it, as a target of Prometheus.
fn targets(pods: &Value) -> Value {
    let target = |pod: &Value| {
        let annotation =
            |name: &str| pod["metadata"]["annotations"][format!("prometheus.io/{name}")].as_str();
        let address =
            pod["status"]["podIP"].as_str().filter(|_| annotation("scrape") == Some("true"))?;
        Some(json!({
            "targets": [format!("{address}:{}", annotation("port")?)],
            "labels": {
                "__metrics_path__": annotation("path")?,
                "namespace": pod["metadata"]["namespace"],
                "pod": pod["metadata"]["name"],
            },
        }))
    };
    array(&pods["items"]).filter_map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_targets_when_their_annotations_ask_for_it() {
        let pod = |scrape: &str| {
            json!({
                "metadata": {"name": "p", "namespace": "n", "annotations": {
                    "prometheus.io/scrape": scrape,
                    "prometheus.io/port": "9090",
                    "prometheus.io/path": "/",
                }},
                "status": {"podIP": "10.0.0.1"},
            })
        };
        let starting = json!({"metadata": {"annotations": {"prometheus.io/scrape": "true"}}});
        let targets = targets(&json!({"items": [pod("true"), pod("false"), starting]}));
        let labels = json!({"__metrics_path__": "/", "namespace": "n", "pod": "p"});
        assert_eq!(targets, json!([{"targets": ["10.0.0.1:9090"], "labels": labels}]));
    }

    #[test]
    fn a_trace_has_the_applications_of_its_spans() {
        let trace = json!([
            {"localEndpoint": {"serviceName": "tour"}},
            {"localEndpoint": {"serviceName": "strict"}},
            {"localEndpoint": {"serviceName": "tour"}},
        ]);
        assert_eq!(services_of(&trace), BTreeSet::from(["strict", "tour"]));
    }
}
