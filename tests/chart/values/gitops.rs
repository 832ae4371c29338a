//! Without Helm: rendered objects that are applied repeatedly, and the programs of the hooks.
#![expect(clippy::indexing_slicing, reason = "indexing a JSON value yields null, no panic")]

use anyhow::{Context as _, Result, ensure};
use blackbox::accounts::kubeconfig;
use blackbox::{Scratch, apply_crds};
use serde_json::Value;

use crate::helm::{NAMESPACE, REGISTRY, template};
use crate::rights::Installed;

/// Kind, name and version of everything that the chart renders.
fn versions(installed: &Installed) -> Result<Vec<String>> {
    let get = ["get", "-o", "json", "-f", "-"];
    let list = installed.api.cluster().kubectl_with_input(&get, &installed.manifests)?;
    let list: Value = serde_json::from_str(&list)?;
    let items = list["items"].as_array().context("no list")?;
    let crds = installed.api.get(&["crd"])?;
    let crds = crds["items"].as_array().cloned().unwrap_or_default();
    // Controllers change the status of workloads.
    let version = |object: &Value| {
        let metadata = &object["metadata"];
        let changed = metadata["generation"].as_i64();
        let version = metadata["resourceVersion"].as_str();
        let version = if changed.is_some() { None } else { version };
        format!("{}/{} {changed:?} {version:?}", object["kind"], metadata["name"])
    };
    Ok(items.iter().chain(&crds).map(version).collect())
}

#[test]
fn a_repeated_apply_changes_nothing_and_has_no_conflict() -> Result<()> {
    let installed = Installed::new(&[])?;
    let services = installed.start_services()?;
    installed.wait_for_what_is_written()?;
    let before = versions(&installed)?;
    ensure!(before.len() > 50, "only {} objects", before.len());
    installed.apply_crds().context("apply the definitions again")?;
    installed.apply().context("apply the rest again")?;
    assert_eq!(versions(&installed)?, before);

    the_crd_hook_restores_the_definitions(&installed)?;
    drop(services);
    Ok(())
}

/// The hook's program with the hook's rights, while the operator runs.
fn the_crd_hook_restores_the_definitions(installed: &Installed) -> Result<()> {
    let api = &installed.api;
    let rendered = template(&[REGISTRY])?;
    let rights: Vec<&str> = rendered
        .split("\n---\n")
        .filter(|document| document.contains("name: dapr-crds") && !document.contains("kind: Job"))
        .collect();
    ensure!(rights.len() == 5, "account, two roles and bindings, not {}", rights.len());
    api.apply(&rights.join("\n---\n"))?;

    let name = "workflowaccesspolicies.dapr.io";
    api.kubectl(&["delete", "crd", name])?;
    let gone = r#"[{"op": "remove", "path": "/metadata/labels"}]"#;
    api.kubectl(&["patch", "crd", "components.dapr.io", "--type=json", "-p", gone])?;
    let conversion = || -> Result<Value> {
        let crd = api.get(&["crd", "subscriptions.dapr.io"])?;
        Ok(crd["spec"]["conversion"]["webhook"]["clientConfig"].clone())
    };
    let before = conversion()?;

    let scratch = Scratch::new("crds")?;
    let way = kubeconfig(api, &scratch, "kubeconfig", "dapr-crds")?;
    let (log, success) = apply_crds(&way, NAMESPACE)?;
    ensure!(success, "apply-crds failed: {log}");
    api.get(&["crd", name])?;
    let components = api.get(&["crd", "components.dapr.io"])?;
    assert_eq!(components["metadata"]["labels"]["app.kubernetes.io/part-of"], "dapr");
    assert_eq!(conversion()?, before, "conversion must stay configured");
    Ok(())
}
