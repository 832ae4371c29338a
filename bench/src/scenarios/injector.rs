//! Scenario `injector`: admission reviews of different pods over TLS.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use blackbox::Service;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::clients::https::{Connection, Server};
use crate::clients::load::{self, Caller};
use crate::environment::programs::Programs;
use crate::environment::test_env::{NAMESPACE, TestEnv};
use crate::environment::usage::{Peak, megabytes, milliseconds};
use crate::scenario::{Description, Prepared, Reading, Scenario, Side, Size, Unit};
use crate::target::Target;

/// Numbers of concurrent callers.
const CONCURRENCY: [usize; 3] = [1, 8, 64];
/// Reviews for this long are not measured.
const WARM_UP: Duration = Duration::from_secs(2);
/// Rate at which the latency is reported: that of a cluster that starts many pods.
const PER_SECOND: f64 = 500.0;
/// The creator of most pods.
const CREATOR: &str = "system:serviceaccount:kube-system:replicaset-controller";

/// Latency and cost of admission reviews.
#[derive(Debug)]
pub struct Injector;

struct Reviews {
    env: TestEnv,
    programs: Programs,
    measured: Duration,
    runtime: Runtime,
}

impl Scenario for Injector {
    fn description(&self) -> Description {
        Description {
            name: "injector",
            about: "AdmissionReviews over TLS of five pods in turn: plain, annotated, with three \
                 containers, with volumes, with pluggable components; 1, 8 and 64 callers as fast \
                 as they are answered, after 2 s that do not count, and 500 reviews/s whatever the \
                 answers do",
            services: &[Service::Injector, Service::Sentry],
            ..Description::COMPARED
        }
    }

    fn prepare(&self, programs: &Programs, size: Size) -> Result<Box<dyn Prepared>> {
        let env = TestEnv::start(programs)?;
        let container =
            json!({"image": "store:1", "volumeMounts": [{"name": "d", "mountPath": "/d"}]});
        let component = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"name": "store", "namespace": "default", "annotations": {
                "dapr.io/component-container": container.to_string(),
            }},
            "spec": {"type": "state.store", "version": "v1", "metadata": []},
        });
        env.api().apply(&component.to_string())?;
        let measured = measured(size);
        let (programs, runtime) = (programs.clone(), load::runtime()?);
        Ok(Box::new(Reviews { env, programs, measured, runtime }))
    }

    fn load(&self, target: &Target) -> Result<Vec<Reading>> {
        let name = format!("dapr-sidecar-injector.{}.svc", target.namespace);
        let server = Server::new(&target.address, &name, &target.anchors()?)?;
        let measured = measured(target.size());
        let runtime = load::runtime()?;
        let mut readings = Vec::new();
        for callers in CONCURRENCY {
            let outcome = runtime.block_on(closed(&server, callers, measured))?;
            readings.extend(outcome.readings(&format!("{callers} at once")));
        }
        Ok(readings)
    }
}

impl Prepared for Reviews {
    fn round(&mut self, side: Side) -> Result<Vec<Reading>> {
        let service = Service::Injector;
        let (injector, _) = self.env.service(&self.programs, side, service, &[])?.ready()?;
        let name = format!("dapr-sidecar-injector.{NAMESPACE}.svc");
        let anchors = fs::read_to_string(self.env.anchors())?;
        let server = Server::new(&injector.address(), &name, &anchors)?;
        self.runtime.block_on(closed(&server, 8, WARM_UP))?;
        let peak = Peak::watch(injector.pid());
        let mut readings = Vec::new();
        for callers in CONCURRENCY {
            let what = format!("{callers} at once");
            let before = injector.cpu()?;
            let outcome = self.runtime.block_on(closed(&server, callers, self.measured))?;
            let used = milliseconds(injector.cpu()?.saturating_sub(before));
            readings.extend(outcome.readings(&what));
            let each = used / count(outcome.answered());
            let metric = format!("{what}: CPU per review");
            readings.push(Reading::new(metric, Unit::CpuMilliseconds, each));
        }
        let callers = self.runtime.block_on(callers(&server, 64))?;
        let outcome = self.runtime.block_on(load::open(callers, PER_SECOND, self.measured))?;
        let what = format!("{PER_SECOND} reviews/s");
        readings.extend(outcome.readings(&what).into_iter().skip(1)); // its rate is given
        let memory = peak.finish();
        readings.push(Reading::new("peak RSS", Unit::Megabytes, megabytes(memory.rss)));
        injector.stop()?;
        Ok(readings)
    }
}

/// Duration of each load.
fn measured(size: Size) -> Duration {
    size.pick(Duration::from_secs(10), Duration::from_secs(2))
}

async fn closed(
    server: &Server,
    callers_count: usize,
    measured: Duration,
) -> Result<load::Outcome> {
    let callers = callers(server, callers_count).await?;
    load::closed(callers, Duration::ZERO, measured).await
}

pub(super) async fn callers(server: &Server, count: usize) -> Result<Vec<Reviewer>> {
    let reviews: Arc<[Review]> = reviews().into();
    let mut callers = Vec::new();
    for first in 0..count {
        let connection = server.connect().await?;
        callers.push(Reviewer { connection, reviews: Arc::clone(&reviews), next: first });
    }
    Ok(callers)
}

/// A review and whether it is answered with a patch.
struct Review {
    body: Bytes,
    patched: bool,
}

pub(super) struct Reviewer {
    connection: Connection,
    reviews: Arc<[Review]>,
    next: usize,
}

impl Caller for Reviewer {
    async fn call(&mut self) -> Result<(), String> {
        let review = self.reviews.get(self.next % self.reviews.len());
        let review = review.ok_or("there are no reviews")?;
        self.next += 1;
        let sent = self.connection.send("POST", "/mutate?timeout=10s", None, review.body.clone());
        let (status, answer) = sent.await.map_err(|error| error.to_string())?;
        let says = |text: &[u8]| answer.windows(text.len()).any(|part| part == text);
        if status != 200 || !says(br#""allowed":true"#) || says(br#""patch":"#) != review.patched {
            return Err("unexpected answer".to_owned());
        }
        Ok(())
    }
}

fn reviews() -> Vec<Review> {
    let pods = [plain(), annotated(), three_containers(), volumes(), components()];
    let review = |(pod, patched): (Value, bool)| {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": "default", "operation": "CREATE", "dryRun": false,
                "userInfo": {"username": CREATOR, "uid": "u", "groups": ["system:serviceaccounts"]},
                "object": pod, "oldObject": null,
            },
        });
        Review { body: review.to_string().into(), patched }
    };
    pods.into_iter().map(review).collect()
}

/// A pod as a `ReplicaSet` makes it, with what the API server has filled in by then.
fn pod(annotations: &Value, containers: &[&str]) -> Value {
    let token = json!({"name": "kube-api-access-x", "projected": {"sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]}});
    let mount = json!({"name": "kube-api-access-x", "readOnly": true,
        "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    let container = |name: &&str| {
        json!({
            "name": name, "image": format!("registry.example/{name}:1"),
            "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "PORT", "value": "3000"}, {"name": "MODE", "value": "production"}],
            "ports": [{"containerPort": 3000, "protocol": "TCP"}],
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "volumeMounts": [mount],
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": "app-5d4f8c7b9-", "namespace": "default", "annotations": annotations,
            "labels": {"app": "app", "pod-template-hash": "5d4f8c7b9"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": "app-5d4f8c7b9", "uid": "u", "controller": true, "blockOwnerDeletion": true}],
        },
        "spec": {
            "containers": containers.iter().map(container).collect::<Vec<_>>(),
            "volumes": [token], "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst", "serviceAccountName": "default", "securityContext": {},
            "schedulerName": "default-scheduler", "enableServiceLinks": true,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {},
    })
}

fn plain() -> (Value, bool) {
    (pod(&json!({"prometheus.io/scrape": "true"}), &["app"]), false)
}

fn annotated() -> (Value, bool) {
    let annotations = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": "app", "dapr.io/app-port": "3000",
        "dapr.io/enable-api-logging": "true", "dapr.io/config": "tracing",
    });
    (pod(&annotations, &["app"]), true)
}

fn three_containers() -> (Value, bool) {
    let annotations = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": "app", "dapr.io/app-port": "3000",
        "dapr.io/sidecar-cpu-request": "100m", "dapr.io/sidecar-memory-limit": "256Mi",
        "dapr.io/env": "A=1, B=2",
    });
    (pod(&annotations, &["app", "proxy", "logs"]), true)
}

fn volumes() -> (Value, bool) {
    let annotations = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": "app",
        "dapr.io/volume-mounts": "data:/d", "dapr.io/volume-mounts-rw": "cache:/c",
        "dapr.io/unix-domain-socket-path": "/sockets",
    });
    let mut pod = pod(&annotations, &["app"]);
    let more = [json!({"name": "data", "emptyDir": {}}), json!({"name": "cache", "emptyDir": {}})];
    if let Some(volumes) = pod.pointer_mut("/spec/volumes").and_then(Value::as_array_mut) {
        volumes.extend(more);
    }
    (pod, true)
}

fn components() -> (Value, bool) {
    let annotations = json!({
        "dapr.io/enabled": "true", "dapr.io/app-id": "app",
        "dapr.io/inject-pluggable-components": "true", "dapr.io/pluggable-components": "side",
    });
    (pod(&annotations, &["app", "side"]), true)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn count(number: u64) -> f64 {
    number.max(1) as f64
}
