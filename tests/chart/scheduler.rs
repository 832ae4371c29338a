//! What the chart renders for the scheduler, and what it refuses.

use anyhow::Result;
use rstest::rstest;
use serde_json::json;

use crate::helm::{Objects, REGISTRY, template};

const WORKLOAD: &str = "StatefulSet/dapr-scheduler-server";
const INJECTOR: &str = "Deployment/dapr-sidecar-injector";

/// Fields that Kubernetes does not allow to change: an upgrade from Dapr's chart, or back, must find
/// them as they are.
#[test]
fn immutable_fields_are_those_of_daprs_chart() -> Result<()> {
    let spec = Objects::render(&[])?.get(WORKLOAD)?["spec"].clone();
    assert_eq!(spec["serviceName"], "dapr-scheduler-server");
    assert_eq!(spec["podManagementPolicy"], "Parallel");
    assert_eq!(spec["selector"], json!({"matchLabels": {"app": "dapr-scheduler-server"}}));
    let claims = json!([{
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "dapr-scheduler-data-dir"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "16Gi"}}},
    }]);
    assert_eq!(spec["volumeClaimTemplates"], claims);
    Ok(())
}

#[rstest]
#[case::default(&[])]
#[case::ha(&["global.ha.enabled=true"])]
#[case::production(&["profile=production"])]
#[case::asked_for(&["dapr_scheduler.replicaCount=1"])]
fn jobs_are_stored_by_one_pod(#[case] sets: &[&str]) -> Result<()> {
    let objects = Objects::render(sets)?;
    assert_eq!(objects.get(WORKLOAD)?["spec"]["replicas"], 1);
    let args = objects.args(WORKLOAD)?;
    let member = "dapr-scheduler-server-0=https://dapr-scheduler-server-0.dapr-scheduler-server.dapr-system.svc.cluster.local:2380";
    assert!(args.windows(2).any(|pair| pair == ["--etcd-initial-cluster", member]), "{args:?}");
    assert_eq!(objects.env(INJECTOR, "SCHEDULER_REPLICAS")?.as_deref(), Some("1"));
    // A budget that keeps one available would hold up the drain of its node.
    let budget = objects.get("PodDisruptionBudget/dapr-scheduler-server-disruption-budget")?;
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    Ok(())
}

#[test]
fn a_budget_of_the_user_does_not_hold_up_the_drain_of_its_node() -> Result<()> {
    let sets =
        ["global.ha.disruption.minimumAvailable=2", "global.ha.disruption.maximumUnavailable="];
    let objects = Objects::render(&sets)?;
    let budget = objects.get("PodDisruptionBudget/dapr-scheduler-server-disruption-budget")?;
    assert_eq!(budget["spec"].get("minAvailable"), None);
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    Ok(())
}

#[rstest]
#[case::on(&[], true)]
#[case::off(&["global.scheduler.enabled=false"], false)]
#[case::kept(&["global.scheduler.enabled=false", "global.scheduler.external=true"], true)]
#[case::kept_wins(&["global.scheduler.external=true"], true)]
fn sidecars_get_the_address_of_a_scheduler_that_runs(
    #[case] sets: &[&str],
    #[case] address: bool,
) -> Result<()> {
    let objects = Objects::render(sets)?;
    let flag = format!("--scheduler-enabled={address}");
    assert!(objects.args(INJECTOR)?.contains(&flag), "{flag}");
    let ours: Vec<_> = objects.0.keys().filter(|key| key.contains("scheduler")).collect();
    assert_eq!(ours.is_empty(), !sets.is_empty(), "{ours:?}");
    Ok(())
}

#[rstest]
#[case::two(&["dapr_scheduler.replicaCount=2"], "dapr_scheduler.replicaCount=2: the scheduler of this release stores jobs in one pod")]
#[case::three(&["dapr_scheduler.replicaCount=3"], "global.scheduler.external=true and see docs/upgrade.md")]
#[case::four(&["dapr_scheduler.replicaCount=4"], "set it to 1")]
#[case::none(&["dapr_scheduler.replicaCount=0"], "'/dapr_scheduler/replicaCount'")]
#[case::external(&["dapr_scheduler.etcdEmbed=false"], "cannot use an external etcd")]
#[case::endpoints(&["dapr_scheduler.etcdClientEndpoints={a:2379}"], "dapr_scheduler.etcdClientEndpoints is for")]
#[case::password(&["dapr_scheduler.etcdClientPassword=x"], "dapr_scheduler.etcdClientPassword is for")]
#[case::engine(&["dapr_scheduler.storeEngine=etcd"], "has no etcd; set it to auto or embedded")]
#[case::unknown_engine(&["dapr_scheduler.storeEngine=redis"], "'/dapr_scheduler/storeEngine'")]
#[case::relative_path(&["dapr_scheduler.cluster.etcdDataDirPath=data"], "must be an absolute path")]
#[case::interval(&["dapr_scheduler.etcdBackendBatchInterval=100"], "dapr_scheduler.etcdBackendBatchInterval")]
fn refuses_what_the_scheduler_of_this_release_cannot_do(
    #[case] sets: &[&str],
    #[case] sentence: &str,
) -> Result<()> {
    let Err(error) = template(&[&[REGISTRY], sets].concat()) else {
        anyhow::bail!("{sets:?} was rendered")
    };
    assert!(error.to_string().contains(sentence), "{error}");
    Ok(())
}

#[test]
fn settings_of_a_kept_scheduler_are_not_judged() -> Result<()> {
    let kept = ["global.scheduler.external=true", "dapr_scheduler.etcdEmbed=false"];
    Objects::render(&[&kept[..], &["dapr_scheduler.etcdClientEndpoints={a:2379}"]].concat())
        .map(drop)
}

#[test]
fn settings_become_arguments() -> Result<()> {
    let objects = Objects::render(&[
        "dapr_scheduler.cluster.etcdDataDirPath=/jobs/",
        "dapr_scheduler.storeEngine=embedded",
        "dapr_scheduler.etcdSpaceQuota=2147483648",
        "dapr_scheduler.workers=4096",
        "dapr_scheduler.overrideBroadcastHostPort=scheduler.example:50006",
        "dapr_scheduler.ports.etcdGRPCClientPort=3379",
        "global.dnsSuffix=.corp.example",
    ])?;
    let args = objects.args(WORKLOAD)?;
    for want in [
        "--etcd-data-dir=/jobs/dapr-system/$(SCHEDULER_ID)",
        "--store-engine=embedded",
        "--etcd-space-quota=2147483648",
        "--workers=4096",
        "--override-broadcast-host-port=scheduler.example:50006",
        "3379",
        "dapr-scheduler-server-0=https://dapr-scheduler-server-0.dapr-scheduler-server.dapr-system.svc.corp.example:2380",
    ] {
        assert!(args.iter().any(|arg| arg == want), "{want} is not in {args:?}");
    }
    let mounts = objects.container(WORKLOAD)?["volumeMounts"].to_string();
    assert!(mounts.contains(r#""mountPath":"/jobs/""#), "{mounts}");
    let absent = Objects::render(&[])?.args(WORKLOAD)?.join(" ");
    for flag in ["--store-engine", "--override-broadcast-host-port", "--etcd-client-endpoints"] {
        assert!(!absent.contains(flag), "{flag} is in {absent}");
    }
    Ok(())
}
