//! HTML whose text and attribute values are always escaped: no string can enter a page unescaped.
//!
//! A page is a value of [`Html`], built from [`el`] and [`text`]. Tag and attribute names are
//! `&'static str`, so that no data becomes one.

use std::fmt::Write as _;

/// A piece of HTML.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Html(String);

/// Elements without content and end tag (HTML living standard, void elements) that pages use.
const VOID: [&str; 4] = ["meta", "link", "input", "br"];

impl Html {
    /// The finished document.
    pub(crate) fn into_document(self) -> String {
        format!("<!doctype html>\n{}\n", self.0)
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<I: IntoIterator<Item = Html>>(parts: I) -> Self {
        Self(parts.into_iter().map(|part| part.0).collect())
    }
}

/// Text.
pub(crate) fn text(text: impl AsRef<str>) -> Html {
    let mut html = Html::default();
    escape(text.as_ref(), &mut html.0);
    html
}

/// An element.
pub(crate) fn el(
    tag: &'static str,
    attributes: &[(&'static str, &str)],
    children: impl IntoIterator<Item = Html>,
) -> Html {
    let mut html = String::with_capacity(64);
    html.push('<');
    html.push_str(tag);
    for (name, value) in attributes {
        html.push(' ');
        html.push_str(name);
        html.push_str("=\"");
        escape(value, &mut html);
        html.push('"');
    }
    html.push('>');
    if !VOID.contains(&tag) {
        for child in children {
            html.push_str(&child.0);
        }
        html.push_str("</");
        html.push_str(tag);
        html.push('>');
    }
    Html(html)
}

/// An element with text only.
pub(crate) fn leaf(tag: &'static str, content: impl AsRef<str>) -> Html {
    el(tag, &[], [text(content)])
}

/// A link. `href` is made by [`path`], so that it never has a scheme.
pub(crate) fn link(href: &str, content: impl AsRef<str>) -> Html {
    el("a", &[("href", href)], [text(content)])
}

/// A path below `base` of these segments, each percent-encoded.
pub(crate) fn path<'a>(base: &str, segments: impl IntoIterator<Item = &'a str>) -> String {
    let mut path = base.to_owned();
    for segment in segments {
        path.push('/');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                path.push(char::from(byte));
            } else {
                let _ = write!(path, "%{byte:02X}");
            }
        }
    }
    if path.is_empty() { "/".to_owned() } else { path }
}

fn escape(text: &str, into: &mut String) {
    for c in text.chars() {
        match c {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            // Control characters have no place in HTML; text from a cluster may hold some.
            '\n' | '\t' => into.push(c),
            c if c.is_control() => into.push('\u{fffd}'),
            c => into.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_and_attributes_are_escaped() {
        let html = el("a", &[("title", "\"><b>'&")], [text("<script>&\u{0}")]);
        assert_eq!(
            html.0,
            "<a title=\"&quot;&gt;&lt;b&gt;&#39;&amp;\">&lt;script&gt;&amp;\u{fffd}</a>"
        );
    }

    #[test]
    fn void_elements_have_no_end() {
        assert_eq!(el("input", &[("name", "q")], []).0, "<input name=\"q\">");
    }

    #[test]
    fn segments_of_a_path_stay_segments() {
        assert_eq!(path("", []), "/");
        assert_eq!(path("/dapr", ["apps", "a/../b", "x y?"]), "/dapr/apps/a%2F..%2Fb/x%20y%3F");
    }

    proptest! {
        #[test]
        fn no_text_opens_a_tag_or_ends_an_attribute(data in any::<String>()) {
            let html = el("p", &[("title", &data)], [text(&data)]);
            let inner = html.0.strip_prefix("<p title=\"").unwrap();
            let (attribute, rest) = inner.split_once("\">").unwrap();
            prop_assert!(!attribute.contains(['"', '<', '>']));
            prop_assert!(!rest.strip_suffix("</p>").unwrap().contains(['<', '>', '"']));
        }
    }
}
