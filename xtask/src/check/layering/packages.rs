//! Edges between packages. A package uses packages of lower layers only, so a reader can
//! understand each layer without the ones above it.

use std::path::Path;

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// From the bottom up; packages of one layer do not depend on each other.
const LAYERS: [&[&str]; 10] = [
    &["identity", "resources", "proto", "actor-ring"],
    &["runtime"],
    &["kubernetes"],
    &["transport"],
    &["operator", "sidecar-injector", "sentry", "placement", "scheduler", "dashboard"],
    // Its `lint` is the operator's checks and the injector's, as libraries.
    &["daprctl"],
    &["fuzz"],
    &["blackbox"],
    &["bench"],
    &["xtask"],
];

/// Every package may use them, as dev-dependencies only.
const TEST_ONLY: [&str; 2] = ["testkit", "free-port"];

/// Packages that are in no product.
const TESTS: [&str; 3] = ["testkit", "fuzz", "blackbox"];

/// Packages without I/O, and crates that they must not use.
const PURE: [&str; 3] = ["identity", "resources", "actor-ring"];
const IMPURE: [&str; 8] =
    ["tokio", "hyper", "axum", "tonic", "kube-client", "kube-runtime", "clap", "reqwest"];

/// A dependency of one package on another, as its manifest declares it.
#[derive(Debug)]
struct Edge {
    from: String,
    to: String,
    kind: DependencyKind,
}

/// Edges of this workspace that point sideways or up, and impure crates in pure packages.
pub(super) fn offences(root: &Path) -> Result<Vec<String>> {
    let metadata =
        MetadataCommand::new().current_dir(root).no_deps().exec().context("read the workspace")?;
    let mut offences = Vec::new();
    for package in &metadata.packages {
        if layer(&package.name).is_none() && !is_test_only(&package.name) {
            offences.push(format!("{} has no layer: add it to {}", package.name, file!()));
        }
        let edges = package.dependencies.iter().map(|dependency| Edge {
            from: package.name.to_string(),
            to: dependency.name.clone(),
            kind: dependency.kind,
        });
        offences.extend(edges.filter_map(|edge| offence(&edge)));
    }
    Ok(offences)
}

fn offence(edge: &Edge) -> Option<String> {
    let Edge { from, to, kind } = edge;
    if *kind == DependencyKind::Development {
        return None;
    }
    if PURE.contains(&from.as_str()) && IMPURE.contains(&to.as_str()) {
        return Some(format!("{from} is a pure package and cannot depend on {to}"));
    }
    if is_test_only(to) && !TESTS.contains(&from.as_str()) {
        return Some(format!("{from} depends on {to} outside of its tests"));
    }
    let upwards = layer(to)? >= layer(from)?;
    upwards.then(|| format!("{from} must not depend on {to}, which is not in a lower layer"))
}

fn is_test_only(package: &str) -> bool {
    TEST_ONLY.contains(&package)
}

fn layer(package: &str) -> Option<usize> {
    LAYERS.iter().position(|packages| packages.contains(&package))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(from: &str, to: &str, kind: DependencyKind) -> bool {
        offence(&Edge { from: from.to_owned(), to: to.to_owned(), kind }).is_some()
    }

    #[test]
    fn edges_point_down_only() {
        assert!(!is_refused("sentry", "transport", DependencyKind::Normal));
        assert!(is_refused("sentry", "operator", DependencyKind::Normal));
        assert!(is_refused("runtime", "transport", DependencyKind::Normal));
        assert!(is_refused("identity", "resources", DependencyKind::Normal));
        assert!(is_refused("actor-ring", "tokio", DependencyKind::Normal));
        assert!(!is_refused("dashboard", "actor-ring", DependencyKind::Normal));
    }

    #[test]
    fn tests_use_what_they_need_and_products_never_use_testkit() {
        assert!(!is_refused("identity", "tokio", DependencyKind::Development));
        assert!(is_refused("identity", "tokio", DependencyKind::Normal));
        assert!(is_refused("sentry", "testkit", DependencyKind::Normal));
        assert!(is_refused("sentry", "free-port", DependencyKind::Normal));
        assert!(!is_refused("blackbox", "free-port", DependencyKind::Normal));
    }
}
