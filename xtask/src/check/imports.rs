//! Imports: one `use` for each module, in three groups: std, other crates, this crate.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use syn::{Item, ItemUse, UseTree};

use super::docs::each_source;

/// Crates of the standard library.
const STANDARD: [&str; 3] = ["std", "core", "alloc"];
/// Beginnings of paths in the same crate.
const OWN: [&str; 3] = ["crate", "super", "self"];

/// Fails with each import that does not fit.
///
/// # Errors
/// When there is one, or a source file cannot be read or parsed.
pub(crate) fn check(root: &Path, folders: impl Iterator<Item = &'static str>) -> Result<()> {
    let mut found = Vec::new();
    each_source(root, folders, &mut |name, text| {
        let parsed = syn::parse_file(text).with_context(|| format!("parse {name}"))?;
        found.extend(offences_of(&parsed.items).into_iter().map(|why| format!("{name}: {why}")));
        Ok(())
    })?;
    ensure!(found.is_empty(), "imports:\n  {}", found.join("\n  "));
    Ok(())
}

/// What is wrong with the imports of a module, and of the modules in it.
fn offences_of(items: &[Item]) -> Vec<String> {
    let mut found = Vec::new();
    let own: BTreeSet<_> = items.iter().filter_map(declared).collect();
    let (mut last, mut before) = (Group::Standard, String::new());
    for item in items {
        match item {
            Item::Use(import) => {
                let root = root_of(&import.tree);
                if is_nested(&import.tree) {
                    found
                        .push(format!("one `use` of {root} is of several modules: write one each"));
                }
                if stands_anywhere(import, &root) {
                    continue;
                }
                let group = if own.contains(&root) { Group::Own } else { group_of(&root) };
                if group < last {
                    found.push(format!("`use` of {root} after that of {before}"));
                }
                (last, before) = (group.max(last), root);
            }
            Item::Mod(inner) => {
                let inner = inner.content.iter().flat_map(|(_, items)| offences_of(items));
                found.extend(inner);
            }
            _ => {}
        }
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    Standard,
    Others,
    Own,
}

/// A public `use` exports, and one of the variants of an enum is about that enum.
fn stands_anywhere(import: &ItemUse, root: &str) -> bool {
    let is_private = matches!(import.vis, syn::Visibility::Inherited);
    !is_private || root.starts_with(|first: char| first.is_uppercase())
}

fn group_of(root: &str) -> Group {
    if OWN.contains(&root) {
        Group::Own
    } else if STANDARD.contains(&root) {
        Group::Standard
    } else {
        Group::Others
    }
}

/// The module or the type that an item declares.
fn declared(item: &Item) -> Option<String> {
    match item {
        Item::Mod(item) => Some(item.ident.to_string()),
        Item::Enum(item) => Some(item.ident.to_string()),
        _ => None,
    }
}

fn root_of(tree: &UseTree) -> String {
    match tree {
        UseTree::Path(path) => path.ident.to_string(),
        UseTree::Name(name) => name.ident.to_string(),
        UseTree::Rename(rename) => rename.ident.to_string(),
        UseTree::Glob(_) | UseTree::Group(_) => String::new(),
    }
}

/// Whether braces hold a path.
fn is_nested(tree: &UseTree) -> bool {
    match tree {
        UseTree::Path(path) => is_nested(&path.tree),
        UseTree::Group(group) => {
            group.items.iter().any(|item| matches!(item, UseTree::Path(_) | UseTree::Group(_)))
        }
        UseTree::Name(_) | UseTree::Rename(_) | UseTree::Glob(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offences(text: &str) -> usize {
        offences_of(&syn::parse_file(text).unwrap().items).len()
    }

    #[test]
    fn imports_in_three_groups_fit() {
        let text = "mod own;\nuse std::sync::Arc;\nuse anyhow::{Result, ensure};\nuse crate::a;\n\
            use own::Own;\npub use other::Thing;\nuse Kind::{A, B};\nenum Kind { A, B }";
        assert_eq!(offences(text), 0);
    }

    #[test]
    fn one_use_of_several_modules_is_found() {
        assert_eq!(offences("use std::{fmt, sync::Arc};"), 1);
        assert_eq!(offences("mod tests { use a::{b::C, D}; }"), 1);
        assert_eq!(offences("use std::sync::{Arc, atomic};"), 0);
    }

    #[test]
    fn another_order_is_found() {
        assert_eq!(offences("use crate::a;\nuse anyhow::Result;"), 1);
        assert_eq!(offences("use anyhow::Result;\nuse std::fmt;"), 1);
        assert_eq!(offences("use super::*;\nuse std::fmt;"), 1);
    }
}
