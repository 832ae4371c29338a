//! The part of a Go program in a bill of materials: what its file says that it was built from.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::process;

/// Adds a program to a bill of materials as one that the described program needs.
///
/// # Errors
/// When the file is no Go program, or there is no Go to read it.
pub(super) fn add(materials: &mut Value, file: &Path, licence: &str) -> Result<()> {
    let said = process::output(Command::new("go").args(["version", "-m"]).arg(file))?;
    append(materials, &said, licence).with_context(|| format!("modules of {}", file.display()))
}

/// Appends what `go version -m` says about one file.
fn append(materials: &mut Value, said: &str, licence: &str) -> Result<()> {
    let standard = said.lines().next().and_then(|line| line.rsplit_once(": go"));
    let (_, standard) = standard.context("no version of Go")?;
    let modules = said.lines().filter_map(module);
    let own = modules.clone().find(|(kind, ..)| *kind == "mod").context("no main module")?;
    let program = purl(own.1, own.2);
    let needed =
        modules.filter(|(kind, ..)| *kind == "dep").map(|(_, name, version)| (name, version));
    let needed: Vec<_> = needed.chain([("stdlib", standard)]).collect();

    let mut own = component("application", own.1, own.2);
    if let Some(parts) = own.as_object_mut() {
        parts.insert("licenses".to_owned(), json!([{"expression": licence}]));
    }
    let libraries = needed.iter().map(|(name, version)| component("library", name, version));
    let ends: Vec<String> = needed.iter().map(|(name, version)| purl(name, version)).collect();
    list(materials, "components")?.extend([own].into_iter().chain(libraries));
    let root = materials.pointer("/metadata/component/bom-ref").cloned();
    let edges = list(materials, "dependencies")?;
    let edge = edges.iter_mut().find(|edge| edge.get("ref") == root.as_ref()).context("no root")?;
    list(edge, "dependsOn")?.push(json!(program));
    edges.push(json!({"ref": program, "dependsOn": ends}));
    Ok(())
}

/// Kind, name and version of a module in a line.
fn module(line: &str) -> Option<(&str, &str, &str)> {
    let mut words = line.trim_start().split('\t');
    Some((words.next()?, words.next()?, words.next()?))
}

fn component(kind: &str, name: &str, version: &str) -> Value {
    let purl = purl(name, version);
    json!({"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl})
}

fn purl(name: &str, version: &str) -> String {
    format!("pkg:golang/{name}@{version}")
}

fn list<'a>(value: &'a mut Value, key: &str) -> Result<&'a mut Vec<Value>> {
    let list = value.get_mut(key).and_then(Value::as_array_mut);
    list.with_context(|| format!("no list {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "/bin/etcd: go1.26.8\n\tpath\tetcd/server\n\tmod\tetcd/server\tv3.5.27\th1:a=\n\
                        \tdep\tgithub.com/a/b\tv1.0.1\th1:b=\n\tbuild\tGOOS=linux\n";

    fn materials() -> Value {
        json!({
            "metadata": {"component": {"bom-ref": "pkg:cargo/scheduler@1"}},
            "components": [],
            "dependencies": [{"ref": "pkg:cargo/scheduler@1", "dependsOn": ["pkg:cargo/x@1"]}],
        })
    }

    #[test]
    fn the_program_its_modules_and_the_standard_library_are_listed() {
        let mut materials = materials();
        append(&mut materials, SAID, "Apache-2.0").unwrap();
        let purls: Vec<_> =
            materials["components"].as_array().unwrap().iter().map(|one| &one["purl"]).collect();
        let [program, module, standard] = [
            "pkg:golang/etcd/server@v3.5.27",
            "pkg:golang/github.com/a/b@v1.0.1",
            "pkg:golang/stdlib@1.26.8",
        ];
        assert_eq!(purls, [program, module, standard]);
        assert_eq!(materials["components"][0]["licenses"][0]["expression"], "Apache-2.0");
        let want = json!([
            {"ref": "pkg:cargo/scheduler@1", "dependsOn": ["pkg:cargo/x@1", program]},
            {"ref": program, "dependsOn": [module, standard]},
        ]);
        assert_eq!(materials["dependencies"], want);
    }

    #[test]
    fn a_file_that_says_nothing_is_an_error() {
        assert!(append(&mut materials(), "/bin/sh: not a Go executable\n", "").is_err());
    }
}
