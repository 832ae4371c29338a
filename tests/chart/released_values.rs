//! The default values of each release of Dapr's chart (`tests/fixtures/released-values`), which
//! `helm upgrade --reuse-values` brings to ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Scratch, Tool, environment, module_folder, process, tools};
use rstest::rstest;
use serde_json::{Value, json};

use crate::helm::{NAMESPACE, Objects, REGISTRY, folder, template_with};
use crate::values::foreign_values::notes;

/// The values files by minor version.
fn releases() -> Result<BTreeMap<u32, PathBuf>> {
    let mut releases = BTreeMap::new();
    for entry in fs::read_dir(environment::workspace().join("tests/fixtures/released-values"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let minor = name.split('.').nth(1).context("no minor version")?.parse()?;
            ensure!(releases.insert(minor, path).is_none(), "two files of 1.{minor}");
        }
    }
    ensure!(releases.keys().copied().eq(0..=18), "a release is missing: {releases:?}");
    Ok(releases)
}

fn render(file: &str) -> Result<Objects> {
    Objects::parse(&template_with(&[REGISTRY], &["-f", file])?)
}

/// Every image reference of workloads and hooks.
fn images(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, member) in members {
                match member {
                    Value::String(image) if key == "image" => drop(found.insert(image.clone())),
                    _ => images(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| images(item, found)),
        _ => {}
    }
}

/// The values without effect, by the first and last minor version whose defaults have them.
const UNUSED: [(u32, u32, &str); 8] = [
    (0, 2, "dapr_operator.image.name"),
    (0, 2, "dapr_placement.image.name"),
    (0, 2, "dapr_sentry.image.name"),
    (0, 10, "dapr_dashboard"),
    (0, 7, "dapr_placement.replicaCount"),
    (10, 12, "dapr_sentry.tokenAudience"),
    (14, 14, "dapr_scheduler.ha"),
    (14, 14, "dapr_scheduler.ports.etcdHTTPClientPort"),
];

#[test]
fn the_defaults_of_every_release_of_daprs_chart_render() -> Result<()> {
    for (minor, file) in releases()? {
        let version = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let file = file.to_string_lossy().into_owned();
        let objects = render(&file).with_context(|| version.clone())?;
        let mut found = BTreeSet::new();
        objects.0.values().for_each(|object| images(object, &mut found));
        let names = ["injector", "operator", "placement", "scheduler", "sentry"];
        let want = names.map(|name| format!("registry.example/trilby/{name}:{version}"));
        ensure!(found.iter().eq(want.iter()), "1.{minor}: {found:?}");
        let sidecar = objects.env("Deployment/dapr-sidecar-injector", "SIDECAR_IMAGE")?;
        ensure!(sidecar == Some(format!("ghcr.io/dapr/daprd:{version}")), "1.{minor}: {sidecar:?}");
        let notes = notes(&["-f", &file])?;
        let unused = notes.split_once("these values have no effect here:\n").map(|(_, list)| list);
        let lines = unused.unwrap_or_default().lines().map(str::trim);
        let listed: BTreeSet<&str> = lines.filter(|line| !line.is_empty()).collect();
        let want = UNUSED.iter().filter(|(from, to, _)| (*from..=*to).contains(&minor));
        let want: BTreeSet<&str> = want.map(|(_, _, key)| *key).collect();
        ensure!(listed == want, "1.{minor}: {listed:?}, not {want:?}");
    }
    Ok(())
}

/// The values that 1.19 added (Dapr 1.19, chart values).
#[test]
fn the_defaults_of_1_19_render() -> Result<()> {
    let newest = releases()?.pop_last().context("no release")?.1;
    let mut values: Value = serde_json::from_slice(&fs::read(newest)?)?;
    values["dapr_sentry"]["extraArgs"] = json!([]);
    values["dapr_scheduler"]["securityContext"] = json!({"fsGroup": null});
    let scratch = Scratch::new("values")?;
    let file = scratch.path().join("values.json");
    for placement in [json!({"enabled": false}), json!({"enabled": null}), json!({}), Value::Null] {
        values["global"]["scheduler"]["placement"] = placement;
        fs::write(&file, values.to_string())?;
        render(&file.to_string_lossy())?;
    }
    Ok(())
}

fn own_global_values() -> Result<Value> {
    let values: Value = serde_saphyr::from_str(&fs::read_to_string(folder().join("values.yaml"))?)?;
    Ok(values.get("global").cloned().unwrap_or_default())
}

/// A map with the same keys down to a depth, and null below.
fn nulls(values: &Value, depth: usize) -> Value {
    match values {
        Value::Object(map) if depth > 0 && !map.is_empty() => {
            map.iter().map(|(key, value)| (key.clone(), nulls(value, depth - 1))).collect()
        }
        _ => Value::Null,
    }
}

/// Terraform, Argo CD and parent charts write null for what is not set; Dapr's chart renders then.
#[rstest]
#[case::maps(1)]
#[case::members(2)]
#[case::all(9)]
fn null_is_the_default(#[case] depth: usize) -> Result<()> {
    let mut global = nulls(&own_global_values()?, depth);
    global["controlPlane"]["registry"] = json!("registry.example/trilby");
    let scratch = Scratch::new("nulls")?;
    let file = scratch.path().join("values.json");
    fs::write(&file, json!({ "global": global }).to_string())?;
    let args = ["-f", &file.to_string_lossy()];
    let changes = Objects::render(&[])?.changes_to(&Objects::parse(&template_with(&[], &args)?)?);
    ensure!(changes.is_empty(), "{changes}");
    Ok(())
}

#[test]
fn the_defaults_that_replace_null_are_those_of_the_values_file() -> Result<()> {
    let file = fs::read(folder().join("files/default-global.json"))?;
    let filled: Value = serde_json::from_slice(&file)?;
    let want = own_global_values()?;
    ensure!(filled == want, "bring files/default-global.json up to date: {want}");
    Ok(())
}

/// The rendering of Dapr's own chart with these arguments and the registry and version that the way
/// back sets (docs/upgrade.md).
fn in_daprs_chart(args: &[&str]) -> Result<Objects> {
    let chart = module_folder("github.com/dapr/dapr", tools::DAPR)?.join("charts/dapr");
    let mut helm = Command::new(Tool::HELM.path()?);
    helm.args(["template", "dapr"]).arg(chart).args(["--namespace", NAMESPACE]).args(args);
    helm.args(["--set", "global.registry=ghcr.io/dapr,global.tag=1.18.3"]);
    Objects::parse(&process::output(&mut helm)?)
}

/// The way back with `--reuse-values`: Dapr's chart ignores unknown values, and reads known ones
/// as its own defaults.
#[test]
fn our_values_mean_the_same_in_daprs_chart() -> Result<()> {
    let ours = folder().join("values.yaml").to_string_lossy().into_owned();
    for set in
        ["global.ha.enabled=true", "global.mtls.enabled=false", "global.rbac.namespaced=true"]
    {
        let theirs = in_daprs_chart(&["--set", set])?;
        let changes = theirs.changes_to(&in_daprs_chart(&["-f", &ours, "--set", set])?);
        // The watchdog is on here, and rounds are coalesced.
        let (rest, known): (Vec<_>, Vec<_>) = changes.lines().partition(|line| {
            !line.ends_with(r#""0" -> "1m""#)
                && !line.ends_with("window=0s\" -> \"--disseminate-coalesce-window=100ms\"")
        });
        ensure!(rest.is_empty() && known.len() == 2, "{set}: {changes}");
    }
    Ok(())
}

/// Values of our users, some of which only our chart knows.
#[rstest]
#[case(json!({"global": {"imagePullSecrets": [{"name": "a"}]}}))]
#[case(json!({"global": {"daprd": {"tag": "1.18.5"}, "scheduler": {"external": true, "placement": {"enabled": false}}}}))]
#[case(json!({"global": {"rbac": {"secrets": {"namespaces": ["a"]}}}, "networkPolicy": {"enabled": true}, "profile": "production"}))]
#[case(json!({"dapr_operator": {"watchInterval": "30s", "watchdogOwnerKinds": ["CloneSet.apps.kruise.io"]}}))]
#[case(json!({"dapr_sentry": {"extraArgs": ["--x"], "caLifetime": "8760h"}, "dapr_placement": {"leaderElection": "lease"}}))]
fn values_of_our_users_render_in_daprs_chart(#[case] values: Value) -> Result<()> {
    let scratch = Scratch::new("values")?;
    let file = scratch.path().join("values.json");
    fs::write(&file, values.to_string())?;
    let (file, ours) = (file.to_string_lossy(), folder().join("values.yaml"));
    render(&file)?;
    let objects = in_daprs_chart(&["-f", &ours.to_string_lossy(), "-f", &file])?;
    let mut found = BTreeSet::new();
    objects.0.values().for_each(|object| images(object, &mut found));
    let known = found.iter().all(|i| i.starts_with("ghcr.io/dapr/") && i.ends_with(":1.18.3"));
    ensure!(known && found.len() >= 5, "{found:?}");
    Ok(())
}

/// Values of users over the defaults of an old release: a name that they set stays.
#[test]
fn names_of_images_that_users_chose_are_kept() -> Result<()> {
    let sets = ["dapr_sentry.image.name=mine", "dapr_operator.image.name=r.example/x/operator:2"];
    let objects = Objects::render(&sets)?;
    let image =
        |workload: &str| Ok::<_, anyhow::Error>(objects.container(workload)?["image"].clone());
    let sentry = image("Deployment/dapr-sentry")?;
    ensure!(
        sentry.as_str().is_some_and(|image| image.starts_with("registry.example/trilby/mine:"))
    );
    ensure!(image("Deployment/dapr-operator")? == "r.example/x/operator:2");
    Ok(())
}
