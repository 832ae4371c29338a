//! Row `scale-operator`: a cluster with many pods, a tenth of which are connected sidecars.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use blackbox::Service;
use blackbox::progress::say;
use runtime::clock::monotonic;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Readings, needs_descriptors};
use crate::clients::cluster::ApiServer;
use crate::clients::load;
use crate::clients::sidecars::{Heard, Sidecars, app_id};
use crate::environment::programs::Programs;
use crate::environment::test_env::{Running, TestEnv};
use crate::environment::usage::{Peak, megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::scenarios::operator_memory::{component_of, settings, variables};

/// Namespace of all objects: the worst case of a change, which every sidecar receives.
const SPACE: &str = "bench";
/// Different apps among the pods and sidecars.
const APPS: usize = 100;
/// Pods of a sidecar that is connected. The others would be at another replica.
const PODS: usize = 10;
/// Components of the namespace.
const COMPONENTS: usize = 50;
/// Changes of a component.
const CHANGES: u32 = 5;
/// Time limit until every sidecar has a change.
const LIMIT: Duration = Duration::from_mins(2);
/// Open files that the largest size needs.
const FILES: u64 = 12_000;

/// Pods and sidecars, up to fifty and five thousand.
#[derive(Debug)]
pub struct ScaleOperator;

struct Cluster {
    env: TestEnv,
    programs: Programs,
    kubeconfig: PathBuf,
    sizes: [usize; 3],
    settle: Duration,
    /// Pods that are there.
    pods: usize,
    runtime: tokio::runtime::Runtime,
}

impl Scenario for ScaleOperator {
    fn description(&self) -> Description {
        Description {
            name: "scale-operator",
            about: "500, 1,500 and 5,000 sidecars with connections of their own, and ten times as \
                 many annotated pods with sidecars, at a real API server; 50 Components of 9 items \
                 in the one namespace of all. One operator with the watchdog, the reconciler of \
                 Services and the watch of Secrets: until it has started, until each sidecar has \
                 its stream, a list by each, and a change of a Component that each receives (the \
                 mean of 5)",
            services: &[Service::Operator, Service::Sentry],
            is_only_named: true,
            ..Description::OURS
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        needs_descriptors(FILES)?;
        let env = TestEnv::start(programs)?;
        env.api().kubectl(&["create", "namespace", SPACE])?;
        let kubeconfig = env.api().kubeconfig().to_path_buf();
        let runtime = load::runtime()?;
        runtime.block_on(async {
            let path = format!("/apis/dapr.io/v1alpha1/namespaces/{SPACE}/components");
            ApiServer::connect(&kubeconfig)
                .await?
                .create(&path, (0..COMPONENTS).map(component))
                .await
        })?;
        let (sizes, settle) = size.pick(
            ([500, 1_500, 5_000], Duration::from_secs(8)),
            ([50, 150, 500], Duration::from_secs(3)),
        );
        let programs = programs.clone();
        Ok(Box::new(Cluster { env, programs, kubeconfig, sizes, settle, pods: 0, runtime }))
    }
}

fn component(index: usize) -> Value {
    component_of(index, &settings(index, 9))
}

/// A pod of ordinary size with its sidecar, so that the watchdog has nothing to repair.
fn pod(index: usize) -> Value {
    let environment = variables();
    let app = app_id(index % APPS);
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": format!("pod-{index}"),
            "labels": {"app": app, "dapr.io/app-id": app, "dapr.io/sidecar-injected": "true"},
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": app}},
        "spec": {"automountServiceAccountToken": false, "containers": [
            {"name": "app", "image": "localhost/app:1", "env": environment},
            {"name": "daprd", "image": "ghcr.io/dapr/daprd:1.18.3", "env": environment}]}})
}

impl Prepared for Cluster {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        for count in self.sizes {
            self.fill(count * PODS)?;
            readings.extend(self.sidecars(side, count)?);
        }
        Ok(readings)
    }
}

impl Cluster {
    /// Creates the pods that are missing.
    fn fill(&mut self, pods: usize) -> Result<()> {
        let begin = monotonic();
        self.runtime.block_on(async {
            let api = ApiServer::connect(&self.kubeconfig).await?;
            let path = format!("/api/v1/namespaces/{SPACE}/pods");
            api.create(&path, (self.pods..pods).map(pod)).await
        })?;
        say(format_args!("{pods} pods; {:.0?} for those that were missing", begin.elapsed()));
        self.pods = self.pods.max(pods);
        Ok(())
    }

    fn sidecars(&self, side: Side, count: usize) -> Result<Vec<Reading>> {
        let more = ["--watch-interval=10s"];
        let start = self.env.service(&self.programs, side, Service::Operator, &more)?;
        let (operator, took) = start.ready()?;
        let peak = Peak::watch(operator.pid());
        let mut readings = Readings::new(count, "sidecars");
        readings.add("ready in", Unit::Milliseconds, milliseconds(took));
        self.runtime.block_on(self.steps(&operator, count, &mut readings))?;
        readings.add("peak RSS", Unit::Megabytes, megabytes(peak.finish().rss));
        operator.stop()?;
        Ok(readings.all)
    }

    async fn steps(&self, operator: &Running, count: usize, readings: &mut Readings) -> Result<()> {
        let api = ApiServer::connect(&self.kubeconfig).await?;
        sleep(self.settle).await;
        let started = operator.cpu()?;
        readings.cpu("started", started);
        let pods = operator.memory()?.rss;
        readings.add("RSS without sidecars", Unit::Megabytes, megabytes(pods));
        let authority = self.env.authority()?;
        let sidecars = Sidecars::new(&authority, &operator.address(), SPACE, APPS, count).await?;
        let mut heard = sidecars.watch_components(count).await?;
        let connected = operator.cpu()?;
        readings.cpu("connected", connected.saturating_sub(started));
        let listed = sidecars.list(count).await?;
        ensure!(listed == COMPONENTS, "a sidecar got {listed} components of {COMPONENTS}");
        let done = operator.cpu()?;
        readings.cpu("a list by each", done.saturating_sub(connected));
        let last = changes(&api, &mut heard, count).await?;
        readings.cpu("a change", operator.cpu()?.saturating_sub(done) / CHANGES);
        readings.add("a change at the last sidecar", Unit::Milliseconds, milliseconds(last));
        sleep(self.settle).await;
        readings.memory("RSS with sidecars", operator, pods)?;
        drop(heard);
        sidecars.close().await
    }
}

/// Changes a component several times; the mean time until the last sidecar had it.
async fn changes(api: &ApiServer, heard: &mut Heard, sidecars: usize) -> Result<Duration> {
    let path = format!("/apis/dapr.io/v1alpha1/namespaces/{SPACE}/components/component-0");
    let mut sum = Duration::ZERO;
    for _ in 0..CHANGES {
        let labels = json!({"version": runtime::clock::now().as_nanosecond().to_string()});
        let begin = monotonic();
        let request = api.merge(&path, json!({"metadata": {"labels": labels}}));
        let (patched, heard) = tokio::join!(request, heard.next(sidecars, begin + LIMIT));
        patched?;
        let last = heard?.last().map(|at| at.saturating_duration_since(begin));
        sum += last.unwrap_or_default();
    }
    Ok(sum / CHANGES)
}
