//! The names of tests in sources, which are parsed: a name in a comment or a text is none.

use std::collections::BTreeSet;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, ItemFn, Macro};

/// Last words of the attributes of a test: `#[test]`, `#[tokio::test]`, `#[rstest]`.
const ATTRIBUTES: [&str; 2] = ["test", "rstest"];

/// Adds the tests of one source file.
///
/// # Errors
/// When the text is not Rust.
pub(super) fn collect(text: &str, names: &mut BTreeSet<String>) -> syn::Result<()> {
    if ATTRIBUTES.iter().any(|attribute| text.contains(attribute)) {
        Collector(names).visit_file(&syn::parse_file(text)?);
    }
    Ok(())
}

struct Collector<'a>(&'a mut BTreeSet<String>);

impl Collector<'_> {
    /// Functions with a test's attribute in the tokens of a macro call, as of `proptest!`.
    fn scan(&mut self, tokens: TokenStream) {
        let (mut is_test, mut is_name) = (false, false);
        for token in tokens {
            match token {
                TokenTree::Ident(word) if is_name => {
                    self.0.insert(word.to_string());
                    (is_test, is_name) = (false, false);
                }
                TokenTree::Ident(word) => is_name = is_test && word == "fn",
                TokenTree::Group(group) => {
                    let text = group.stream().to_string();
                    is_test |= ATTRIBUTES.contains(&text.as_str());
                    self.scan(group.stream());
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Collector<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if item.attrs.iter().any(is_test) {
            self.0.insert(item.sig.ident.to_string());
        }
        visit::visit_item_fn(self, item);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.scan(call.tokens.clone());
    }
}

fn is_test(attribute: &Attribute) -> bool {
    let last = attribute.path().segments.last();
    last.is_some_and(|last| ATTRIBUTES.iter().any(|name| last.ident == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_with_the_attribute_of_a_test_are_tests_and_no_others() {
        let text = r##"
            //! fn in_a_comment() test
            const TEXT: &str = "#[test] fn in_a_text() {}";
            fn a_helper() {}
            #[test] fn plain() {}
            mod tests {
                #[tokio::test(start_paused = true)] async fn on_tokio() {}
                #[rstest::rstest] #[case(1)] fn with_cases(#[case] _one: u8) {}
                proptest! {
                    fn a_strategy()(one in 0..1) -> u8 { one }
                    #[test] fn a_property(one in 0..1) { fn inner() {} }
                }
            }
        "##;
        let mut names = BTreeSet::new();
        collect(text, &mut names).unwrap();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(names, ["a_property", "on_tokio", "plain", "with_cases"]);
    }
}
