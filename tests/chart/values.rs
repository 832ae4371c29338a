//! Values: their schema, their documentation, and those that are refused.

mod examples;
pub(crate) mod foreign_values;
mod gitops;

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use blackbox::{Scratch, environment};
use rstest::rstest;
use serde_json::Value;

use crate::helm::{Objects, REGISTRY, folder, template, template_with};

#[rstest]
#[case::no_registry(&[], "no image registry is set")]
#[case::no_registry_says_how(&[], "--set global.controlPlane.registry=REGISTRY")]
#[case::actor_service(&["global.actors.serviceName=scheduler"], "the only actor service is placement")]
#[case::reminders(&["global.reminders.serviceName=scheduler"], "has no service for reminders")]
#[case::anti_affinity(&["global.ha.podAntiAffinityPolicy=never"], "preferredDuringScheduling")]
#[case::both_budgets(&["global.ha.disruption.minimumAvailable=2"], "not both")]
#[case::root_sidecar(&["dapr_sidecar_injector.sidecarRunAsUser=0"], "contradicts sidecarRunAsNonRoot=true")]
#[case::user_without_non_root(&["dapr_sidecar_injector.sidecarRunAsUser=7",
    "dapr_sidecar_injector.sidecarRunAsNonRoot=false"], "contradicts sidecarRunAsNonRoot=false")]
#[case::half_a_ca(&["dapr_sentry.tls.issuer.keyPEM=x"], "needs all of root.certPEM")]
#[case::half_the_names(&["global.issuerFilenames.ca=x"], "needs all of ca, cert and key")]
#[case::oidc_without_jwt(&["dapr_sentry.oidc.enabled=true"], "needs dapr_sentry.jwt.enabled=true")]
#[case::oidc_without_files(&["dapr_sentry.jwt.enabled=true", "dapr_sentry.oidc.enabled=true"],
    "TLS needs both certFile and keyFile")]
#[case::debugger(&["dapr_placement.debug.enabled=true"], "hold no Go debugger")]
#[case::string_for_a_boolean(&["global.ha.enabled=yes"], "'/global/ha/enabled': got string, want boolean")]
#[case::log_level(&["dapr_sentry.logLevel=verbose"], "'/dapr_sentry/logLevel': value must be one of")]
#[case::number_for_a_duration(&["global.mtls.workloadCertTTL=24"],
    "'/global/mtls/workloadCertTTL': got number, want string")]
#[case::duration_without_unit(&["dapr_placement.keepAliveTime=2sec"],
    "dapr_placement.keepAliveTime=\"2sec\": no duration; write a number and a unit, such as")]
#[case::days(&["dapr_sentry.caLifetime=30d"], "dapr_sentry.caLifetime=\"30d\": no duration")]
#[case::profile(&["profile=prod"], "'/profile': value must be one of 'default', 'dev', 'production'")]
#[case::list_for_a_map(&["monitoring.alerts.labels={a}"], "'/monitoring/alerts/labels': got array, want object")]
#[case::monitor_without_metrics(&["monitoring.podMonitor.enabled=true", "global.prometheus.enabled=false"],
    "needs global.prometheus.enabled=true")]
#[case::port(&["global.prometheus.port=0"], "'/global/prometheus/port'")]
#[case::no_label_value(&["global.tag=1@sha256:0"], "global.tag=\"1@sha256:0\": it is a label too")]
fn refuses(#[case] sets: &[&str], #[case] sentence: &str) -> Result<()> {
    let mut all = sets.to_vec();
    if !sets.is_empty() {
        all.push(REGISTRY);
    }
    let Err(error) = template(&all) else { anyhow::bail!("{sets:?} was rendered") };
    assert!(error.to_string().contains(sentence), "{error}");
    Ok(())
}

#[test]
fn accepts_every_kind_of_pull_secret() -> Result<()> {
    for (value, want) in [
        (r#""a""#, r#"[{"name":"a"}]"#),
        (r#"["a","b"]"#, r#"[{"name":"a"},{"name":"b"}]"#),
        (r#"[{"name":"a"}]"#, r#"[{"name":"a"}]"#),
    ] {
        let set = format!("global.imagePullSecrets={value}");
        let objects = Objects::parse(&template_with(&[REGISTRY], &["--set-json", &set])?)?;
        let got = objects.pod("Deployment/dapr-operator")?["imagePullSecrets"].to_string();
        assert_eq!(got, want, "{value}");
    }
    Ok(())
}

/// `helm upgrade --reuse-values` renders this chart with the values of the previous one, which lack
/// the keys that are new here.
#[test]
fn renders_with_the_values_of_daprs_chart_alone() -> Result<()> {
    let old = environment::workspace().join("tests/fixtures/chart-reference-values.yaml");
    let scratch = Scratch::new("chart")?;
    let copy = copy_of_the_chart(&scratch)?;
    fs::copy(&old, copy.join("values.yaml"))?;
    let mut helm = std::process::Command::new(blackbox::Tool::HELM.path()?);
    helm.args(["template", "dapr"]).arg(&copy);
    helm.args(["--namespace", "dapr-system", "--set", REGISTRY]);
    // The one default that differs: Dapr's chart does not coalesce changes.
    helm.args(["--set", "dapr_placement.disseminateCoalesceWindow=100ms"]);
    let objects = Objects::parse(&blackbox::process::output(&mut helm)?)?;
    // Settings of Dapr's values: no watchdog, the sidecar of their tag, no group for sentry's
    // volumes.
    let theirs =
        ["dapr_operator.watchInterval=0", "global.daprd.tag=1.18.3", "dapr_sentry.fsGroup=null"];
    let changes = Objects::render(&theirs)?.changes_to(&objects);
    assert_eq!(changes, "", "the same values must give the same objects");
    Ok(())
}

fn copy_of_the_chart(scratch: &Scratch) -> Result<std::path::PathBuf> {
    let copy = scratch.path().join("dapr");
    let mut cp = std::process::Command::new("cp");
    blackbox::process::output(cp.arg("-r").arg(folder()).arg(&copy))?;
    Ok(copy)
}

#[test]
fn the_charts_crds_are_those_of_the_repository() -> Result<()> {
    let read = |folder: std::path::PathBuf| -> Result<BTreeMap<String, String>> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.file_name().context("a file name")?.to_string_lossy().into_owned();
            files.insert(name, fs::read_to_string(&path)?);
        }
        Ok(files)
    };
    let ours = read(environment::workspace().join("crds"))?;
    let charts = read(folder().join("crds"))?;
    assert_eq!(ours.keys().collect::<Vec<_>>(), charts.keys().collect::<Vec<_>>());
    for (name, text) in &ours {
        assert!(charts.get(name) == Some(text), "{name} differs: copy crds/ to charts/dapr/crds/");
    }
    assert_eq!(ours.len(), 7);
    Ok(())
}

#[test]
fn every_value_is_in_the_schema_and_in_the_readme() -> Result<()> {
    let text = fs::read_to_string(folder().join("values.yaml"))?;
    let values: Value = serde_saphyr::from_str(&text)?;
    let schema: Value = serde_json::from_slice(&fs::read(folder().join("values.schema.json"))?)?;
    let readme = fs::read_to_string(folder().join("README.md"))?;
    let mut leaves = Vec::new();
    collect(&values, &schema, &schema, String::new(), &mut leaves)?;
    assert!(leaves.len() > 180, "only {} values", leaves.len());
    for (key, default) in leaves {
        let row = readme.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
        let row = row.with_context(|| format!("README.md has no row for {key}"))?;
        let shown =
            row.contains(&format!("| `{default}` |")) || row.contains("| see values.yaml |");
        assert!(shown, "README.md has another default for {key}: {row}, should be {default}");
    }
    Ok(())
}

/// Keys without effect that are kept for old values files.
const UNDOCUMENTED: [&str; 2] = ["debug.port", "debug.initialDelaySeconds"];

/// The values that a user sets one by one, with their defaults; fails on one without schema.
fn collect(
    value: &Value,
    schema: &Value,
    root: &Value,
    path: String,
    leaves: &mut Vec<(String, Value)>,
) -> Result<()> {
    let properties = resolve(schema, root)?.get("properties").and_then(Value::as_object);
    let (Some(map), Some(properties)) = (value.as_object(), properties) else {
        leaves.push((path, value.clone()));
        return Ok(());
    };
    if map.is_empty() {
        leaves.push((path, value.clone()));
        return Ok(());
    }
    for (key, value) in map {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let schema = properties.get(key).with_context(|| format!("the schema has no {path}"))?;
        if !UNDOCUMENTED.iter().any(|end| path.ends_with(end)) {
            collect(value, schema, root, path, leaves)?;
        }
    }
    Ok(())
}

fn resolve<'a>(schema: &'a Value, root: &'a Value) -> Result<&'a Value> {
    match schema.get("$ref").and_then(Value::as_str) {
        None => Ok(schema),
        Some(reference) => root
            .pointer(reference.trim_start_matches('#'))
            .with_context(|| format!("the schema has no {reference}")),
    }
}
