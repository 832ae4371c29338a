//! Scenario `install`: Helm installs each side's own chart on a node with real pods; then a
//! Deployment that asks for a sidecar is applied.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use blackbox::node_cluster::TemporaryNode;
use blackbox::progress::step;
use blackbox::{
    Architecture, Cluster, Deadline, NodeCluster, Service, environment, peer_images, reference,
    until,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use runtime::clock::monotonic;
use serde_json::Value;

use crate::environment::programs::Programs;
use crate::environment::test_env::NAMESPACE;
use crate::environment::usage::{megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

/// The application's namespace; gone after each round.
const APPLICATION: &str = "bench";
const DAPRD: &str = "localhost/daprd:bench";
const APP_IMAGE: &str = "localhost/bench-app:1";
/// Seconds until an object must be gone.
const TIMEOUT: u64 = 180;

/// Time from `helm install` to Ready, and sizes of images.
#[derive(Debug)]
pub struct Install;

impl Scenario for Install {
    fn description(&self) -> Description {
        Description {
            name: "install",
            about: "A node with real pods: Helm installs each side's own chart (the reference's \
                 without its scheduler) until all pods are Ready, how often their containers were \
                 restarted on the way; then a Deployment asks for a sidecar until its pod has both \
                 containers ready; images are on the node, made in the same way for both (program, \
                 certificate authorities, our bill of materials); their size is compressed",
            services: &Service::ALL,
            sides: &[Side::Reference, Side::Trilby], // a baseline is programs without a chart
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, _size: Size) -> Result<Box<dyn Prepared>> {
        let node = NodeCluster::temporary()?;
        let cluster = node.up()?;
        let sizes = step("make and import images", || import_images(&node, programs.profile()))?;
        Ok(Box::new(Installed { cluster, sizes, reference_chart: reference::chart()?, _bed: node }))
    }
}

struct Installed {
    cluster: Cluster,
    /// Sizes of images, which are equal in all rounds.
    sizes: Vec<(Side, Reading)>,
    reference_chart: PathBuf,
    _bed: TemporaryNode,
}

/// Imports all images into the node; returns the sizes of the services' images.
fn import_images(node: &NodeCluster, profile: &str) -> Result<Vec<(Side, Reading)>> {
    let folder = environment::workspace().join("target/images");
    let import = |name: &str, image: blackbox::Image| {
        let archive = folder.join(format!("bench-{name}.tar"));
        image.write(&archive)?;
        node.import_image(&archive)?;
        anyhow::Ok(archive)
    };
    let mut sizes = Vec::new();
    let mut record = |side, program: &str, archive: PathBuf| {
        let metric = format!("{program}: image");
        let size = megabytes(compressed(&archive)?);
        sizes.push((side, Reading::new(metric, Unit::Megabytes, size)));
        anyhow::Ok(())
    };
    for service in Service::ALL {
        let binary = service.binary();
        let ours = peer_images::service(service, &image(Side::Trilby, service), profile)?;
        record(Side::Trilby, binary, import(&format!("trilby-{binary}"), ours)?)?;
        let theirs = reference::image(service, &image(Side::Reference, service))?;
        record(Side::Reference, binary, import(&format!("reference-{binary}"), theirs)?)?;
    }
    let dashboard =
        peer_images::dashboard(Architecture::here()?, "localhost/trilby/dashboard", profile)?;
    record(Side::Trilby, "dashboard", import("trilby-dashboard", dashboard)?)?;
    import("daprd", peer_images::daprd(DAPRD)?)?;
    import("app", peer_images::redis(APP_IMAGE)?)?;
    Ok(sizes)
}

/// The size of an image as registries keep it: compressed with gzip.
fn compressed(archive: &Path) -> Result<u64> {
    let mut encoder = GzEncoder::new(Count(0), Compression::default());
    io::copy(&mut File::open(archive)?, &mut encoder)?;
    Ok(encoder.finish()?.0)
}

/// Counts what is written to it.
struct Count(u64);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn registry(side: Side) -> String {
    format!("localhost/{}", side.name())
}

fn tag(side: Side) -> &'static str {
    match side {
        Side::Reference => reference::tag(),
        Side::Baseline | Side::Trilby => env!("CARGO_PKG_VERSION"),
    }
}

fn image(side: Side, service: Service) -> String {
    format!("{}/{}:{}", registry(side), service.binary(), tag(side))
}

impl Prepared for Installed {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let begin = monotonic();
        self.helm_install(side)?;
        let installed = begin.elapsed();
        let restarts = restarts(&self.cluster.get(&["pods", "-n", NAMESPACE])?);
        let deployed = self.deploy()?;
        self.remove()?;
        let mut readings = vec![
            Reading::new("helm install to all Ready", Unit::Milliseconds, milliseconds(installed)),
            Reading::new("restarts until all are Ready", Unit::Count, restarts),
            Reading::new("annotated Deployment to 2/2", Unit::Milliseconds, milliseconds(deployed)),
        ];
        let sizes = self.sizes.iter().filter(|(of, _)| *of == side);
        readings.extend(sizes.map(|(_, reading)| reading.clone()));
        Ok(readings)
    }
}

impl Installed {
    fn helm_install(&self, side: Side) -> Result<()> {
        let ours = environment::workspace().join("charts/dapr");
        let (chart, registry_key) = match side {
            Side::Reference => (&self.reference_chart, "global.registry"),
            Side::Baseline | Side::Trilby => (&ours, "global.controlPlane.registry"),
        };
        let chart = chart.to_str().context("the chart's path is no UTF-8")?;
        let registry = format!("{registry_key}={}", registry(side));
        let tag = format!("global.tag={}", tag(side));
        let daprd = format!("dapr_sidecar_injector.image.name={DAPRD}");
        let mut args = vec!["install", "dapr", chart, "--namespace", NAMESPACE];
        args.extend(["--create-namespace", "--wait", "--timeout", "4m"]);
        args.extend(["--set", "global.scheduler.enabled=false", "--set", &registry]);
        args.extend(["--set", &tag, "--set", &daprd]);
        self.cluster.helm(&args).map(drop)
    }

    /// Applies a Deployment and waits until application and sidecar are ready.
    fn deploy(&self) -> Result<Duration> {
        self.cluster.kubectl(&["create", "namespace", APPLICATION])?;
        let begin = monotonic();
        self.cluster.kubectl_with_input(
            &["apply", "-n", APPLICATION, "-f", "-"],
            &format!(
                r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: app}}
spec:
  selector: {{matchLabels: {{app: app}}}}
  template:
    metadata:
      labels: {{app: app}}
      annotations: {{dapr.io/enabled: "true", dapr.io/app-id: app}}
    spec:
      containers: [{{name: app, image: "{APP_IMAGE}", imagePullPolicy: IfNotPresent}}]
"#
            ),
        )?;
        until(Deadline::seconds(TIMEOUT), "application and sidecar", || {
            let pods = self.cluster.get(&["pods", "-n", APPLICATION])?;
            Ok((ready_containers(&pods) == 2).then_some(()))
        })?;
        Ok(begin.elapsed())
    }

    /// Removes everything that was installed.
    fn remove(&self) -> Result<()> {
        let gone = ["delete", "namespace", APPLICATION, "--wait"];
        self.cluster.kubectl(&gone)?;
        self.cluster.helm(&["uninstall", "dapr", "--namespace", NAMESPACE, "--wait"])?;
        self.cluster.kubectl(&["delete", "namespace", NAMESPACE, "--wait"])?;
        let kinds = self.cluster.kubectl(&["get", "crd", "-o", "name"])?;
        let kinds: Vec<_> = kinds.lines().filter(|name| name.ends_with("dapr.io")).collect();
        self.cluster.kubectl(&[&["delete", "--wait"], kinds.as_slice()].concat())?;
        Ok(())
    }
}

fn ready_containers(pods: &Value) -> usize {
    containers(pods).filter(|status| status.get("ready") == Some(&Value::Bool(true))).count()
}

fn restarts(pods: &Value) -> f64 {
    containers(pods).filter_map(|status| status.get("restartCount")?.as_f64()).sum()
}

/// The container statuses of a list of pods.
fn containers<'a>(pods: &'a Value) -> impl Iterator<Item = &'a Value> {
    let pods = pods.get("items").and_then(Value::as_array);
    let status = |pod: &'a Value| pod.pointer("/status/containerStatuses")?.as_array();
    pods.into_iter().flatten().filter_map(status).flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_of_all_pods_are_counted() {
        let pod = |ready: bool, restarts: u32| json!({"status": {"containerStatuses": [{"ready": ready, "restartCount": restarts}]}});
        let pods = json!({"items": [pod(true, 2), pod(false, 1), {"status": {}}]});
        assert_eq!(ready_containers(&pods), 1);
        assert!((restarts(&pods) - 3.0).abs() < f64::EPSILON);
    }
}
