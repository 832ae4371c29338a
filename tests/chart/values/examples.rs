//! The examples for deployment tools: the chart renders with the values of each.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Scratch, Tool, environment, process};
use serde_json::Value;

use crate::helm::{Objects, folder};

fn examples() -> PathBuf {
    environment::workspace().join("deploy/examples")
}

/// The documents of a file.
fn documents(file: &str) -> Result<Vec<Value>> {
    let text = fs::read_to_string(examples().join(file)).with_context(|| format!("read {file}"))?;
    let documents = text.split("\n---\n").map(serde_saphyr::from_str);
    documents.collect::<Result<_, _>>().with_context(|| format!("{file} is no YAML"))
}

/// Renders a chart with values of a file.
fn render(chart: &Path, values: &str) -> Result<Objects> {
    let scratch = Scratch::new("example")?;
    let values = scratch.write("values.yaml", values)?;
    let mut helm = Command::new(Tool::HELM.path()?);
    helm.arg("template").arg("dapr").arg(chart).args(["--namespace", "dapr-system", "-f"]);
    Objects::parse(&process::output(helm.arg(values))?)
}

/// Checks the settings of each example: its registry, and three operators.
fn is_as_asked(objects: &Objects, what: &str) -> Result<()> {
    let operator = objects.get("Deployment/dapr-operator")?;
    let image = operator.pointer("/spec/template/spec/containers/0/image");
    let image = image.and_then(Value::as_str).unwrap_or_default();
    ensure!(image.starts_with("registry.example.com/trilby/operator:"), "{what}: {image}");
    ensure!(operator["spec"]["replicas"] == 3, "{what}: {}", operator["spec"]["replicas"]);
    Ok(())
}

#[test]
fn the_chart_renders_with_the_values_of_each_tool() -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let argo = &documents("argocd.yaml")?[0]["spec"]["source"];
    ensure!(argo["targetRevision"] == version && argo["chart"] == "dapr", "{argo:#}");
    let flux = documents("flux.yaml")?;
    let release = flux.iter().find(|d| d["kind"] == "HelmRelease").context("no HelmRelease")?;
    ensure!(release["spec"]["chart"]["spec"]["version"] == version, "{release:#}");
    let terraform = fs::read_to_string(examples().join("terraform/main.tf"))?;
    ensure!(terraform.contains(&format!("\"{version}\"")), "{terraform}");
    let terraform = fs::read_to_string(examples().join("terraform/values.yaml"))?;
    let values = [
        ("Argo CD", argo["helm"]["valuesObject"].to_string()),
        ("Flux", release["spec"]["values"].to_string()),
        ("Terraform", terraform),
    ];
    for (tool, values) in values {
        is_as_asked(&render(&folder(), &values)?, tool)?;
    }
    Ok(())
}

#[test]
fn the_umbrella_chart_renders_both_parts() -> Result<()> {
    let scratch = Scratch::new("umbrella")?;
    // Helm writes dependencies into the chart's folder, so it gets a copy with absolute paths of
    // its dependencies.
    let chart = scratch.path().join("umbrella");
    fs::create_dir(&chart)?;
    let charts = environment::workspace().join("charts");
    let text = fs::read_to_string(examples().join("umbrella/Chart.yaml"))?;
    let text = text.replace("file://../../../charts", &format!("file://{}", charts.display()));
    fs::write(chart.join("Chart.yaml"), text)?;
    let values = fs::read_to_string(examples().join("umbrella/values.yaml"))?;
    fs::write(chart.join("values.yaml"), &values)?;
    let mut helm = Command::new(Tool::HELM.path()?);
    process::output(helm.args(["dependency", "update"]).arg(&chart))?;
    let objects = render(&chart, &values)?;
    is_as_asked(&objects, "umbrella")?;
    let dashboard = objects.get("Deployment/dapr-dashboard")?;
    let image = dashboard.pointer("/spec/template/spec/containers/0/image");
    let image = image.and_then(Value::as_str).unwrap_or_default();
    ensure!(image.starts_with("registry.example.com/trilby/dashboard:"), "{image}");
    objects.get("NetworkPolicy/dapr-dashboard").map(drop)
}
