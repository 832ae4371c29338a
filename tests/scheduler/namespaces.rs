//! Kubernetes mode: the jobs and reminders of a Namespace go with it.

use anyhow::{Context as _, Result, ensure};
use blackbox::injector_fixture::{InjectorFixture, NAMESPACE, Rights};
use blackbox::{Process, Scratch, build_binary, environment, soon, until};
use serde_json::json;

use crate::etcd::client_port::etcdctl;

const DENIED: &str = "may not watch Namespaces";

/// Gives the scheduler's account what the chart grants with these values.
fn grant(fixture: &InjectorFixture, values: &[&str]) -> Result<()> {
    let chart = environment::workspace().join("charts/dapr");
    let chart = chart.to_string_lossy();
    let mut args = vec!["template", "dapr", &chart, "--namespace", NAMESPACE];
    args.extend(["--set", "global.controlPlane.registry=registry.example/trilby"]);
    args.extend(["--show-only", "templates/scheduler/rbac.yaml"]);
    args.extend(values.iter().flat_map(|value| ["--set", value]));
    fixture.api.apply(&fixture.api.cluster().helm(&args)?)?;
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "scheduler", "namespace": NAMESPACE,
            "annotations": {"dapr.io/control-plane": "scheduler"}},
        "spec": {"serviceAccountName": "dapr-scheduler",
            "containers": [{"name": "scheduler", "image": "scheduler"}]},
    });
    fixture.api.apply(&pod.to_string()).map(drop)
}

/// A ready scheduler with that account, and its etcd port.
fn start(fixture: &InjectorFixture, data: &Scratch) -> Result<(Process, u16)> {
    let port = || environment::free_port();
    let [api, health, metrics, client] = [port()?, port()?, port()?, port()?];
    let mut process = fixture
        .spawn_as("dapr-scheduler", "scheduler", build_binary("scheduler")?)?
        .args(["--tls-enabled", "--mode=kubernetes", "--trust-domain=cluster.local"])
        .arg(format!("--sentry-address=127.0.0.1:{}", fixture.sentry_port()))
        .arg(format!("--port={api}"))
        .arg(format!("--healthz-port={health}"))
        .arg(format!("--metrics-port={metrics}"))
        .arg(format!("--etcd-client-port={client}"))
        .arg(format!("--etcd-data-dir={}", data.path().display()))
        .args(["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1"])
        .start()?;
    process.wait_for_http(health, "/healthz", soon()).with_context(|| process.log())?;
    Ok((process, client))
}

/// A job and a reminder of a Namespace. Their records are not looked at.
fn keys(namespace: &str) -> [String; 2] {
    [format!("app||{namespace}||shop||job"), format!("actorreminder||{namespace}||cat||tom||feed")]
        .map(|name| format!("dapr/jobs/{name}"))
}

fn is_stored(client: u16, key: &str) -> bool {
    etcdctl(client, &["get", key]).contains(r#""count":1"#)
}

#[test]
fn jobs_of_a_deleted_namespace_are_deleted_where_the_scheduler_may_know() -> Result<()> {
    let fixture = InjectorFixture::start(Rights::Ours)?;
    let data = Scratch::new("scheduler")?;
    let neighbours = ["gon", "gone-not"];
    for namespace in [&neighbours[..], &["gone"]].concat() {
        fixture.api.kubectl(&["create", "namespace", namespace])?;
    }

    grant(&fixture, &["global.rbac.namespaced=true"])?;
    let (mut denied, _) = start(&fixture, &data)?;
    denied.wait_for_log(DENIED, soon())?;
    fixture.api.kubectl(&["create", "namespace", "another"])?;
    denied.terminate(soon())?;
    ensure!(denied.log().matches(DENIED).count() == 1, "{}", denied.log());

    grant(&fixture, &[])?;
    let (allowed, client) = start(&fixture, &data)?;
    for namespace in [&neighbours[..], &["gone", "outside"]].concat() {
        for key in keys(namespace) {
            etcdctl(client, &["put", &key, "a job"]);
        }
    }
    fixture.api.kubectl(&["delete", "namespace", "gone"])?;
    until(soon(), "the jobs of the Namespace to be deleted", || {
        Ok(keys("gone").iter().all(|key| !is_stored(client, key)).then_some(()))
    })
    .with_context(|| allowed.log())?;
    // A sidecar may be outside of the cluster.
    for namespace in [&neighbours[..], &["outside"]].concat() {
        for key in keys(namespace) {
            ensure!(is_stored(client, &key), "{key}");
        }
    }
    Ok(())
}
