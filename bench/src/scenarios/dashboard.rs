//! Scenario `dashboard`: memory of the dashboard of a large cluster, and how long its pages take.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::{KINDS, Service, build_dashboard_alone};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::clients::cluster::ApiServer;
use crate::clients::load::{self, Caller};
use crate::clients::sidecars::app_id;
use crate::environment::programs::Programs;
use crate::environment::test_env::{Running, Start, TestEnv};
use crate::environment::usage::{Peak, megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::scenarios::operator_memory::{component_of, settings, variables};

/// Namespace of all objects.
const SPACE: &str = "bench";
/// Concurrent changes while pods get their status.
const PARALLEL: usize = 48;
/// Pages for this long are not measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// The measured pages and their names in readings. They need no answer of a sidecar.
const PAGES: [(&str, &str); 3] =
    [("/", "first page"), ("/apps", "applications"), ("/components", "components")];
/// What the dashboard watches beside the kinds of `dapr.io`, in the API server's metrics; and Secrets,
/// which it never reads.
const WATCHED: [&str; 3] = ["pods", "events", "secrets"];

/// Memory and pages of the dashboard.
#[derive(Debug)]
pub struct Dashboard;

struct Cluster {
    env: TestEnv,
    program: PathBuf,
    api: ApiServer,
    settle: Duration,
    measured: Duration,
    runtime: Runtime,
}

impl Scenario for Dashboard {
    fn description(&self) -> Description {
        Description {
            name: "dashboard",
            about: "2,000 applications of one sidecar each and 200 Components in a real API \
                 server: memory of the dashboard 8 s after its first list and at most while its \
                 pages are read, by one reader as fast as they are answered; requests to the API \
                 server meanwhile",
            services: &[Service::Sentry],
            // The reference has none that is maintained, an older commit's program is not built.
            sides: &[Side::Trilby],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let program = build_dashboard_alone(programs.profile())?;
        let env = TestEnv::start(programs)?;
        env.api().kubectl(&["create", "namespace", SPACE])?;
        let runtime = load::runtime()?;
        let kubeconfig = env.api().kubeconfig().to_path_buf();
        let api = runtime.block_on(async {
            let api = ApiServer::connect(&kubeconfig).await?;
            fill(&api, size.pick(2_000, 200), size.pick(200, 20)).await?;
            anyhow::Ok(api)
        })?;
        let settle = size.pick(Duration::from_secs(8), Duration::from_secs(3));
        let measured = size.pick(Duration::from_secs(10), Duration::from_secs(2));
        Ok(Box::new(Cluster { env, program, api, settle, measured, runtime }))
    }
}

async fn fill(api: &ApiServer, apps: usize, components: usize) -> Result<()> {
    let core = format!("/api/v1/namespaces/{SPACE}");
    let dapr = format!("/apis/dapr.io/v1alpha1/namespaces/{SPACE}");
    let all = (0..components).map(|index| component_of(index, &settings(index, 8)));
    api.create(&format!("{dapr}/components"), all).await?;
    api.create(&format!("{core}/pods"), (0..apps).map(pod)).await?;
    // Only the subresource takes what a kubelet says.
    stream::iter(0..apps)
        .map(async |index| {
            let path = format!("{core}/pods/{}/status", app_id(index));
            api.merge(&path, json!({"status": status(index)})).await
        })
        .buffer_unordered(PARALLEL)
        .try_collect::<()>()
        .await
}

/// A pod of ordinary size with its sidecar, as the injector leaves it.
fn pod(index: usize) -> Value {
    let app = app_id(index);
    let arguments = format!(
        "--app-id {app} --app-port 8080 --mode kubernetes --dapr-http-port 3500 \
         --dapr-grpc-port 50001 --dapr-public-port 3501 --metrics-port 9090 --enable-mtls"
    );
    let arguments: Vec<_> = arguments.split(' ').collect();
    json!({"kind": "Pod", "apiVersion": "v1",
        "metadata": {"name": app, "labels": {"app": app}, "annotations": {
            "dapr.io/enabled": "true", "dapr.io/app-id": app, "dapr.io/app-port": "8080",
            "dapr.io/config": "appconfig", "dapr.io/log-level": "info"}},
        "spec": {"automountServiceAccountToken": false, "containers": [
            {"name": "app", "image": "localhost/app:1", "env": variables()},
            {"name": "daprd", "image": "localhost/daprd:1.18.3", "args": arguments,
                "env": variables()}]}})
}

/// What a kubelet says about it.
fn status(index: usize) -> Value {
    let address = format!("10.64.{}.{}", index / 250, index % 250 + 1);
    let running = |name: &str| {
        json!({"name": name, "image": name, "imageID": name, "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-11-01T10:00:00Z"}}})
    };
    json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "containerStatuses": [running("app"), running("daprd")]})
}

impl Prepared for Cluster {
    fn round(&mut self, _: Side) -> Result<Vec<Reading>> {
        let kubeconfig = self.env.api().kubeconfig();
        let start = Start::dashboard(&self.program, kubeconfig, self.env.folder())?;
        let (dashboard, took) = start.ready()?;
        let mut readings =
            vec![Reading::new("start to ready", Unit::Milliseconds, milliseconds(took))];
        thread::sleep(self.settle);
        let rss = |what: &str, bytes| {
            Reading::new(format!("{what}: RSS"), Unit::Megabytes, megabytes(bytes))
        };
        readings.push(rss("after the first list", dashboard.memory()?.rss));
        let peak = Peak::watch(dashboard.pid());
        readings.extend(self.runtime.block_on(self.read(&dashboard))?);
        readings.push(rss("at most while pages are read", peak.finish().rss));
        dashboard.stop()?;
        Ok(readings)
    }
}

impl Cluster {
    /// Reads each page again and again.
    async fn read(&self, dashboard: &Running) -> Result<Vec<Reading>> {
        let watched: Vec<_> = WATCHED.into_iter().chain(KINDS).collect();
        let calls = async || self.api.requests(&["GET", "LIST"], &watched).await;
        let (before, mut views, mut readings) = (calls().await?, 0.0, Vec::new());
        for (path, what) in PAGES {
            let reader = Reader::connect(&dashboard.address(), path).await?;
            let cpu = dashboard.cpu()?;
            let outcome = load::closed(vec![reader], WARM_UP, self.measured).await?;
            let used = milliseconds(dashboard.cpu()?.saturating_sub(cpu));
            ensure!(outcome.answered() > 0, "{path}: {:?}", outcome.errors());
            readings.extend(outcome.readings(what));
            // The views of the warm-up have a part in both.
            let measured = outcome.elapsed().as_secs_f64();
            let all = outcome.per_second() * (measured + WARM_UP.as_secs_f64());
            let metric = format!("{what}: CPU per view");
            readings.push(Reading::new(metric, Unit::CpuMilliseconds, used / all));
            views += all;
        }
        let each = (calls().await? - before) / views;
        readings.push(Reading::new("API calls per page view", Unit::Count, each));
        Ok(readings)
    }
}

/// A browser that asks for one page over one connection.
struct Reader {
    sender: SendRequest<Empty<Bytes>>,
    path: &'static str,
    driver: JoinHandle<()>,
}

impl Reader {
    async fn connect(address: &str, path: &'static str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect to the dashboard")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = async move { drop(connection.await) };
        #[expect(clippy::disallowed_methods, reason = "a client of the benchmark has no scope")]
        let driver = tokio::spawn(driver);
        Ok(Self { sender, path, driver })
    }

    async fn page(&mut self) -> Result<()> {
        let request = Request::get(self.path)
            .header(header::HOST, "localhost")
            .header(header::ACCEPT, "text/html")
            .body(Empty::new())?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status();
        let page = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success() && page.ends_with(b"</html>\n"), "{status}");
        Ok(())
    }
}

impl Caller for Reader {
    async fn call(&mut self) -> Result<(), String> {
        self.page().await.map_err(|error| error.to_string())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_application_has_an_address_of_its_own() {
        let all: BTreeSet<_> = (0..2_000).map(|index| status(index)["podIP"].to_string()).collect();
        assert_eq!(all.len(), 2_000);
        assert!(all.iter().all(|ip| ip.trim_matches('"').parse::<std::net::IpAddr>().is_ok()));
    }
}
