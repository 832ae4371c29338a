//! Who may depend on whom. A package may use packages of lower layers only, so a reader can
//! understand each layer without the ones above it.
//!
//! `tests, xtask -> services -> transport -> kubernetes -> runtime -> identity, resources, proto`

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use blackbox::cargo_metadata::{self, list, text};
use serde_json::Value;

/// From the bottom up; packages of one layer do not know each other.
const LAYERS: [&[&str]; 8] = [
    &["identity", "resources", "proto"],
    &["runtime"],
    &["kubernetes"],
    &["transport"],
    &["operator", "sidecar-injector", "sentry", "placement", "scheduler", "daprctl"],
    &["blackbox"],
    &["bench"],
    &["xtask"],
];

/// May be used by everybody, as a dev-dependency alone.
const TEST_ONLY: &str = "testkit";

/// Crates that the pure packages must not see.
const IMPURE: [&str; 8] =
    ["tokio", "hyper", "axum", "tonic", "kube-client", "kube-runtime", "clap", "reqwest"];
const PURE: [&str; 2] = ["identity", "resources"];

/// A piece of source text that belongs into some files only.
struct Confined {
    text: &'static str,
    allowed: fn(&str) -> bool,
    why: &'static str,
}

const CONFINED: [Confined; 3] = [
    Confined {
        text: "kube::Client",
        allowed: |file| {
            file.ends_with("cluster.rs")
                || file.contains("/cluster/")
                || file.starts_with("crates/kubernetes/")
        },
        why: "calls to the API server live in cluster.rs and the folder cluster",
    },
    Confined {
        text: "rustls::",
        allowed: |file| {
            file.starts_with("crates/transport/")
                || file == "crates/runtime/src/process.rs"
                || file == "crates/kubernetes/src/client/connection.rs"
        },
        why: "TLS lives in transport, that of the API server in kubernetes",
    },
    Confined {
        text: "std::env::var(",
        allowed: |file| file == "crates/runtime/src/environment.rs",
        why: "the environment is read in runtime",
    },
];

/// Fails on the first list of offences, all named.
pub(crate) fn check(root: &Path) -> Result<()> {
    let mut offences = edges(&cargo_metadata::read(&["--no-deps"])?);
    for folder in
        ["crates", "operator", "sidecar-injector", "sentry", "placement", "scheduler", "daprctl"]
    {
        scan(root, &root.join(folder), &mut offences)?;
    }
    ensure!(offences.is_empty(), "layering:\n  {}", offences.join("\n  "));
    Ok(())
}

/// Edges between our packages that point sideways or up, and impure crates in pure packages.
fn edges(metadata: &Value) -> Vec<String> {
    let mut offences = Vec::new();
    for package in list(metadata, "packages") {
        let from = text(package, "name");
        for dependency in list(package, "dependencies") {
            let (to, kind) = (text(dependency, "name"), text(dependency, "kind"));
            if kind == "dev" {
                continue;
            }
            if PURE.contains(&from) && IMPURE.contains(&to) {
                offences.push(format!("{from} must stay pure and cannot use {to}"));
            }
            if to == TEST_ONLY {
                offences.push(format!("{from} uses {to} outside of its tests"));
            }
            if let (Some(user), Some(used)) = (layer(from), layer(to))
                && used >= user
            {
                offences.push(format!("{from} must not depend on {to}"));
            }
        }
        if layer(from).is_none() && from != TEST_ONLY {
            offences.push(format!("{from} has no layer: add it to xtask/src/layering.rs"));
        }
    }
    offences
}

fn layer(package: &str) -> Option<usize> {
    LAYERS.iter().position(|packages| packages.contains(&package))
}

/// Looks for confined text in the source files below `folder`.
fn scan(root: &Path, folder: &Path, offences: &mut Vec<String>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "tests" && name != "target") {
                scan(root, &path, offences)?;
            }
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let file = path.strip_prefix(root)?.to_string_lossy().into_owned();
        let source = std::fs::read_to_string(&path)?;
        // Tests at the foot of a file may do as they need.
        let source = source.split("#[cfg(test)]").next().unwrap_or_default();
        for rule in &CONFINED {
            if source.contains(rule.text) && !(rule.allowed)(&file) {
                offences.push(format!("{file} uses {}: {}", rule.text, rule.why));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn offences_of(from: &str, to: &str, kind: &Value) -> Vec<String> {
        let dependency = json!({"name": to, "kind": kind});
        edges(&json!({"packages": [{"name": from, "dependencies": [dependency]}]}))
    }

    #[test]
    fn edges_point_down_only() {
        assert!(offences_of("sentry", "transport", &Value::Null).is_empty());
        assert_eq!(offences_of("sentry", "operator", &Value::Null).len(), 1);
        assert_eq!(offences_of("runtime", "transport", &Value::Null).len(), 1);
        assert_eq!(offences_of("identity", "resources", &Value::Null).len(), 1);
    }

    #[test]
    fn tests_may_use_what_they_need_and_products_may_not_use_tests() {
        assert!(offences_of("identity", "tokio", &json!("dev")).is_empty());
        assert_eq!(offences_of("identity", "tokio", &Value::Null).len(), 1);
        assert_eq!(offences_of("sentry", "testkit", &Value::Null).len(), 1);
    }
}
