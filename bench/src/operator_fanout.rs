//! Row `operator-fanout`: a component changes, and all sidecars of its namespace have to know.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use blackbox::Service;
use runtime::clock::monotonic;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    cluster::ApiServer,
    load,
    plane::Plane,
    programs::Programs,
    row::{Prepared, Reading, Row, Side, Size, Unit},
    sidecars::{Heard, Sidecars},
    usage::milliseconds,
};

/// Where everything is.
const SPACE: &str = "bench";
/// Different apps among the sidecars.
const APPS: usize = 20;
/// Changes measured of each component, after one that is not.
const CHANGES: usize = 20;
/// Between two changes, so that they do not meet.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a change may take to reach everybody.
const PATIENCE: Duration = Duration::from_mins(1);
/// What an operator might read to serve a change.
const RESOURCES: [&str; 4] = ["secrets", "components", "pods", "configurations"];

/// The row.
#[derive(Clone, Copy, Debug)]
pub struct OperatorFanout;

struct Namespace {
    plane: Plane,
    programs: Programs,
    kubeconfig: PathBuf,
    streams: usize,
    /// Grows with every change, so that none is equal to one before.
    version: u64,
}

impl Row for OperatorFanout {
    fn name(&self) -> &'static str {
        "operator-fanout"
    }

    fn about(&self) -> &'static str {
        "1,000 sidecars on connections of their own watch a namespace; one component changes, without \
         and with a secretKeyRef: from the start of the PATCH until the first, the median and the \
         last sidecar has it (median of 20 changes); requests of the operator to the API server"
    }

    fn services(&self) -> &'static [Service] {
        &[Service::Operator, Service::Sentry]
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let plane = Plane::start(programs)?;
        plane.bed().kubectl(&["create", "namespace", SPACE])?;
        let kubeconfig = plane.bed().kubeconfig().to_path_buf();
        load::runtime()?.block_on(async {
            let api = ApiServer::connect(&kubeconfig).await?;
            let secret = json!({"kind": "Secret", "apiVersion": "v1",
                "metadata": {"name": "redis"}, "stringData": {"password": "hunter2"}});
            let secrets = format!("/api/v1/namespaces/{SPACE}/secrets");
            api.create(&secrets, std::iter::once(secret)).await?;
            let literal = json!({"name": "redisPassword", "value": "none"});
            let reference = json!({"name": "redisPassword",
                "secretKeyRef": {"name": "redis", "key": "password"}});
            let components = [component("plain", &literal), component("secret", &reference)];
            let path = format!("/apis/dapr.io/v1alpha1/namespaces/{SPACE}/components");
            api.create(&path, components.into_iter()).await
        })?;
        let streams = size.pick(1000, 100);
        let programs = programs.clone();
        Ok(Box::new(Namespace { plane, programs, kubeconfig, streams, version: 0 }))
    }
}

fn component(name: &str, password: &Value) -> Value {
    let mut items: Vec<Value> =
        (0..8).map(|i| json!({"name": format!("setting{i}"), "value": "some value"})).collect();
    items.push(password.clone());
    json!({"kind": "Component", "apiVersion": "dapr.io/v1alpha1", "metadata": {"name": name},
        "spec": {"type": "state.redis", "version": "v1", "metadata": items}})
}

impl Prepared for Namespace {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let more = ["--disable-service-reconciler"]; // Services are another matter
        let start = self.plane.service(&self.programs, side, Service::Operator, &more)?;
        let (operator, _) = start.ready()?;
        let address = operator.address();
        let readings = load::runtime()?.block_on(async {
            let api = ApiServer::connect(&self.kubeconfig).await?;
            let authority = self.plane.authority()?;
            let sidecars = Sidecars::new(&authority, &address, SPACE, APPS, self.streams).await?;
            sidecars.list(1).await?; // the reference reads its Secrets now
            let mut heard = sidecars.watch_components().await?;
            let mut readings = Vec::new();
            for name in ["plain", "secret"] {
                let before = operator.cpu()?;
                readings.extend(self.changes(&api, &mut heard, name).await?);
                let cpu = milliseconds(operator.cpu()?.saturating_sub(before));
                let metric = format!("{name}: {} changes", CHANGES + 1);
                readings.push(Reading::new(metric, Unit::CpuMilliseconds, cpu));
            }
            drop(heard);
            sidecars.close().await?;
            anyhow::Ok(readings)
        })?;
        operator.stop()?;
        Ok(readings)
    }
}

/// How long one change took to reach the first, the median and the last stream.
struct Spread([Duration; 3]);

impl Spread {
    fn of(begin: Instant, heard: &[Instant]) -> Option<Self> {
        let after = |at: &Instant| at.saturating_duration_since(begin);
        let (first, last) = (heard.first()?, heard.last()?);
        let median = heard.get(heard.len() / 2)?;
        Some(Self([after(first), after(median), after(last)]))
    }
}

impl Namespace {
    /// Changes a component again and again; readings are the medians of all changes but the first.
    async fn changes(
        &mut self,
        api: &ApiServer,
        heard: &mut Heard,
        name: &str,
    ) -> Result<Vec<Reading>> {
        self.change(api, heard, name).await?;
        let reads = api.reads(&RESOURCES).await?;
        let mut spreads = Vec::new();
        for _ in 0..CHANGES {
            sleep(PAUSE).await;
            spreads.push(self.change(api, heard, name).await?);
        }
        let reads = api.reads(&RESOURCES).await? - reads;
        let mut readings = Vec::new();
        for (index, what) in ["first", "median", "last"].into_iter().enumerate() {
            let mut column: Vec<_> =
                spreads.iter().filter_map(|Spread(times)| times.get(index).copied()).collect();
            column.sort_unstable();
            let median = column.get(column.len() / 2).copied().context("no changes")?;
            let metric = format!("{name}: {what} of {} sidecars", self.streams);
            readings.push(Reading::new(metric, Unit::Milliseconds, milliseconds(median)));
        }
        let metric = format!("{name}: API reads, {CHANGES} changes");
        readings.push(Reading::new(metric, Unit::Count, reads));
        Ok(readings)
    }

    async fn change(&mut self, api: &ApiServer, heard: &mut Heard, name: &str) -> Result<Spread> {
        self.version += 1;
        let path = format!("/apis/dapr.io/v1alpha1/namespaces/{SPACE}/components/{name}");
        let labels = json!({"version": self.version.to_string()});
        let begin = monotonic();
        let request = api.merge(&path, json!({"metadata": {"labels": labels}}));
        let (patched, heard) = tokio::join!(request, heard.next(self.streams, begin + PATIENCE));
        patched?;
        Spread::of(begin, &heard?).context("there are no streams")
    }
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
