//! The rendering of the scheduler, and the values that are refused.

mod upgrade;

use anyhow::Result;
use rstest::rstest;
use serde_json::json;

use crate::helm::{Objects, REGISTRY, template};
use crate::values::foreign_values::notes;

const WORKLOAD: &str = "StatefulSet/dapr-scheduler-server";
const INJECTOR: &str = "Deployment/dapr-sidecar-injector";

/// Fields that Kubernetes does not allow to change: an upgrade from Dapr's chart, or back, must
/// leave them as they are.
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
#[case::ha(&["global.ha.enabled=true", "dapr_scheduler.replicaCount=1"])]
#[case::embedded(&["profile=production", "dapr_scheduler.storeEngine=embedded"])]
#[case::etcd(&["dapr_scheduler.storeEngine=etcd"])]
fn jobs_are_stored_by_one_pod(#[case] sets: &[&str]) -> Result<()> {
    let objects = Objects::render(sets)?;
    assert_eq!(objects.get(WORKLOAD)?["spec"]["replicas"], 1);
    let args = objects.args(WORKLOAD)?;
    let member = "dapr-scheduler-server-0=https://dapr-scheduler-server-0.dapr-scheduler-server.dapr-system.svc.cluster.local:2380";
    assert!(args.windows(2).any(|pair| pair == ["--etcd-initial-cluster", member]), "{args:?}");
    assert_eq!(objects.env(INJECTOR, "SCHEDULER_REPLICAS")?.as_deref(), Some("1"));
    // A budget that keeps one available would block the drain of its node.
    let budget = objects.get("PodDisruptionBudget/dapr-scheduler-server-disruption-budget")?;
    assert_eq!(budget["spec"]["maxUnavailable"], 1);
    Ok(())
}

#[rstest]
#[case::ha(&["global.ha.enabled=true"])]
#[case::production(&["profile=production"])]
#[case::asked_for(&["dapr_scheduler.replicaCount=3"])]
#[case::named(&["dapr_scheduler.replicaCount=3", "dapr_scheduler.storeEngine=etcd"])]
fn three_pods_run_an_etcd_each(#[case] sets: &[&str]) -> Result<()> {
    let objects = Objects::render(&[sets, &["networkPolicy.enabled=true"]].concat())?;
    assert_eq!(objects.get(WORKLOAD)?["spec"]["replicas"], 3);
    let member = |number| {
        let name = format!("dapr-scheduler-server-{number}");
        format!("{name}=https://{name}.dapr-scheduler-server.dapr-system.svc.cluster.local:2380")
    };
    let cluster = [0, 1, 2].map(member).join(",");
    let args = objects.args(WORKLOAD)?;
    assert!(args.windows(2).any(|pair| pair == ["--etcd-initial-cluster", &*cluster]), "{args:?}");
    assert_eq!(objects.env(INJECTOR, "SCHEDULER_REPLICAS")?.as_deref(), Some("3"));
    let policy = &objects.get("NetworkPolicy/dapr-scheduler-server")?["spec"];
    let members = json!([{"podSelector": {"matchLabels": {"app": "dapr-scheduler-server"}}}]);
    for (direction, peer) in [("ingress", "from"), ("egress", "to")] {
        let rules = policy[direction].as_array().into_iter().flatten();
        let between = rules.clone().find(|rule| rule[peer] == members);
        assert_eq!(between.map(|rule| &rule["ports"][0]["port"]), Some(&json!(2380)), "{policy}");
    }
    Ok(())
}

#[test]
fn a_budget_of_the_user_does_not_block_the_drain_of_its_node() -> Result<()> {
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
    let is_ours = |key: &&String| key.contains("scheduler") && !key.ends_with("scheduler-check");
    let ours: Vec<_> = objects.0.keys().filter(is_ours).collect();
    assert_eq!(ours.is_empty(), !sets.is_empty(), "{ours:?}");
    Ok(())
}

#[rstest]
#[case::two(&["dapr_scheduler.replicaCount=2"], "dapr_scheduler.replicaCount=2: one pod stores jobs or three")]
#[case::three(&["dapr_scheduler.replicaCount=3", "dapr_scheduler.storeEngine=embedded"],
    "set it to auto, or replicaCount to 1")]
#[case::four(&["dapr_scheduler.replicaCount=4"], "dapr_scheduler.etcdEmbed=false")]
#[case::none(&["dapr_scheduler.replicaCount=0"], "'/dapr_scheduler/replicaCount'")]
#[case::external(&["dapr_scheduler.etcdEmbed=false"], "list the addresses of the external etcd")]
#[case::external_engine(&["dapr_scheduler.etcdEmbed=false", "dapr_scheduler.storeEngine=embedded",
    "dapr_scheduler.etcdClientEndpoints={a:2379}"], "set it to auto")]
#[case::two_passwords(&["dapr_scheduler.etcdEmbed=false", "dapr_scheduler.etcdClientPassword=x",
    "dapr_scheduler.etcdClientPasswordSecret.name=s", "dapr_scheduler.etcdClientEndpoints={a:2379}"],
    "set one of them")]
#[case::secret(&["dapr_scheduler.etcdClientPasswordSecret.name=s"], "dapr_scheduler.etcdEmbed=false")]
#[case::endpoints(&["dapr_scheduler.etcdClientEndpoints={a:2379}"], "dapr_scheduler.etcdClientEndpoints is for")]
#[case::password(&["dapr_scheduler.etcdClientPassword=x"], "dapr_scheduler.etcdClientPassword is for")]
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

#[rstest]
#[case::alone(&[], 1)]
#[case::ha(&["global.ha.enabled=true"], 3)]
#[case::production(&["profile=production"], 3)]
#[case::asked_for(&["dapr_scheduler.replicaCount=5"], 5)]
fn pods_share_an_external_etcd(#[case] more: &[&str], #[case] replicas: usize) -> Result<()> {
    let sets = [
        "dapr_scheduler.etcdEmbed=false",
        "dapr_scheduler.etcdClientEndpoints={https://a:2379,https://b:2381}",
        "dapr_scheduler.etcdClientUsername=jobs",
        "dapr_scheduler.etcdClientPasswordSecret.name=etcd",
        "dapr_scheduler.etcdClientTLS.caSecret=etcd-ca",
        "dapr_scheduler.etcdClientTLS.certificateSecret=etcd-client",
        "networkPolicy.enabled=true",
    ];
    let objects = Objects::render(&[&sets[..], more].concat())?;
    assert_eq!(objects.get(WORKLOAD)?["spec"]["replicas"], replicas);
    let args = objects.args(WORKLOAD)?;
    assert!(args.iter().any(|arg| arg == "--etcd-embed=false"), "{args:?}");
    let endpoints = ["--etcd-client-endpoints", "https://a:2379,https://b:2381"];
    assert!(args.windows(2).any(|pair| pair == endpoints), "{args:?}");
    let cluster = args.iter().find(|arg| arg.starts_with("dapr-scheduler-server-0="));
    assert_eq!(cluster.map(|list| list.split(',').count()), Some(replicas));
    let container = objects.container(WORKLOAD)?;
    let env = container["env"].to_string();
    let password = r#"{"name":"DAPR_SCHEDULER_ETCD_CLIENT_PASSWORD","valueFrom":{"secretKeyRef":{"key":"password","name":"etcd"}}}"#;
    assert!(env.contains(password), "{env}");
    let mounts = container["volumeMounts"].to_string();
    for flag in ["--etcd-client-ca-file=", "--etcd-client-cert-file=", "--etcd-client-key-file="] {
        let file = args.iter().find_map(|arg| arg.strip_prefix(flag));
        let folder = file.and_then(|file| file.rsplit_once('/')).map(|(folder, _)| folder);
        assert!(folder.is_some_and(|folder| mounts.contains(folder)), "{flag} {mounts}");
    }
    let policy = objects.get("NetworkPolicy/dapr-scheduler-server")?["spec"]["egress"].to_string();
    assert!(policy.contains("2379") && policy.contains("2381"), "{policy}");
    Ok(())
}

#[rstest]
#[case::on_its_volume(&["--set", "dapr_scheduler.replicaCount=1"], true)]
#[case::in_an_external_etcd(&["--set", "dapr_scheduler.etcdEmbed=false",
    "--set", "dapr_scheduler.etcdClientEndpoints={a:2379}"], false)]
fn the_notes_name_the_limits_of_the_embedded_store(
    #[case] more: &[&str],
    #[case] embedded: bool,
) -> Result<()> {
    let memory = "dapr_scheduler.cluster.inMemoryStorage=true";
    let sets = ["--set", "global.ha.enabled=true", "--set", memory];
    let text = notes(&[&sets[..], more].concat())?;
    for sentence in ["in memory: they are lost with its pod", "The scheduler runs in one pod"] {
        assert_eq!(text.contains(sentence), embedded, "{sentence:?} in {text}");
    }
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
