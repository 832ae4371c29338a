//! The paths that a source file names: its imports, and every qualified path in its code. Items
//! behind `#[cfg(test)]` are left out.

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{
    Attribute, ImplItemFn, Item, ItemFn, ItemImpl, ItemMod, ItemUse, Macro, Meta, Token, UseTree,
};

/// A path as written, without generics: `kube::Client`. An import of all ends in `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedPath {
    pub(super) segments: Vec<String>,
    /// From 1.
    pub(super) line: usize,
    /// Whether an import renames the path.
    pub(super) renamed: bool,
}

impl NamedPath {
    /// Whether the path is `prefix`, is below it, or imports all of the module that contains it.
    pub(super) fn is_below(&self, prefix: &str) -> bool {
        let prefix: Vec<&str> = prefix.split("::").collect();
        let glob = self.segments.last().is_some_and(|last| last == "*");
        let named = self.segments.len() - usize::from(glob);
        let both = self.segments.iter().take(named).zip(&prefix);
        both.clone().all(|(one, other)| one == other) && (named >= prefix.len() || glob)
    }
}

/// A parsed source file.
#[derive(Debug)]
pub(super) struct SourceFile {
    /// Its path from the root of the repository.
    pub(super) name: String,
    pub(super) paths: Vec<NamedPath>,
    /// Modules that it declares.
    pub(super) modules: Vec<String>,
}

impl SourceFile {
    /// # Errors
    /// When the text is not Rust.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self> {
        let file = syn::parse_file(text)?;
        let mut collector = Collector::default();
        if !is_test_only(&file.attrs) {
            collector.visit_file(&file);
        }
        let modules = file.items.iter().filter_map(|item| match item {
            Item::Mod(module) if !is_test_only(&module.attrs) => Some(module.ident.to_string()),
            _ => None,
        });
        Ok(Self { name: name.to_owned(), paths: collector.0, modules: modules.collect() })
    }
}

#[derive(Default)]
struct Collector(Vec<NamedPath>);

impl Collector {
    fn add(&mut self, segments: Vec<String>, line: usize, renamed: bool) {
        if segments.len() > 1 || renamed {
            self.0.push(NamedPath { segments, line, renamed });
        }
    }

    fn import(&mut self, parents: &[String], tree: &UseTree) {
        let line = tree.span().start().line;
        let with = |name: String| [parents, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.import(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) if name.ident == "self" => self.add(parents.to_vec(), line, false),
            UseTree::Name(name) => self.add(with(name.ident.to_string()), line, false),
            UseTree::Rename(name) => self.add(with(name.ident.to_string()), line, true),
            UseTree::Glob(_) => self.add(with("*".to_owned()), line, false),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(parents, tree);
                }
            }
        }
    }

    /// Paths in the tokens of a macro call, which syn does not parse.
    fn scan(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let (mut line, mut colons) = (0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.add(std::mem::take(&mut path), line, false);
                        line = name.span().start().line;
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(mark) if mark.as_char() == ':' => colons += 1,
                other => {
                    self.add(std::mem::take(&mut path), line, false);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.scan(group.stream());
                    }
                }
            }
        }
        self.add(path, line, false);
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_test_only(&item.attrs) {
            self.import(&[], &item.tree);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !is_test_only(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.add(segments, path.span().start().line, false);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.scan(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

/// Whether an item or a file is compiled for tests only: `test`, alone or in `all`.
fn is_test_only(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let condition = attribute.parse_args::<Meta>();
        attribute.path().is_ident("cfg") && condition.is_ok_and(|condition| needs_test(&condition))
    })
}

fn needs_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => {
            let all = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated);
            all.is_ok_and(|all| all.iter().any(needs_test))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let file = SourceFile::parse("a.rs", text).unwrap();
        file.paths.iter().map(|path| path.segments.join("::")).collect()
    }

    #[test]
    fn nested_imports_qualified_paths_and_macro_calls_count() {
        assert_eq!(
            paths("use kube::{Api, client::{self, Body}};"),
            ["kube::Api", "kube::client", "kube::client::Body"]
        );
        assert_eq!(paths("fn f(c: &kube::Client) {}"), ["kube::Client"]);
        assert_eq!(
            paths("fn f() { select! { x = a::b(kube::Client::new()) => {} } }"),
            ["a::b", "kube::Client::new"]
        );
        assert_eq!(paths("use kube as k;"), ["kube"]);
    }

    #[test]
    fn what_is_compiled_for_tests_only_does_not_count() {
        let text = "#[cfg(test)] use a::b; #[cfg(test)] mod tests { use c::d; }
            #[cfg(test)] fn f() { e::f() } #[cfg(not(test))] use g::h;
            #[cfg(all(unix, test))] use i::j; #[cfg(any(unix, test))] use k::l;";
        assert_eq!(paths(text), ["g::h", "k::l"]);
    }

    #[test]
    fn a_path_is_below_itself_its_parents_and_what_a_glob_imports() {
        let below = |text: &str, prefix: &str| {
            SourceFile::parse("a.rs", text).unwrap().paths.iter().any(|path| path.is_below(prefix))
        };
        assert!(below("use kube::Client;", "kube::Client"));
        assert!(below("use kube::Client;", "kube"));
        assert!(below("use kube::*;", "kube::Client"));
        assert!(!below("use kube::Resource;", "kube::Client"));
        assert!(!below("use kubelike::Client;", "kube"));
    }
}
