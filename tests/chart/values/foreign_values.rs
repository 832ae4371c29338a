//! Foreign values: of Dapr's own charts, of parent charts, and keys that never had an effect.
//! Known keys keep their meaning, unknown ones are listed in the notes, misspelt ones are refused.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use blackbox::{Scratch, Tool, environment, process};
use rstest::rstest;
use serde_json::{Map, Value, json};

use crate::helm::{NAMESPACE, Objects, REGISTRY, folder, template, template_with};

fn case(file: &str) -> String {
    let path = environment::workspace().join("tests/fixtures/cases").join(file);
    path.to_string_lossy().into_owned()
}

/// The notes that `helm install` prints. `helm template` does not, and an installation needs a
/// cluster, so a copy of the chart renders them into an object.
pub(crate) fn notes(args: &[&str]) -> Result<String> {
    let scratch = Scratch::new("notes")?;
    let chart = scratch.path().join("dapr");
    process::output(Command::new("cp").arg("-r").arg(folder()).arg(&chart))?;
    let templates = chart.join("templates");
    let text = fs::read_to_string(templates.join("NOTES.txt"))?;
    fs::remove_file(templates.join("NOTES.txt"))?;
    let define = "{{- define \"test.notes\" }}";
    fs::write(templates.join("_notes.tpl"), format!("{define}{text}{{{{ end -}}}}"))?;
    fs::write(
        templates.join("notes.yaml"),
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: notes}, data: {text: {{ include \"test.notes\" . | quote }}}}",
    )?;
    let mut helm = Command::new(Tool::HELM.path()?);
    helm.args(["template", "dapr"]).arg(&chart).args(["--namespace", NAMESPACE]);
    let objects = Objects::parse(&process::output(helm.args(["--set", REGISTRY]).args(args))?)?;
    let text = objects.get("ConfigMap/notes")?.pointer("/data/text").and_then(Value::as_str);
    Ok(text.context("no notes")?.to_owned())
}

#[rstest]
#[case::group(&["global.ha.enable=true"], "global.ha.enable: no such value; enabled is meant")]
#[case::added(&["global.registrys=r"], "global.registrys: no such value; registry is meant")]
#[case::changed(&["dapr_operator.logLevem=info"], "dapr_operator.logLevem: no such value; logLevel is meant")]
#[case::exchanged(&["dapr_sentry.imaeg.name=x"], "dapr_sentry.imaeg: no such value; image is meant")]
#[case::letters(&["dapr_placement.keepalivetime=2s"], "keepAliveTime is meant")]
#[case::service(&["dapr_sidecar_injectr.enabled=false"], "dapr_sidecar_injector is meant")]
#[case::new_key(&["networkPolicy.enable=true"], "networkPolicy.enable: no such value; enabled is meant")]
fn a_misspelt_key_is_refused_with_the_key_that_is_meant(
    #[case] sets: &[&str],
    #[case] says: &str,
) -> Result<()> {
    let Err(error) = template(&[&[REGISTRY], sets].concat()) else {
        anyhow::bail!("{sets:?} was rendered")
    };
    assert!(error.to_string().contains(says), "{error}");
    Ok(())
}

#[rstest]
#[case::production("07-values-that-dapr-ignores/production.yaml")]
#[case::of_1_6("23-reuse-values-of-old-releases/from-1.6.yaml")]
#[case::variant("24-mariner-tag/values.yaml")]
fn values_files_of_old_render(#[case] file: &str) -> Result<()> {
    Objects::parse(&template_with(&[], &["-f", &case(file)])?)?;
    Ok(())
}

#[test]
fn values_of_a_flux_release_render() -> Result<()> {
    let text = fs::read_to_string(case("07-values-that-dapr-ignores/flux.yaml"))?;
    let release: Value = serde_saphyr::from_str(&text)?;
    let values = release.pointer("/spec/values").context("no values")?;
    let scratch = Scratch::new("flux")?;
    let file = scratch.path().join("values.json");
    fs::write(&file, values.to_string())?;
    let objects = Objects::parse(&template_with(&[], &["-f", &file.to_string_lossy()])?)?;
    let resources = &objects.container("StatefulSet/dapr-placement-server")?["resources"];
    assert_eq!(*resources, json!({"limits": {"cpu": "500m", "memory": "512Mi"}}));
    Ok(())
}

#[test]
fn the_notes_name_every_value_without_effect() -> Result<()> {
    let file = case("07-values-that-dapr-ignores/production.yaml");
    let text = notes(&["-f", &file, "--set", "dapr_placement.volumeclaims.storageSize=2Gi"])?;
    let (_, listed) = text.split_once("these values have no effect here:\n").context("no list")?;
    let listed: Vec<&str> = listed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let want = [
        "dapr_dashboard",
        "dapr_operator.affinity",
        "dapr_operator.nodeSelector",
        "dapr_operator.podDisruptionBudget",
        "dapr_operator.priorityClassName",
        "dapr_operator.tolerations",
        "dapr_placement.replicaCount",
        "dapr_sentry.replicas",
        "dapr_sentry.trustDomain",
        "dapr_sidecar_injector.defaultContainerConfig",
        "dapr_sidecar_injector.sidecarCPURequest",
        "global.logLevel",
        "dapr_placement.volumeclaims.storageSize",
    ];
    assert_eq!(listed, want);
    assert!(!notes(&[])?.contains("no effect"), "the chart's own values all have one");
    Ok(())
}

/// Names that Dapr announced after 1.19 have no other meaning here.
#[test]
fn names_that_dapr_has_announced_are_free() -> Result<()> {
    let announced = [
        "dapr_sentry.caTTL=8760h",
        "dapr_sentry.caRenewal.enabled=true",
        "global.trustDistribution.enabled=true",
    ];
    let before = Objects::render(&[])?;
    let changes = before.changes_to(&Objects::render(&announced)?);
    assert!(changes.is_empty(), "{changes}");
    for (key, object) in &before.0 {
        assert!(!key.ends_with("/dapr-root-ca.crt"), "{key}");
        let text = object.to_string();
        for flag in ["--trust-distribution", "--ca-renewal-threshold"] {
            assert!(!text.contains(flag), "{key}: {flag}");
        }
    }
    let args: Vec<_> = announced.iter().flat_map(|set| ["--set", set]).collect();
    let text = notes(&args)?;
    for line in [
        "dapr_sentry.caTTL: announced by Dapr for later; use dapr_sentry.caLifetime",
        "dapr_sentry.caRenewal: announced by Dapr for later; use dapr_sentry.caRotateAt",
        "global.trustDistribution: announced by Dapr for later; sidecars receive trust anchors",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    Ok(())
}

#[rstest]
#[case::values_of_the_parent(&[])]
#[case::no_global_values(&["--set", "global=null"])]
fn the_chart_renders_below_a_parent_chart(#[case] args: &[&str]) -> Result<()> {
    let scratch = Scratch::new("umbrella")?;
    let parent = scratch.path().join("platform");
    fs::create_dir_all(parent.join("charts"))?;
    for file in ["Chart.yaml", "values.yaml"] {
        let text = fs::read_to_string(case(&format!("02-umbrella-chart/platform/{file}")))?;
        fs::write(parent.join(file), text)?;
    }
    process::output(Command::new("cp").arg("-r").arg(folder()).arg(parent.join("charts/dapr")))?;
    let mut helm = Command::new(Tool::HELM.path()?);
    helm.args(["template", "p"]).arg(&parent).args(["--namespace", NAMESPACE]).args(args);
    let objects = Objects::parse(&process::output(&mut helm)?)?;
    assert_eq!(objects.get("Deployment/dapr-sentry")?["spec"]["replicas"], 3, "global.ha");
    Ok(())
}

#[rstest]
#[case::served_by_placement(&[],
    "global.scheduler.placement.enabled: this release serves placement with dapr-placement-server; set it to false")]
#[case::no_scheduler(&["global.scheduler.enabled=false"],
    "global.scheduler.placement.enabled requires global.scheduler.enabled")]
#[case::no_scheduler_says_why(&["global.scheduler.enabled=false"], "no service would serve actor placement")]
#[case::no_actors(&["global.actors.enabled=false"], "the actors building block is disabled")]
#[case::other_authority(&["global.actors.serviceName=other"],
    "another placement authority cannot take part in the handoff")]
fn placement_of_the_scheduler_is_refused(#[case] sets: &[&str], #[case] says: &str) -> Result<()> {
    let sets = [&[REGISTRY, "global.scheduler.placement.enabled=true"], sets].concat();
    let Err(error) = template(&sets) else { anyhow::bail!("{sets:?} was rendered") };
    assert!(error.to_string().contains(says), "{error}");
    Ok(())
}

#[test]
fn a_kept_scheduler_may_serve_placement() -> Result<()> {
    let sets = ["global.scheduler.external=true", "global.scheduler.placement.enabled=true"];
    let objects = Objects::render(&sets)?;
    let left: Vec<_> = objects.0.keys().filter(|key| key.contains("placement")).collect();
    assert!(left.is_empty(), "{left:?}");
    let address = objects.env("Deployment/dapr-sidecar-injector", "ACTORS_SERVICE_ADDRESS")?;
    assert_eq!(address.as_deref(), Some("dapr-placement-server:50005"), "the way back");
    let [external, placement] = sets;
    let text = notes(&["--set", external, "--set", placement])?;
    assert!(text.contains("must be Dapr 1.19 or newer and run with --placement-enabled=true"));
    Ok(())
}

#[test]
fn every_known_value_is_in_the_list_that_misspellings_are_compared_with() -> Result<()> {
    let schema: Value = serde_json::from_slice(&fs::read(folder().join("values.schema.json"))?)?;
    let known: Value =
        serde_json::from_slice(&fs::read(folder().join("files/known-values.json"))?)?;
    assert_eq!(known, keys(&schema, &schema)?, "bring files/known-values.json up to date");
    Ok(())
}

/// The tree of keys below a schema; what the schema itself closes is left out.
fn keys(schema: &Value, root: &Value) -> Result<Value> {
    let schema = match schema.get("$ref").and_then(Value::as_str) {
        Some(place) => root.pointer(place.trim_start_matches('#')).context("no definition")?,
        None => schema,
    };
    let mut tree = Map::new();
    if schema.get("additionalProperties") != Some(&json!(false)) {
        for (key, below) in
            schema.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            tree.insert(key.clone(), keys(below, root)?);
        }
    }
    Ok(Value::Object(tree))
}
