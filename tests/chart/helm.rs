//! Rendering with the real Helm, and access to the result.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use blackbox::{Tool, environment, process};
use serde_json::Value;

/// The namespace of every rendering.
pub(crate) const NAMESPACE: &str = "dapr-system";

/// The setting without default.
pub(crate) const REGISTRY: &str = "global.controlPlane.registry=registry.example/trilby";

/// The folder of the chart.
pub(crate) fn folder() -> PathBuf {
    environment::workspace().join("charts/dapr")
}

/// `helm template` with those `--set` and nothing else.
pub(crate) fn template(sets: &[&str]) -> Result<String> {
    template_with(sets, &[])
}

/// `helm template` with those `--set` and further arguments.
pub(crate) fn template_with(sets: &[&str], args: &[&str]) -> Result<String> {
    let mut helm = Command::new(Tool::HELM.path()?);
    helm.arg("template").arg("dapr").arg(folder()).args(["--namespace", NAMESPACE]);
    for set in sets {
        helm.args(["--set", set]);
    }
    process::output(helm.args(args))
}

/// The objects of a rendering, by `Kind/name`.
#[derive(Debug)]
pub(crate) struct Objects(pub(crate) BTreeMap<String, Value>);

impl Objects {
    /// Renders with a registry and those `--set`.
    pub(crate) fn render(sets: &[&str]) -> Result<Self> {
        let mut all = vec![REGISTRY];
        all.extend(sets);
        Self::parse(&template(&all)?)
    }

    /// Reads the output of `helm template`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).context("no YAML")?;
        let mut objects = BTreeMap::new();
        for object in documents.into_iter().filter(|document| !document.is_null()) {
            let part = |pointer| object.pointer(pointer).and_then(Value::as_str);
            let kind = part("/kind").context("an object without kind")?;
            let name = part("/metadata/name").context("an object without name")?;
            let key = format!("{kind}/{name}");
            anyhow::ensure!(!objects.contains_key(&key), "{key} is rendered twice");
            objects.insert(key, object);
        }
        Ok(Self(objects))
    }

    /// One object by `Kind/name`.
    pub(crate) fn get(&self, key: &str) -> Result<&Value> {
        self.0.get(key).with_context(|| format!("{key} is not rendered"))
    }

    /// The pod template's spec of a workload.
    pub(crate) fn pod(&self, key: &str) -> Result<&Value> {
        self.get(key)?.pointer("/spec/template/spec").with_context(|| format!("{key}: no pod"))
    }

    /// Container 0 of a workload: the one that the CLI takes for the service.
    pub(crate) fn container(&self, key: &str) -> Result<&Value> {
        self.pod(key)?.pointer("/containers/0").with_context(|| format!("{key}: no container"))
    }

    /// The value of an environment variable of container 0.
    pub(crate) fn env(&self, key: &str, name: &str) -> Result<Option<String>> {
        let env = self.container(key)?.get("env").and_then(Value::as_array);
        let entry = env.into_iter().flatten().find(|entry| entry["name"] == name);
        Ok(entry.and_then(|entry| entry["value"].as_str().map(str::to_owned)))
    }

    /// Arguments of container 0.
    pub(crate) fn args(&self, key: &str) -> Result<Vec<String>> {
        let args = self.container(key)?.get("args").and_then(Value::as_array);
        Ok(args.into_iter().flatten().filter_map(|arg| arg.as_str().map(str::to_owned)).collect())
    }

    /// The differences of `other`, one line for each path.
    pub(crate) fn changes_to(&self, other: &Self) -> String {
        let mut lines = Vec::new();
        for (key, old) in &self.0 {
            match other.0.get(key) {
                Some(new) => changes(old, new, key, &mut lines),
                None => lines.push(format!("- {key}")),
            }
        }
        for (key, new) in &other.0 {
            if !self.0.contains_key(key) {
                lines.push(format!("+ {key}: {}", without_labels(new)));
            }
        }
        lines.join("\n")
    }
}

/// Labels are the same on every object; a new object is shown without them.
fn without_labels(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("labels");
    }
    object
}

fn changes(old: &Value, new: &Value, path: &str, lines: &mut Vec<String>) {
    match (old, new) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let missing = Value::Null;
                let now = after.get(key).unwrap_or(&missing);
                changes(value, now, &format!("{path}/{key}"), lines);
            }
            for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                lines.push(format!("{path}/{key}: + {value}"));
            }
        }
        _ if old == new => {}
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (was, is)) in before.iter().zip(after).enumerate() {
                changes(was, is, &format!("{path}/{index}"), lines);
            }
        }
        _ => lines.push(format!("{path}: {old} -> {new}")),
    }
}
