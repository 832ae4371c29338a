//! A software bill of materials of each service: every package of others that is in the program,
//! in `CycloneDX`'s JSON. The same sources give the same bytes: no date, no serial number.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    Service,
    architecture::Architecture,
    cargo_metadata::{self, list, text},
    environment,
};

/// Where it is in an image; scanners look for files of that ending.
pub fn path_in_image(service: Service) -> String {
    format!("/usr/share/sbom/{}.cdx.json", service.binary())
}

/// The bill of materials of a service.
///
/// # Errors
/// When cargo does not know the packages.
pub fn of(service: Service, architecture: Architecture) -> Result<Value> {
    let metadata =
        cargo_metadata::read(&["--locked", "--filter-platform", &architecture.target()])?;
    let lock = fs::read_to_string(environment::workspace().join("Cargo.lock"))?;
    materials(&metadata, &checksums(&lock), service.package(), service.binary())
        .with_context(|| format!("bill of materials of {}", service.binary()))
}

/// SHA-256 of the package files, by name and version.
fn checksums(lock: &str) -> BTreeMap<(&str, &str), &str> {
    let entry = |package| {
        Some(((field(package, "name")?, field(package, "version")?), field(package, "checksum")?))
    };
    lock.split("[[package]]").filter_map(entry).collect()
}

/// The value of a line `key = "value"`.
fn field<'a>(package: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = package.lines().filter_map(|line| line.split_once(" = "));
    lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim_matches('"'))
}

/// The `CycloneDX` document of what `package` needs at run time.
fn materials(
    metadata: &Value,
    checksums: &BTreeMap<(&str, &str), &str>,
    package: &str,
    program: &str,
) -> Result<Value> {
    let packages: BTreeMap<&str, &Value> =
        list(metadata, "packages").map(|package| (text(package, "id"), package)).collect();
    let resolve = metadata.get("resolve").context("nothing is resolved")?;
    let nodes: BTreeMap<&str, &Value> =
        list(resolve, "nodes").map(|node| (text(node, "id"), node)).collect();
    let root = packages.values().find(|one| text(one, "name") == package && is_ours(one));
    let root = text(root.with_context(|| format!("no package {package}"))?, "id");

    let mut needed = BTreeSet::from([root]);
    let mut waiting = vec![root];
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while let Some(id) = waiting.pop() {
        let user = packages.get(id).with_context(|| format!("no package {id}"))?;
        let node = nodes.get(id).with_context(|| format!("{id} is not resolved"))?;
        let needs = edges.entry(reference(user)).or_default();
        for used in list(node, "deps").filter(|edge| is_normal(edge)).map(|edge| text(edge, "pkg"))
        {
            let package = packages.get(used).with_context(|| format!("no package {used}"))?;
            if is_macro(package) {
                continue; // runs in the compiler, and is not in the program
            }
            needs.insert(reference(package));
            if needed.insert(used) {
                waiting.push(used);
            }
        }
    }
    let others = needed.iter().filter(|id| **id != root).filter_map(|id| packages.get(id));
    let mut components: Vec<Value> = others.map(|one| component(one, checksums)).collect();
    components.sort_by(|a, b| text(a, "bom-ref").cmp(text(b, "bom-ref")));
    let root = packages.get(root).context("no root")?;
    let edge = |(user, uses): (&String, &BTreeSet<String>)| json!({"ref": user, "dependsOn": uses});
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": {
            "type": "application", "bom-ref": reference(root), "name": program,
            "version": text(root, "version"), "licenses": licences(root),
        }},
        "components": components,
        "dependencies": edges.iter().map(edge).collect::<Vec<_>>(),
    }))
}

fn component(package: &Value, checksums: &BTreeMap<(&str, &str), &str>) -> Value {
    let (name, version) = (text(package, "name"), text(package, "version"));
    let mut component = json!({
        "type": "library", "bom-ref": reference(package), "name": name, "version": version,
        "purl": reference(package), "licenses": licences(package),
    });
    if let (Some(parts), Some(hash)) = (component.as_object_mut(), checksums.get(&(name, version)))
    {
        parts.insert("hashes".to_owned(), json!([{"alg": "SHA-256", "content": hash}]));
    }
    component
}

fn licences(package: &Value) -> Value {
    // Cargo once took `/` for "or".
    json!([{"expression": text(package, "license").replace('/', " OR ")}])
}

fn reference(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", text(package, "name"), text(package, "version"))
}

/// A dependency of the program, not of its tests or build script.
fn is_normal(edge: &Value) -> bool {
    list(edge, "dep_kinds").any(|kind| kind.get("kind").is_some_and(Value::is_null))
}

fn is_macro(package: &Value) -> bool {
    list(package, "targets")
        .any(|target| list(target, "kind").any(|kind| kind.as_str() == Some("proc-macro")))
}

fn is_ours(package: &Value) -> bool {
    package.get("source").is_none_or(Value::is_null)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bom: &Value) -> BTreeSet<&str> {
        list(bom, "components").map(|component| text(component, "name")).collect()
    }

    #[test]
    fn lists_what_is_in_the_program_and_nothing_of_build_or_tests() {
        for service in Service::ALL {
            let bom = of(service, Architecture::Amd64).unwrap();
            let names = names(&bom);
            for inside in ["runtime", "rustls", "aws-lc-rs", "tokio"] {
                assert!(names.contains(inside), "{inside} is missing in {}", service.binary());
            }
            for outside in ["protox", "rstest", "testkit", "serde_derive", "clap_derive"] {
                assert!(!names.contains(outside), "{outside} is not in {}", service.binary());
            }
        }
        let sentry = of(Service::Sentry, Architecture::Amd64).unwrap();
        assert!(!names(&sentry).contains("openraft"), "placement's is not sentry's");
    }

    #[test]
    fn every_package_of_others_has_licence_and_checksum_and_every_edge_two_ends() {
        let bom = of(Service::Operator, Architecture::Arm64).unwrap();
        let mut known = BTreeSet::from([text(&bom["metadata"]["component"], "bom-ref")]);
        for component in list(&bom, "components") {
            assert_ne!(component["licenses"][0]["expression"], "", "{component}");
            let ours = text(component, "version") == env!("CARGO_PKG_VERSION")
                && component.get("hashes").is_none();
            assert!(ours || text(&component["hashes"][0], "content").len() == 64, "{component}");
            known.insert(text(component, "bom-ref"));
        }
        for edge in list(&bom, "dependencies") {
            let ends = list(edge, "dependsOn").filter_map(Value::as_str);
            for end in ends.chain([text(edge, "ref")]) {
                assert!(known.contains(end), "{end} is no component");
            }
        }
    }

    #[test]
    fn the_same_sources_give_the_same_bytes() {
        let text = || of(Service::Sentry, Architecture::Amd64).unwrap().to_string();
        assert_eq!(text(), text());
    }
}
