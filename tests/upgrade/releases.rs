//! Helm releases of the reference's chart that are upgraded to ours and back, as seen by the API
//! server: what it refuses to change, and what is left.

use anyhow::{Context as _, Result, ensure};
use blackbox::{ApiCluster, environment, reference};
use rstest::rstest;
use serde_json::{Value, json};

const NAMESPACE: [&str; 2] = ["--namespace", "dapr-system"];
const PLACEMENT: &str = "statefulset/dapr-placement-server";

fn ours() -> Vec<String> {
    let chart = environment::workspace().join("charts/dapr").to_string_lossy().into_owned();
    let sets = [
        "global.registry=",
        "global.tag=",
        "global.controlPlane.registry=registry.example/trilby",
        "global.scheduler.enabled=false",
        "crds.upgradeJob.enabled=false", // its pod does not run on this cluster
        "dapr_scheduler.upgradeCheck.enabled=false",
    ];
    [chart].into_iter().chain(sets.map(|set| format!("--set={set}"))).collect()
}

fn theirs() -> Result<Vec<String>> {
    let chart = reference::chart()?.to_string_lossy().into_owned();
    let tag = format!("--set=global.tag={}", reference::tag());
    let sets = ["--set=global.registry=ghcr.io/dapr", "--set=global.scheduler.enabled=true", &tag];
    Ok([chart].into_iter().chain(sets.map(str::to_owned)).collect())
}

struct Release {
    api: ApiCluster,
}

impl Release {
    /// A release of the reference with those settings.
    fn of_the_reference(sets: &[&str]) -> Result<Self> {
        let release = Self { api: ApiCluster::start()? };
        let sets: Vec<_> = sets.iter().map(|set| format!("--set={set}")).collect();
        release.helm(&["install", "dapr", "--create-namespace"], &[theirs()?, sets].concat())?;
        Ok(release)
    }

    fn upgrade(&self, to: &[String]) -> Result<()> {
        self.helm(&["upgrade", "dapr", "--reset-then-reuse-values"], to)
    }

    fn helm(&self, verb: &[&str], rest: &[String]) -> Result<()> {
        let rest = rest.iter().map(String::as_str);
        let args: Vec<_> = verb.iter().copied().chain(NAMESPACE).chain(rest).collect();
        self.api.cluster().helm(&args).map(drop)
    }

    /// The StatefulSets by name, each with its number of replicas and its first image.
    fn stateful_sets(&self) -> Result<Vec<(String, i64, String)>> {
        let list = self.api.get(&["statefulsets", NAMESPACE[0], NAMESPACE[1]])?;
        let sets = list.get("items").and_then(Value::as_array).context("no list")?;
        let text = |set: &Value, at: &str| {
            set.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let of = |set: &Value| {
            let replicas = set.pointer("/spec/replicas").and_then(Value::as_i64);
            let image = text(set, "/spec/template/spec/containers/0/image");
            (text(set, "/metadata/name"), replicas.unwrap_or_default(), image)
        };
        Ok(sets.iter().map(of).collect())
    }

    /// Deletes the StatefulSet without its pods: the next one adopts them.
    fn orphan_placement(&self) -> Result<()> {
        self.api.kubectl(&["delete", PLACEMENT, "--cascade=orphan", "-n", NAMESPACE[1]]).map(drop)
    }
}

/// Writes a CA as sentry does, into a Secret that Helm rendered without data.
fn write_ca(release: &Release) -> Result<()> {
    let data = json!({"stringData": {"ca.crt": "a", "issuer.crt": "b", "issuer.key": "c"}});
    let secret = ["patch", "secret", "dapr-trust-bundle", "-n", NAMESPACE[1], "-p"];
    release.api.kubectl(&[&secret[..], &[&data.to_string()]].concat()).map(drop)
}

fn ca(release: &Release) -> Result<Value> {
    let secret = release.api.get(&["secret", "dapr-trust-bundle", "-n", NAMESPACE[1]])?;
    secret.get("data").cloned().context("the CA is gone")
}

#[rstest]
#[case::default(&[], 1)]
#[case::mtls_off(&["global.mtls.enabled=false"], 1)]
fn a_release_changes_charts_in_place(#[case] sets: &[&str], #[case] replicas: i64) -> Result<()> {
    let release = Release::of_the_reference(sets)?;
    write_ca(&release)?;
    let before = ca(&release)?;
    let system = ["configuration", "daprsystem", "-n", NAMESPACE[1]];
    let configured = release.api.get(&system)?;

    release.upgrade(&ours())?;
    let placement = "registry.example/trilby/placement:1.18.3";
    let wanted = [("dapr-placement-server".to_owned(), replicas, placement.to_owned())];
    ensure!(release.stateful_sets()? == wanted, "{:?}", release.stateful_sets()?);
    ensure!(ca(&release)? == before, "the CA must stay");
    let now = release.api.get(&system)?;
    ensure!(now.get("spec") == configured.get("spec"), "was {configured}, is {now}");

    release.upgrade(&theirs()?)?;
    let names: Vec<_> = release.stateful_sets()?.into_iter().map(|(name, ..)| name).collect();
    ensure!(names == ["dapr-placement-server", "dapr-scheduler-server"], "{names:?}");
    ensure!(ca(&release)? == before, "the CA must stay on the way back");

    // The other way back, to the previous revision.
    release.upgrade(&ours())?;
    release.helm(&["rollback", "dapr", "3"], &[])?;
    let names: Vec<_> = release.stateful_sets()?.into_iter().map(|(name, ..)| name).collect();
    ensure!(names == ["dapr-placement-server", "dapr-scheduler-server"], "{names:?}");
    ensure!(ca(&release)? == before, "the CA must stay after a rollback");
    Ok(())
}

/// With HA the reference's placement has a volume per replica, ours stores nothing on disk, and
/// Kubernetes forbids that change: Helm reports it, and docs/upgrade.md has the remedy.
#[test]
fn with_high_availability_the_placement_set_is_deleted_first() -> Result<()> {
    let release = Release::of_the_reference(&["global.ha.enabled=true"])?;
    let refused = release.upgrade(&ours()).err().context("Kubernetes changed a volume claim")?;
    let words = format!("{refused:#}");
    ensure!(words.contains("dapr-placement-server") && words.contains("Forbidden"), "{words}");
    release.orphan_placement()?;
    release.upgrade(&ours())?;
    let placement = "registry.example/trilby/placement:1.18.3";
    let wanted = [("dapr-placement-server".to_owned(), 3, placement.to_owned())];
    ensure!(release.stateful_sets()? == wanted, "{:?}", release.stateful_sets()?);
    release.orphan_placement()?;
    release.upgrade(&theirs()?)
}
