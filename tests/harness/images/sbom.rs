//! A software bill of materials of each service: every third-party package in the program,
//! in `CycloneDX`'s JSON. The same sources give the same bytes: no date, no serial number.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result};
use cargo_metadata::{
    DependencyKind, Metadata, MetadataCommand, Node, NodeDep, Package, PackageId, TargetKind,
};
use serde_json::{Value, json};

use super::go_materials;
use crate::{Architecture, Service, Tool, environment};

/// Its path in an image; scanners look for files with this extension.
pub fn path_in_image(program: &str) -> String {
    format!("/usr/share/sbom/{program}.cdx.json")
}

/// The bill of materials of a service alone.
///
/// # Errors
/// When `cargo metadata` fails.
pub fn of(service: Service, architecture: Architecture) -> Result<Value> {
    of_program(service.package(), service.binary(), architecture)
}

/// The bill of materials of a service's image: the scheduler's has the etcd that it runs.
///
/// # Errors
/// As [`of`], and when etcd cannot be built.
pub fn of_image(service: Service, architecture: Architecture) -> Result<Value> {
    let mut materials = of(service, architecture)?;
    if service == Service::Scheduler {
        let etcd = Tool::ETCD_3_5.path_for(architecture)?;
        go_materials::add(&mut materials, &etcd, "Apache-2.0")?;
    }
    Ok(materials)
}

/// The bill of materials of any of our programs.
///
/// # Errors
/// As [`of`].
pub fn of_program(package: &str, program: &str, architecture: Architecture) -> Result<Value> {
    let platform = ["--locked", "--filter-platform", &architecture.target()].map(str::to_owned);
    let metadata = MetadataCommand::new()
        .current_dir(environment::workspace())
        .other_options(platform)
        .exec()
        .context("read the packages of the workspace")?;
    let lock = fs::read_to_string(environment::workspace().join("Cargo.lock"))?;
    materials(&metadata, &checksums(&lock), package, program)
        .with_context(|| format!("bill of materials of {program}"))
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

/// The `CycloneDX` document of the run-time dependencies of `package`.
fn materials(
    metadata: &Metadata,
    checksums: &BTreeMap<(&str, &str), &str>,
    package: &str,
    program: &str,
) -> Result<Value> {
    let packages: BTreeMap<&PackageId, &Package> =
        metadata.packages.iter().map(|package| (&package.id, package)).collect();
    let resolve = metadata.resolve.as_ref().context("cargo resolved nothing")?;
    let nodes: BTreeMap<&PackageId, &Node> =
        resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let root = packages.values().find(|one| one.name == package && one.source.is_none());
    let root = root.with_context(|| format!("no package {package}"))?;

    let mut needed = BTreeSet::from([&root.id]);
    let mut queue = vec![&root.id];
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while let Some(id) = queue.pop() {
        let user = packages.get(id).with_context(|| format!("no package {id}"))?;
        let node = nodes.get(id).with_context(|| format!("{id} is not resolved"))?;
        let needs = edges.entry(reference(user)).or_default();
        for dependency in node.deps.iter().filter(|dependency| is_normal(dependency)) {
            let id = &dependency.pkg;
            let package = packages.get(id).with_context(|| format!("no package {id}"))?;
            if is_macro(package) {
                continue; // runs in the compiler only
            }
            needs.insert(reference(package));
            if needed.insert(id) {
                queue.push(id);
            }
        }
    }
    let others = needed.iter().filter(|id| **id != &root.id).filter_map(|id| packages.get(*id));
    let mut components: Vec<(String, Value)> =
        others.map(|one| (reference(one), component(one, checksums))).collect();
    components.sort_by(|(a, _), (b, _)| a.cmp(b));
    let components: Vec<Value> = components.into_iter().map(|(_, component)| component).collect();
    let edge = |(user, uses): (&String, &BTreeSet<String>)| json!({"ref": user, "dependsOn": uses});
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": {
            "type": "application", "bom-ref": reference(root), "name": program,
            "version": root.version, "licenses": licences(root),
        }},
        "components": components,
        "dependencies": edges.iter().map(edge).collect::<Vec<_>>(),
    }))
}

fn component(package: &Package, checksums: &BTreeMap<(&str, &str), &str>) -> Value {
    let version = package.version.to_string();
    let mut component = json!({
        "type": "library", "bom-ref": reference(package), "name": package.name,
        "version": version, "purl": reference(package), "licenses": licences(package),
    });
    let hash = checksums.get(&(package.name.as_str(), version.as_str()));
    if let (Some(parts), Some(hash)) = (component.as_object_mut(), hash) {
        parts.insert("hashes".to_owned(), json!([{"alg": "SHA-256", "content": hash}]));
    }
    component
}

fn licences(package: &Package) -> Value {
    // Cargo once took `/` for "or".
    let expression = package.license.as_deref().unwrap_or_default().replace('/', " OR ");
    json!([{"expression": expression}])
}

fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// Whether it is a dependency of the program, not of its tests or build script.
fn is_normal(dependency: &NodeDep) -> bool {
    dependency.dep_kinds.iter().any(|kind| kind.kind == DependencyKind::Normal)
}

fn is_macro(package: &Package) -> bool {
    package.targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The items of a member; none when it is no list.
    fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
        value.get(key).and_then(Value::as_array).into_iter().flatten()
    }

    /// The text of a member; empty when it is none.
    fn text<'a>(value: &'a Value, key: &str) -> &'a str {
        value.get(key).and_then(Value::as_str).unwrap_or_default()
    }

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
