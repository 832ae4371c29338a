//! The check before an upgrade, with the rights that the chart gives it, against a real API server.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use blackbox::accounts::kubeconfig;
use blackbox::{
    ApiCluster, ApiClusterOptions, Process, Scratch, Spawn, build_binary, environment,
    operator_command, soon,
};
use rstest::rstest;
use serde_json::{Value, json};

use super::WORKLOAD;
use crate::helm::{NAMESPACE, Objects};

const CHECK: &str = "dapr-scheduler-check";

/// A cluster with the account of the check.
struct Fixture {
    cluster: ApiCluster,
    account: PathBuf,
    _scratch: Scratch,
}

impl Fixture {
    fn new() -> Result<Self> {
        let options = ApiClusterOptions { controllers: false, ..ApiClusterOptions::default() };
        let cluster = ApiCluster::start_with(options)?;
        cluster.kubectl(&["create", "namespace", NAMESPACE])?;
        let ours = Objects::render(&[])?;
        for kind in ["ServiceAccount", "Role", "RoleBinding"] {
            cluster.cluster().apply(&ours.get(&format!("{kind}/{CHECK}"))?.to_string())?;
        }
        let scratch = Scratch::new("check")?;
        let account = kubeconfig(&cluster, &scratch, "check.kubeconfig", CHECK)?;
        Ok(Self { cluster, account, _scratch: scratch })
    }

    /// Installs the scheduler of these values, as Helm marks it.
    fn install(&self, values: &[&str], annotations: &Value) -> Result<()> {
        let mut scheduler = Objects::render(values)?.get(WORKLOAD)?.clone();
        let metadata = scheduler.get_mut("metadata").and_then(Value::as_object_mut);
        metadata.context("no metadata")?.insert("annotations".to_owned(), annotations.clone());
        self.cluster.cluster().apply(&scheduler.to_string()).map(drop)
    }

    /// Runs the check of a release with these values; the log, and whether the upgrade goes on.
    fn check(&self, values: &[&str]) -> Result<(String, bool)> {
        let mut args = Objects::render(values)?.args(&format!("Job/{CHECK}"))?;
        args.push("--scheduler-host=127.0.0.1".to_owned());
        operator_command(&self.account, NAMESPACE, &args)
    }

    fn goes_on(&self, values: &[&str]) -> Result<String> {
        let (log, goes_on) = self.check(values)?;
        ensure!(goes_on, "{values:?}: {log}");
        Ok(log)
    }

    fn is_refused(&self, values: &[&str], says: &str) -> Result<()> {
        let (log, goes_on) = self.check(values)?;
        ensure!(!goes_on && log.contains(says), "{values:?}: {log}");
        Ok(())
    }
}

#[test]
fn jobs_stay_with_the_scheduler_that_has_them() -> Result<()> {
    let fixture = Fixture::new()?;
    for values in [&[][..], &["global.scheduler.external=true"]] {
        fixture.goes_on(values)?;
    }
    let release = json!({"meta.helm.sh/release-name": "dapr"});
    fixture.install(&["global.ha.enabled=true"], &release)?;
    fixture.goes_on(&["global.ha.enabled=true"])?;
    fixture.is_refused(&[], "Set dapr_scheduler.replicaCount=3")?;
    fixture.is_refused(
        &["dapr_scheduler.etcdEmbed=false", "dapr_scheduler.etcdClientEndpoints={e:2379}"],
        "dapr_scheduler.etcdEmbed=true and dapr_scheduler.etcdClientEndpoints=null",
    )?;
    fixture.is_refused(
        &["global.ha.enabled=true", "dapr_scheduler.cluster.inMemoryStorage=true"],
        "dapr_scheduler.cluster.inMemoryStorage=false",
    )?;
    let log = fixture.goes_on(&["global.scheduler.enabled=false"])?;
    ensure!(log.contains("nothing fires"), "no scheduler: {log}");
    let external = ["global.scheduler.external=true"];
    fixture.is_refused(&external, "helm.sh/resource-policy=keep")?;
    fixture.cluster.kubectl(&[
        "-n",
        NAMESPACE,
        "annotate",
        "statefulset/dapr-scheduler-server",
        "helm.sh/resource-policy=keep",
    ])?;
    fixture.goes_on(&external).map(drop)
}

/// The values that the check names are accepted, also over those that it refuses.
#[test]
fn the_values_that_keep_jobs_on_volumes_are_rendered() -> Result<()> {
    let external = ["dapr_scheduler.etcdEmbed=false", "dapr_scheduler.etcdClientEndpoints={e:1}"];
    let kept = ["dapr_scheduler.etcdEmbed=true", "dapr_scheduler.etcdClientEndpoints=null"];
    let objects = Objects::render(&[&external[..], &kept].concat())?;
    let args = objects.args(&format!("Job/{CHECK}"))?;
    assert_eq!(args, ["check-scheduler", "--replicas=1", "--store-engine=auto"]);
    Ok(())
}

#[test]
fn one_scheduler_is_asked_for_its_engine() -> Result<()> {
    let fixture = Fixture::new()?;
    let port = environment::free_port()?;
    let metrics = format!("global.prometheus.port={port}");
    fixture.install(&[&metrics], &json!({}))?;
    let embedded = ["dapr_scheduler.storeEngine=embedded"];
    let log = fixture.goes_on(&embedded)?;
    ensure!(log.contains("if the volume has jobs of an etcd"), "no answer: {log}");

    let scratch = Scratch::new("scheduler")?;
    let _scheduler = start_scheduler(&scratch, port)?;
    let log = fixture.goes_on(&embedded)?;
    ensure!(!log.contains("if the volume has jobs of an etcd"), "{log}");
    fixture.is_refused(&["dapr_scheduler.storeEngine=etcd"], "dapr_scheduler.storeEngine=auto")
}

fn start_scheduler(scratch: &Scratch, metrics: u16) -> Result<Process> {
    let [port, health, client] =
        [environment::free_port()?, environment::free_port()?, environment::free_port()?];
    let mut scheduler = Spawn::new("scheduler", build_binary("scheduler")?, scratch.path())
        .args([
            format!("--port={port}"),
            format!("--healthz-port={health}"),
            format!("--metrics-port={metrics}"),
            format!("--etcd-client-port={client}"),
            format!("--etcd-data-dir={}", scratch.path().join("data").display()),
        ])
        .args(["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1"])
        .env_remove("NAMESPACE")
        .start()?;
    scheduler.wait_for_http(health, "/healthz", soon())?;
    Ok(scheduler)
}

#[rstest]
#[case::none("global.scheduler.enabled=false", &["check-scheduler"])]
#[case::kept("global.scheduler.external=true", &["check-scheduler", "--kept-by=dapr"])]
fn a_release_without_scheduler_is_checked_too(
    #[case] value: &str,
    #[case] want: &[&str],
) -> Result<()> {
    assert_eq!(Objects::render(&[value])?.args(&format!("Job/{CHECK}"))?, want);
    Ok(())
}

#[test]
fn the_check_can_be_disabled() -> Result<()> {
    let objects = Objects::render(&["dapr_scheduler.upgradeCheck.enabled=false"])?;
    assert!(!objects.0.keys().any(|key| key.ends_with(CHECK)));
    Ok(())
}
