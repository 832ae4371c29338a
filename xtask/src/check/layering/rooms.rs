//! Imports between the top-level modules of a package. They form no circle, and none takes an item
//! from the crate's root, which wires the modules together and therefore sits above all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::paths::SourceFile;

/// For each module those that it imports from, with the place of the first import.
type Imports<'a> = BTreeMap<&'a str, BTreeMap<&'a str, String>>;

/// Violations in the sources of one package.
pub(super) fn offences(files: &[SourceFile]) -> Vec<String> {
    let Some(root) = files.iter().find(|file| file.name.ends_with("/src/lib.rs")) else {
        return Vec::new();
    };
    let modules: BTreeSet<&str> = root.modules.iter().map(String::as_str).collect();
    let mut imports = Imports::new();
    let mut offences = Vec::new();
    for file in files {
        let Some(module) = module_of(&file.name) else { continue };
        for path in file.paths.iter().filter(|path| path.is_below("crate")) {
            let Some(used) = path.segments.get(1).map(String::as_str) else { continue };
            let place = format!("{}:{}", file.name, path.line);
            if !modules.contains(used) {
                offences.push(format!(
                    "{place} takes {used} from the crate's root, which is above {module}"
                ));
            } else if used != module {
                imports.entry(module).or_default().entry(used).or_insert(place);
            }
        }
    }
    offences.extend(circles(&imports));
    offences
}

/// The top-level module that a file belongs to; none for `lib.rs` and `main.rs`.
fn module_of(file: &str) -> Option<&str> {
    let (_, inside) = file.split_once("/src/")?;
    let module = inside.split('/').next()?.trim_end_matches(".rs");
    (!matches!(module, "lib" | "main")).then_some(module)
}

/// One line for each pair of modules that reach each other.
fn circles(imports: &Imports<'_>) -> Vec<String> {
    let mut offences = Vec::new();
    for (module, used) in imports {
        for (other, place) in used {
            if reaches(imports, other, module) {
                offences.push(format!("{place}: {module} and {other} import each other"));
            }
        }
    }
    offences
}

/// Whether imports lead from one module to another.
fn reaches(imports: &Imports<'_>, from: &str, to: &str) -> bool {
    let (mut seen, mut queue) = (BTreeSet::new(), vec![from]);
    while let Some(module) = queue.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            queue.extend(imports.get(module).into_iter().flat_map(BTreeMap::keys));
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
}
