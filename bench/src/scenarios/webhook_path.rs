//! Scenario `webhook-path`: time that the webhook adds to the creation of a pod.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Deadline, Service};
use bytes::Bytes;
use hdrhistogram::Histogram;
use runtime::clock::monotonic;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::clients::https::{Connection, Server};
use crate::clients::load;
use crate::environment::programs::Programs;
use crate::environment::test_env::{NAMESPACE, TestEnv};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};

/// Label of the pods for which the webhook is called.
const CALLED: &str = "bench.trilby/call";
/// Pods that are created before the measurement, to open connections and fill caches.
const WARM_UP: u32 = 10;

/// Time limit for kube-apiserver to apply the registration.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Time that the webhook adds to the creation of a pod.
#[derive(Debug)]
pub struct WebhookPath;

struct Creates {
    env: TestEnv,
    programs: Programs,
    pods: u32,
    runtime: Runtime,
    round: u32,
}

impl Scenario for WebhookPath {
    fn description(&self) -> Description {
        Description {
            name: "webhook-path",
            about: "Annotated pods created one after the other at a real kube-apiserver, in turn \
                 one for which the webhook is called and one for which it is not; nothing runs \
                 them",
            services: &[Service::Injector, Service::Sentry],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let env = TestEnv::start(programs)?;
        // kube-apiserver dials the Service by its external name: this machine.
        env.api().apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: dapr-sidecar-injector, namespace: {NAMESPACE}}}\n\
             spec: {{type: ExternalName, externalName: localhost}}\n"
        ))?;
        let (programs, runtime) = (programs.clone(), load::runtime()?);
        let pods = size.pick(200, 40);
        Ok(Box::new(Creates { env, programs, pods, runtime, round: 0 }))
    }
}

impl Prepared for Creates {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let service = Service::Injector;
        let (injector, _) = self.env.service(&self.programs, side, service, &[])?.ready()?;
        self.round += 1;
        let namespace = format!("round-{}", self.round);
        self.env.api().kubectl(&["create", "namespace", &namespace])?;
        self.call(injector.port)?;
        let mut client = self.client(&namespace)?;
        self.runtime.block_on(client.wait_until_called())?;
        for _ in 0..WARM_UP {
            self.runtime.block_on(client.create(true))?;
            self.runtime.block_on(client.create(false))?;
        }
        let (mut with, mut without) = (histogram()?, histogram()?);
        for _ in 0..self.pods {
            with.saturating_record(self.runtime.block_on(client.create(true))?);
            without.saturating_record(self.runtime.block_on(client.create(false))?);
        }
        self.env.api().kubectl(&["delete", "namespace", &namespace, "--wait=false"])?;
        injector.stop()?;
        let mut readings = Vec::new();
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let [with, without] =
                [&with, &without].map(|h| milliseconds(h.value_at_quantile(share)));
            let reading = |what: &str, value| {
                Reading::new(format!("{what}: {name}"), Unit::Milliseconds, value)
            };
            readings.push(reading("create with webhook", with));
            readings.push(reading("create without", without));
            readings.push(reading("added", with - without));
        }
        Ok(readings)
    }
}

impl Creates {
    /// Sets the pods and the port of this machine in the registration.
    fn call(&self, port: u16) -> Result<()> {
        let pods = json!({
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"],
            "operations": ["CREATE"],
        });
        let patch = json!([
            {"op": "add", "path": "/webhooks/0/rules", "value": [pods]},
            {"op": "add", "path": "/webhooks/0/objectSelector",
                "value": {"matchLabels": {CALLED: "yes"}}},
            {"op": "add", "path": "/webhooks/0/clientConfig/service/port", "value": port},
            {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"},
        ]);
        let object = ["patch", "mutatingwebhookconfiguration", "dapr-sidecar-injector"];
        let how = ["--type=json", "-p", &patch.to_string()];
        self.env.api().kubectl(&[&object[..], &how].concat()).map(drop)
    }

    fn client(&self, namespace: &str) -> Result<Client> {
        let api = self.env.api();
        let address = api.server();
        let address = address.strip_prefix("https://").context("kube-apiserver without TLS")?;
        let server = Server::new(address, "127.0.0.1", &api.ca_pem()?)?;
        let kubeconfig: Value = serde_json::from_str(&fs::read_to_string(api.kubeconfig())?)?;
        let token = kubeconfig.pointer("/users/0/user/token").and_then(Value::as_str);
        Ok(Client {
            connection: self.runtime.block_on(server.connect())?,
            token: token.context("the kubeconfig has no token")?.to_owned(),
            namespace: namespace.to_owned(),
            next: 0,
        })
    }
}

/// One client of kube-apiserver, an administrator.
struct Client {
    connection: Connection,
    token: String,
    namespace: String,
    next: u32,
}

impl Client {
    /// Creates a pod; returns the time in microseconds.
    async fn create(&mut self, called: bool) -> Result<u64> {
        let begin = monotonic();
        let pod = self.post(called, "").await?;
        let took = u64::try_from(begin.elapsed().as_micros())?;
        ensure!(has_sidecar(&pod) == called, "with webhook: {called}, but: {pod}");
        Ok(took)
    }

    /// kube-apiserver applies a changed registration with a delay.
    async fn wait_until_called(&mut self) -> Result<()> {
        let deadline = Deadline::after(TIMEOUT);
        loop {
            match self.post(true, "?dryRun=All").await {
                Ok(pod) if has_sidecar(&pod) => return Ok(()),
                answer if deadline.passed() => {
                    return answer.map(drop).context("the webhook is not called");
                }
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    async fn post(&mut self, called: bool, query: &str) -> Result<Value> {
        self.next += 1;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("pod-{}", self.next),
                "labels": {CALLED: if called { "yes" } else { "no" }},
                "annotations": {
                    "dapr.io/enabled": "true", "dapr.io/app-id": "app", "dapr.io/app-port": "3000",
                },
            },
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        });
        let path = format!("/api/v1/namespaces/{}/pods{query}", self.namespace);
        let body = Bytes::from(pod.to_string());
        let (status, answer) = self.connection.send("POST", &path, Some(&self.token), body).await?;
        let answer: Value = serde_json::from_slice(&answer)?;
        ensure!(status == 201, "create a pod: HTTP {status}: {answer}");
        Ok(answer)
    }
}

fn has_sidecar(pod: &Value) -> bool {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    containers.into_iter().flatten().any(|c| c.get("name") == Some(&json!("daprd")))
}

fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 60_000_000, 3)?)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a minute")]
fn milliseconds(micros: u64) -> f64 {
    micros as f64 / 1e3
}
