//! Imports between the modules of a package. Those that stand side by side, in the crate's root or in one
//! folder, form no circle, and none takes an item from the crate's root, which wires the modules
//! together and therefore sits above all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::{NamedPath, SourceFile};

/// A module by its names from the crate's root: `["ca", "store"]`; empty for the root.
type Module = Vec<String>;
/// For each module those beside it that it imports from, with the place of the first import.
type Imports = BTreeMap<Module, BTreeMap<Module, String>>;

/// Violations in the sources of one package.
pub(super) fn offences(files: &[SourceFile]) -> Vec<String> {
    let modules: BTreeSet<Module> = files.iter().flat_map(declared).collect();
    let mut imports = Imports::new();
    let mut offences = Vec::new();
    for file in files {
        let Some(module) = module_of(&file.name).filter(|module| !module.is_empty()) else {
            continue;
        };
        for path in &file.paths {
            let Some(used) = absolute(&module, path) else { continue };
            let place = format!("{}:{}", file.name, path.line);
            let (Some(top), Some(item)) = (module.first(), used.get(..1)) else { continue };
            if !modules.contains(item) {
                let item = item.concat();
                offences.push(format!(
                    "{place} takes {item} from the crate's root, which is above {top}"
                ));
            } else if let Some((from, to)) = side_by_side(&module, &used)
                && modules.contains(to)
            {
                let used = imports.entry(from.to_vec()).or_default();
                used.entry(to.to_vec()).or_insert(place);
            }
        }
    }
    offences.extend(circles(&imports));
    offences
}

/// The module that a file is, and those that it declares.
fn declared(file: &SourceFile) -> Vec<Module> {
    let Some(module) = module_of(&file.name) else { return Vec::new() };
    let inside =
        file.modules.iter().map(|name| [module.as_slice(), std::slice::from_ref(name)].concat());
    inside.chain([module.clone()]).collect()
}

/// The module that a file is; the root for `lib.rs` and `main.rs`.
fn module_of(file: &str) -> Option<Module> {
    let (_, inside) = file.split_once("/src/")?;
    let names: Module = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    let is_root = matches!(names.as_slice(), [name] if name == "lib" || name == "main");
    Some(if is_root { Module::new() } else { names })
}

/// A path of this crate from its root. `None` for paths of other crates, and for those without
/// `crate`, `self` or `super`, which name a module below this one.
fn absolute(module: &[String], path: &NamedPath) -> Option<Module> {
    let (first, mut rest) = path.segments.split_first()?;
    let mut base = match first.as_str() {
        "crate" => &[],
        "self" => module,
        "super" => module.split_last()?.1,
        _ => return None,
    };
    while let Some(("super", more)) = rest.split_first().map(|(name, more)| (name.as_str(), more)) {
        (base, rest) = (base.split_last()?.1, more);
    }
    Some([base, rest].concat())
}

/// The ancestors of two modules that stand side by side; `None` if one module is in the other.
fn side_by_side<'a>(
    one: &'a [String],
    other: &'a [String],
) -> Option<(&'a [String], &'a [String])> {
    let shared = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    Some((one.get(..=shared)?, other.get(..=shared)?))
}

/// One line for each pair of modules that reach each other.
fn circles(imports: &Imports) -> Vec<String> {
    let mut offences = Vec::new();
    for (module, used) in imports {
        for (other, place) in used {
            if reaches(imports, other, module) {
                let (module, other) = (module.join("::"), other.join("::"));
                offences.push(format!("{place}: {module} and {other} import each other"));
            }
        }
    }
    offences
}

/// Whether imports lead from one module to another.
fn reaches(imports: &Imports, from: &[String], to: &[String]) -> bool {
    let (mut seen, mut queue) = (BTreeSet::new(), vec![from]);
    while let Some(module) = queue.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            let used = imports.get(module).into_iter().flat_map(BTreeMap::keys);
            queue.extend(used.map(Vec::as_slice));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let parse = |(name, text): &(&str, &str)| {
            SourceFile::parse(&format!("sentry/src/{name}"), text).unwrap()
        };
        offences(&files.iter().map(parse).collect::<Vec<_>>())
    }

    const ROOT: (&str, &str) = ("lib.rs", "mod ca; mod server; mod queue; pub fn run() {}");

    #[test]
    fn an_import_that_points_down_is_fine() {
        let server = ("server.rs", "use crate::{ca::Issuer, queue::FairQueue};");
        assert!(found(&[ROOT, server, ("ca/issue.rs", "use crate::ca::Issuer;")]).is_empty());
    }

    #[test]
    fn an_import_that_points_up_is_found() {
        let server = ("server.rs", "use crate::ca::Issuer;");
        let up = found(&[ROOT, server, ("ca/issue.rs", "fn f(_: &crate::server::Request) {}")]);
        assert_eq!(up.len(), 2, "{up:?}");
        let root = found(&[ROOT, ("ca.rs", "use crate::run;")]);
        assert_eq!(root, ["sentry/src/ca.rs:1 takes run from the crate's root, which is above ca"]);
    }

    #[test]
    fn a_circle_of_three_is_found() {
        let circle = [
            ROOT,
            ("ca.rs", "use crate::queue::A;"),
            ("queue.rs", "use crate::server::B;"),
            ("server.rs", "use crate::ca::C;"),
        ];
        assert_eq!(found(&circle).len(), 3);
    }

    #[test]
    fn a_circle_inside_a_folder_is_found() {
        let folder = ("ca.rs", "mod files; mod store; pub struct Ca;");
        let files = ("ca/files.rs", "use super::{Ca, store::StoreError};");
        let below = [ROOT, folder, files, ("ca/store.rs", "use super::Ca;")];
        assert!(found(&below).is_empty(), "an item of the folder's own file is no circle");
        let deep = ("ca/store/read.rs", "fn f(_: crate::ca::files::File, _: super::super::Ca) {}");
        let circle = [ROOT, folder, files, ("ca/store.rs", "mod read;"), deep];
        let expected = [
            "sentry/src/ca/files.rs:1: ca::files and ca::store import each other",
            "sentry/src/ca/store/read.rs:1: ca::store and ca::files import each other",
        ];
        assert_eq!(found(&circle), expected);
    }
}
