//! Scenarios `operator-memory` and `operator-memory-large`: memory of the operator, and the cost of
//! changing pods.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blackbox::Service;
use runtime::clock::monotonic;
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::clients::cluster::ApiServer;
use crate::clients::load;
use crate::clients::sidecars::{Sidecars, app_id};
use crate::environment::programs::Programs;
use crate::environment::test_env::{Running, TestEnv};
use crate::environment::usage::{Peak, megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::target::Target;

/// Namespace of all objects.
const SPACE: &str = "bench";
/// Different apps among the pods and sidecars.
const APPS: usize = 20;
/// Size of a Secret's only entry.
const SECRET_BYTES: usize = 20_000;
/// Every so many-th Component takes a value from a Secret.
const SECRET_EVERY: usize = 20;
/// Pause between two changes of pods: 20 per second.
const CHURN: Duration = Duration::from_millis(50);

/// Memory of the operator at one of two scales.
#[derive(Clone, Copy, Debug)]
pub struct OperatorMemory {
    name: &'static str,
    about: &'static str,
    full: Scale,
}

/// Numbers of objects.
#[derive(Clone, Copy, Debug)]
struct Scale {
    pods: usize,
    secrets: usize,
    components: usize,
    streams: usize,
}

impl Scale {
    const fn tenth(self) -> Self {
        Self {
            pods: self.pods / 10,
            secrets: self.secrets / 10,
            components: self.components / 10,
            streams: self.streams / 10,
        }
    }
}

impl OperatorMemory {
    /// An ordinary cluster.
    pub const FIRST: Self = Self {
        name: "operator-memory",
        about: "2,000 annotated pods, 1,000 Secrets of 20 KB, 200 Components of 9 items, 200 sidecars \
                on connections of their own: memory of the operator step by step, each time after \
                8 s of rest, and the processor time of 20 changed pods a second",
        full: Scale { pods: 2000, secrets: 1000, components: 200, streams: 200 },
    };
    /// A large cluster.
    pub const LARGE: Self = Self {
        name: "operator-memory-large",
        about: "The same with 10,000 pods, 5,000 Secrets, 500 Components and 1,000 sidecars",
        full: Scale { pods: 10_000, secrets: 5000, components: 500, streams: 1000 },
    };
}

struct Cluster {
    env: TestEnv,
    programs: Programs,
    kubeconfig: PathBuf,
    scale: Scale,
    settle: Duration,
    changes: u32,
}

impl Scenario for OperatorMemory {
    fn description(&self) -> Description {
        Description {
            name: self.name,
            about: self.about,
            services: &[Service::Operator, Service::Sentry],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let env = TestEnv::start(programs)?;
        env.api().kubectl(&["create", "namespace", SPACE])?;
        let scale = size.pick(self.full, self.full.tenth());
        let kubeconfig = env.api().kubeconfig().to_path_buf();
        load::runtime()?.block_on(async {
            let api = ApiServer::connect(&kubeconfig).await?;
            fill(&api, SPACE, scale).await
        })?;
        let settle = size.pick(Duration::from_secs(8), Duration::from_secs(3));
        let changes = size.pick(600, 100);
        let programs = programs.clone();
        Ok(Box::new(Cluster { env, programs, kubeconfig, scale, settle, changes }))
    }

    /// With a kubeconfig, creates the row's objects first; they are not removed.
    fn load(&self, target: &Target) -> Result<Vec<Reading>> {
        let scale = target.size().pick(self.full, self.full.tenth());
        let (authority, space) = (target.authority()?, &target.apps);
        load::runtime()?.block_on(async {
            if let Some(kubeconfig) = &target.kubeconfig {
                fill(&ApiServer::connect(kubeconfig).await?, space, scale).await?;
            }
            let sidecars =
                Sidecars::new(&authority, &target.address, space, APPS, scale.streams).await?;
            let heard = sidecars.watch_components(sidecars.len()).await?;
            let begin = monotonic();
            let listed = sidecars.list(sidecars.len()).await?;
            let took = milliseconds(begin.elapsed());
            drop(heard);
            sidecars.close().await?;
            let what = format!("{} sidecars watch, each lists {listed} components", scale.streams);
            Ok(vec![Reading::new(what, Unit::Milliseconds, took)])
        })
    }
}

async fn fill(api: &ApiServer, space: &str, scale: Scale) -> Result<()> {
    let core = format!("/api/v1/namespaces/{space}");
    let dapr = format!("/apis/dapr.io/v1alpha1/namespaces/{space}");
    api.create(&format!("{core}/secrets"), (0..scale.secrets).map(secret)).await?;
    api.create(&format!("{dapr}/components"), (0..scale.components).map(component)).await?;
    let configuration = json!({"kind": "Configuration", "apiVersion": "dapr.io/v1alpha1",
        "metadata": {"name": "appconfig"}, "spec": {"tracing": {"samplingRate": "1"}}});
    api.create(&format!("{dapr}/configurations"), std::iter::once(configuration)).await?;
    api.create(&format!("{core}/pods"), (0..scale.pods).map(pod)).await
}

fn secret(index: usize) -> Value {
    let byte = u8::try_from(index % 251).unwrap_or_default();
    json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": format!("secret-{index}")},
        "data": {"password": STANDARD.encode(vec![byte; SECRET_BYTES])}})
}

fn component(index: usize) -> Value {
    let mut items = settings(index, 8);
    let last = if index.is_multiple_of(SECRET_EVERY) {
        let secret = json!({"name": format!("secret-{}", index / SECRET_EVERY), "key": "password"});
        json!({"name": "password", "secretKeyRef": secret})
    } else {
        json!({"name": "password", "value": "none"})
    };
    items.push(last);
    component_of(index, &items)
}

/// Metadata items of a Component.
pub(super) fn settings(index: usize, count: usize) -> Vec<Value> {
    (0..count)
        .map(|item| json!({"name": format!("setting{item}"), "value": format!("value of {index}")}))
        .collect()
}

/// A Component with these metadata items.
pub(super) fn component_of(index: usize, items: &[Value]) -> Value {
    json!({"kind": "Component", "apiVersion": "dapr.io/v1alpha1",
        "metadata": {"name": format!("component-{index}")},
        "spec": {"type": "state.in-memory", "version": "v1", "metadata": items}})
}

/// The environment of a container of ordinary size.
pub(super) fn variables() -> Vec<Value> {
    (0..12).map(|i| json!({"name": format!("SETTING_{i}"), "value": "some value"})).collect()
}

/// A pod of ordinary size.
fn pod(index: usize) -> Value {
    let environment = variables();
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": pod_name(index), "labels": {"app": app_id(index % APPS)},
            "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": app_id(index % APPS),
                            "dapr.io/config": "appconfig"}},
        "spec": {"containers": [{"name": "app", "image": "localhost/app:1", "env": environment}],
                 "automountServiceAccountToken": false}})
}

fn pod_name(index: usize) -> String {
    format!("pod-{index}")
}

fn configuration_path(name: &str) -> String {
    format!("/apis/dapr.io/v1alpha1/namespaces/{SPACE}/configurations/{name}")
}

/// Changes an object without effect on its readers. The API server drops patches that change
/// nothing, so each writes a time that none before had.
async fn touch(api: &ApiServer, path: &str) -> Result<()> {
    let annotations = json!({"bench/changed": runtime::clock::now().to_string()});
    api.merge(path, json!({"metadata": {"annotations": annotations}})).await
}

impl Prepared for Cluster {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let more = ["--disable-service-reconciler"]; // not measured here
        let start = self.env.service(&self.programs, side, Service::Operator, &more)?;
        let (operator, _) = start.ready()?;
        let peak = Peak::watch(operator.pid());
        let mut readings = load::runtime()?.block_on(self.steps(&operator))?;
        let peak = peak.finish();
        readings.push(Reading::new("peak RSS", Unit::Megabytes, megabytes(peak.rss)));
        operator.stop()?;
        Ok(readings)
    }
}

impl Cluster {
    async fn steps(&self, operator: &Running) -> Result<Vec<Reading>> {
        let mut readings = Vec::new();
        let rss = |what: &str| {
            let memory = operator.memory()?;
            anyhow::Ok(Reading::new(format!("{what}: RSS"), Unit::Megabytes, megabytes(memory.rss)))
        };
        let api = ApiServer::connect(&self.kubeconfig).await?;
        sleep(self.settle).await;
        readings.push(rss("ready")?);
        let address = operator.address();
        let authority = self.env.authority()?;
        let sidecars = Sidecars::new(&authority, &address, SPACE, APPS, self.scale.streams).await?;
        let configuration = sidecars.watch_configuration().await?;
        // The reference starts to watch pods with the first change of a Configuration.
        touch(&api, &configuration_path("appconfig")).await?;
        let listed = sidecars.list(1).await?;
        let wanted = self.scale.components;
        ensure!(listed == wanted, "a sidecar got {listed} components of {wanted}");
        sleep(self.settle).await;
        readings.push(rss("one sidecar")?);
        let heard = sidecars.watch_components(sidecars.len()).await?;
        let before = operator.cpu()?;
        sidecars.list(sidecars.len()).await?;
        let cpu = milliseconds(operator.cpu()?.saturating_sub(before));
        readings.push(Reading::new("a list by each sidecar", Unit::CpuMilliseconds, cpu));
        sleep(self.settle).await;
        readings.push(rss("all sidecars")?);
        let before = operator.cpu()?;
        self.churn(&api).await?;
        let cpu = milliseconds(operator.cpu()?.saturating_sub(before));
        let metric = format!("{} pods changed, 20/s", self.changes);
        readings.push(Reading::new(metric, Unit::CpuMilliseconds, cpu));
        readings.push(rss("after the changes")?);
        drop((heard, configuration));
        sidecars.close().await?;
        Ok(readings)
    }

    async fn churn(&self, api: &ApiServer) -> Result<()> {
        let mut ticks = interval(CHURN);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for change in 0..self.changes {
            ticks.tick().await;
            let pod = pod_name(usize::try_from(change)? % self.scale.pods);
            touch(api, &format!("/api/v1/namespaces/{SPACE}/pods/{pod}")).await?;
        }
        Ok(())
    }
}
