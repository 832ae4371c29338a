//! Scenario `operator-fanout`: a component changes, and all sidecars of its namespace receive it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use blackbox::Service;
use runtime::clock::monotonic;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::clients::cluster::ApiServer;
use crate::clients::load;
use crate::clients::sidecars::{Heard, Sidecars};
use crate::environment::programs::Programs;
use crate::environment::test_env::TestEnv;
use crate::environment::usage::milliseconds;
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::target::Target;

/// Namespace of all objects.
const SPACE: &str = "bench";
/// The components that change: one without and one with a secretKeyRef.
const NAMES: [&str; 2] = ["plain", "secret"];
/// The Secret that one of them refers to.
const SECRET: &str = "bench-redis";
/// Different apps among the sidecars.
const APPS: usize = 20;
/// Measured changes of each component, after one that is not measured.
const CHANGES: usize = 20;
/// Pause between two changes, so that they do not overlap.
const PAUSE: Duration = Duration::from_millis(100);
/// Time limit for a change to reach all sidecars.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Resources that an operator may read to serve a change.
const RESOURCES: [&str; 4] = ["secrets", "components", "pods", "configurations"];

/// Time until a change of a component reaches all sidecars.
#[derive(Clone, Copy, Debug)]
pub struct OperatorFanout;

struct Namespace {
    env: TestEnv,
    programs: Programs,
    kubeconfig: PathBuf,
    streams: [usize; 2],
}

impl Scenario for OperatorFanout {
    fn description(&self) -> Description {
        Description {
            name: "operator-fanout",
            about: "200 and 1,000 sidecars on connections of their own watch a namespace; one \
                 component changes, without and with a secretKeyRef: from the start of the PATCH \
                 until the first, the median and the last sidecar has it (median of 20 changes, \
                 after one that does not count); requests of the operator to the API server",
            services: &[Service::Operator, Service::Sentry],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let env = TestEnv::start(programs)?;
        env.api().kubectl(&["create", "namespace", SPACE])?;
        let kubeconfig = env.api().kubeconfig().to_path_buf();
        load::runtime()?.block_on(async {
            let api = ApiServer::connect(&kubeconfig).await?;
            Changes { api: &api, space: SPACE }.fill().await
        })?;
        let programs = programs.clone();
        Ok(Box::new(Namespace { env, programs, kubeconfig, streams: streams(size) }))
    }

    /// Creates the objects in the namespace of the apps, and removes them at the end.
    fn load(&self, target: &Target) -> Result<Vec<Reading>> {
        let (authority, space) = (target.authority()?, target.apps.as_str());
        let kubeconfig = target.kubeconfig()?;
        load::runtime()?.block_on(async {
            let api = ApiServer::connect(kubeconfig).await?;
            let changes = Changes { api: &api, space };
            changes.fill().await?;
            let measured = async {
                let [_, count] = streams(target.size());
                let sidecars =
                    Sidecars::new(&authority, &target.address, space, APPS, count).await?;
                let mut heard = sidecars.watch_components(count).await?;
                let mut readings = Vec::new();
                for name in NAMES {
                    readings.extend(changes.of(&mut heard, name, count).await?);
                }
                drop(heard);
                sidecars.close().await?;
                anyhow::Ok(readings)
            };
            let measured = measured.await;
            changes.remove().await?;
            measured
        })
    }
}

/// Numbers of sidecars that watch: an ordinary and a large namespace.
fn streams(size: Size) -> [usize; 2] {
    size.pick([200, 1000], [20, 100])
}

impl Prepared for Namespace {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let more = ["--disable-service-reconciler"]; // not measured here
        let start = self.env.service(&self.programs, side, Service::Operator, &more)?;
        let (operator, _) = start.ready()?;
        let address = operator.address();
        let [few, all] = self.streams;
        let readings = load::runtime()?.block_on(async {
            let api = ApiServer::connect(&self.kubeconfig).await?;
            let changes = Changes { api: &api, space: SPACE };
            let authority = self.env.authority()?;
            let sidecars = Sidecars::new(&authority, &address, SPACE, APPS, all).await?;
            sidecars.list(1).await?; // the reference reads its Secrets now
            let mut readings = Vec::new();
            let mut heard = sidecars.watch_components(few).await?;
            for name in NAMES {
                readings.extend(changes.of(&mut heard, name, few).await?);
            }
            drop(heard);
            let mut heard = sidecars.watch_components(all).await?;
            for name in NAMES {
                let before = operator.cpu()?;
                let reads = api.reads(&RESOURCES).await?;
                readings.extend(changes.of(&mut heard, name, all).await?);
                let reads = api.reads(&RESOURCES).await? - reads;
                let cpu = milliseconds(operator.cpu()?.saturating_sub(before));
                let changes = format!("{name}: {} changes", CHANGES + 1);
                readings.push(Reading::new(format!("{changes}, API reads"), Unit::Count, reads));
                readings.push(Reading::new(changes, Unit::CpuMilliseconds, cpu));
            }
            drop(heard);
            sidecars.close().await?;
            anyhow::Ok(readings)
        })?;
        operator.stop()?;
        Ok(readings)
    }
}

/// Time of one change to the first, the median and the last stream.
struct Spread([Duration; 3]);

impl Spread {
    fn of(begin: Instant, heard: &[Instant]) -> Option<Self> {
        let after = |at: &Instant| at.saturating_duration_since(begin);
        let (first, last) = (heard.first()?, heard.last()?);
        let median = heard.get(heard.len() / 2)?;
        Some(Self([after(first), after(median), after(last)]))
    }
}

/// The two components of a namespace that change, and the Secret of one of them.
struct Changes<'a> {
    api: &'a ApiServer,
    space: &'a str,
}

impl Changes<'_> {
    fn secrets(&self) -> String {
        format!("/api/v1/namespaces/{}/secrets", self.space)
    }

    fn components(&self) -> String {
        format!("/apis/dapr.io/v1alpha1/namespaces/{}/components", self.space)
    }

    async fn fill(&self) -> Result<()> {
        let secret = json!({"kind": "Secret", "apiVersion": "v1",
            "metadata": {"name": SECRET}, "stringData": {"password": "hunter2"}});
        self.api.create(&self.secrets(), std::iter::once(secret)).await?;
        let literal = json!({"name": "redisPassword", "value": "none"});
        let reference = json!({"name": "redisPassword",
            "secretKeyRef": {"name": SECRET, "key": "password"}});
        let [plain, secret] = NAMES;
        let components = [component(plain, &literal), component(secret, &reference)];
        self.api.create(&self.components(), components.into_iter()).await
    }

    async fn remove(&self) -> Result<()> {
        for name in NAMES {
            self.api.remove(&format!("{}/{}", self.components(), object(name))).await?;
        }
        self.api.remove(&format!("{}/{SECRET}", self.secrets())).await
    }

    /// Changes a component again and again; readings are the medians of all changes but the first.
    async fn of(&self, heard: &mut Heard, name: &str, streams: usize) -> Result<Vec<Reading>> {
        self.change(heard, name, streams).await?;
        let mut spreads = Vec::new();
        for _ in 0..CHANGES {
            sleep(PAUSE).await;
            spreads.push(self.change(heard, name, streams).await?);
        }
        let mut readings = Vec::new();
        for (index, what) in ["first", "median", "last"].into_iter().enumerate() {
            let mut column: Vec<_> =
                spreads.iter().filter_map(|Spread(times)| times.get(index).copied()).collect();
            column.sort_unstable();
            let median = column.get(column.len() / 2).copied().context("no changes")?;
            let metric = format!("{name}: {what} of {streams} sidecars");
            readings.push(Reading::new(metric, Unit::Milliseconds, milliseconds(median)));
        }
        Ok(readings)
    }

    async fn change(&self, heard: &mut Heard, name: &str, streams: usize) -> Result<Spread> {
        let path = format!("{}/{}", self.components(), object(name));
        // A new time each: the API server drops a patch that changes nothing.
        let labels = json!({"version": runtime::clock::now().as_nanosecond().to_string()});
        let begin = monotonic();
        let request = self.api.merge(&path, json!({"metadata": {"labels": labels}}));
        let (patched, heard) = tokio::join!(request, heard.next(streams, begin + TIMEOUT));
        patched?;
        Spread::of(begin, &heard?).context("there are no streams")
    }
}

/// The name of a component in the cluster.
fn object(name: &str) -> String {
    format!("bench-{name}")
}

fn component(name: &str, password: &Value) -> Value {
    let mut items: Vec<Value> =
        (0..8).map(|i| json!({"name": format!("setting{i}"), "value": "some value"})).collect();
    items.push(password.clone());
    json!({"kind": "Component", "apiVersion": "dapr.io/v1alpha1",
        "metadata": {"name": object(name)},
        "spec": {"type": "state.redis", "version": "v1", "metadata": items}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_names_first_median_and_last() {
        let begin = monotonic();
        let heard: Vec<_> = (1..=5).map(|ms| begin + Duration::from_millis(ms)).collect();
        let Spread(times) = Spread::of(begin, &heard).unwrap();
        assert_eq!(times.map(|time| time.as_millis()), [1, 3, 5]);
        assert!(Spread::of(begin, &[]).is_none());
    }
}
