//! A YAML document as a tree of nodes with their ranges in the text.

use std::ops::Range;

use granit_parser::{Event, Parser, StructureStyle};

/// Maximum depth; manifests have about ten levels.
const MAX_DEPTH: usize = 64;

/// A node and its range. The content of scalars is not stored.
#[derive(Debug)]
pub(crate) enum Node {
    /// A scalar or an alias; a missing value has an empty range.
    Leaf(Range<usize>),
    Mapping {
        /// Range of the node. In block style only the start is reliable.
        range: Range<usize>,
        /// `{a: b}`, as in JSON.
        flow: bool,
        entries: Vec<Entry>,
    },
    Sequence {
        /// As for mappings.
        range: Range<usize>,
        /// `[a, b]`, as in JSON.
        flow: bool,
        items: Vec<Node>,
    },
}

/// A key and its value.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The key, unescaped.
    pub(crate) key: String,
    /// Range of the key.
    pub(crate) at: Range<usize>,
    pub(crate) value: Node,
}

/// Parses a text with one document. `None` for several documents, keys that are not scalars, and
/// nodes without a byte range.
pub(crate) fn parse(text: &str) -> Option<Node> {
    let mut events = Events(Parser::new_from_str(text));
    let mut root = None;
    while let Some((event, range)) = events.next()? {
        match event {
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            Event::StreamEnd => return root,
            event if root.is_none() => root = Some(node(&event, range, &mut events, 0)?),
            _ => return None,
        }
    }
    root
}

struct Events<'a>(Parser<'a, granit_parser::StrInput<'a>>);

impl<'a> Events<'a> {
    /// `None` for invalid YAML; `Some(None)` at the end.
    #[expect(clippy::option_option, reason = "invalid text and its end are different cases")]
    fn next(&mut self) -> Option<Option<(Event<'a>, Range<usize>)>> {
        loop {
            match self.0.next() {
                None => return Some(None),
                Some(Err(_)) => return None,
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok((event, span))) => {
                    let start = span.start.byte_offset()?;
                    let end = span.end.byte_offset()?;
                    return Some(Some((event, start..end.max(start))));
                }
            }
        }
    }
}

fn node(
    event: &Event<'_>,
    at: Range<usize>,
    events: &mut Events<'_>,
    depth: usize,
) -> Option<Node> {
    if depth > MAX_DEPTH {
        return None;
    }
    match event {
        Event::Scalar(..) | Event::Alias(_) => Some(Node::Leaf(at)),
        Event::SequenceStart(style, ..) => {
            let mut items = Vec::new();
            loop {
                let (event, range) = events.next()??;
                if event == Event::SequenceEnd {
                    let range = at.start..range.end.max(at.start);
                    return Some(Node::Sequence { range, flow: is_flow(*style), items });
                }
                items.push(node(&event, range, events, depth + 1)?);
            }
        }
        Event::MappingStart(style, ..) => {
            let mut entries = Vec::new();
            loop {
                let (event, range) = events.next()??;
                let key = match event {
                    Event::MappingEnd => {
                        let range = at.start..range.end.max(at.start);
                        return Some(Node::Mapping { range, flow: is_flow(*style), entries });
                    }
                    Event::Scalar(key, ..) => key.into_owned(),
                    _ => return None,
                };
                let (event, value) = events.next()??;
                let value = node(&event, value, events, depth + 1)?;
                entries.push(Entry { key, at: range, value });
            }
        }
        _ => None,
    }
}

fn is_flow(style: StructureStyle) -> bool {
    style == StructureStyle::Flow
}

impl Node {
    /// Start of the node; in a block mapping, of its first key.
    pub(crate) fn start(&self) -> usize {
        match self {
            Self::Mapping { range, flow, entries } => match entries.first() {
                Some(first) if !flow => first.at.start,
                _ => range.start,
            },
            Self::Leaf(range) | Self::Sequence { range, .. } => range.start,
        }
    }

    /// End of the node. `after` is the earliest possible start, for missing values.
    pub(crate) fn end(&self, text: &str, after: usize) -> usize {
        match self {
            Self::Leaf(range) if range.is_empty() => after,
            Self::Leaf(range) => trimmed(text, range),
            Self::Mapping { range, flow, entries } => match entries.last() {
                Some(last) if !flow => last.value.end(text, colon(text, last.at.end)),
                _ => trimmed(text, range),
            },
            Self::Sequence { range, flow, items } => match items.last() {
                Some(last) if !flow => last.end(text, last.start()),
                _ => trimmed(text, range),
            },
        }
    }
}

/// The offset after the colon of a key.
pub(crate) fn colon(text: &str, key_end: usize) -> usize {
    let rest = text.get(key_end..).unwrap_or_default();
    rest.find(':').map_or(key_end, |at| key_end + at + 1)
}

/// The end of a range without trailing white space: block scalars extend to the next token.
fn trimmed(text: &str, range: &Range<usize>) -> usize {
    range.start + text.get(range.clone()).unwrap_or_default().trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# head\na: 1 # one\nlist:\n- x: |\n    text\n\n- y:\nflow: {k: [1, 2]}\n";

    fn entry<'a>(node: &'a Node, key: &str) -> &'a Entry {
        let Node::Mapping { entries, .. } = node else { panic!("{node:?}") };
        entries.iter().find(|entry| entry.key == key).unwrap()
    }

    fn shown<'a>(node: &Node, text: &'a str) -> &'a str {
        &text[node.start()..node.end(text, node.start())]
    }

    #[test]
    fn every_node_has_its_range() {
        let root = parse(TEXT).unwrap();
        assert_eq!(shown(&entry(&root, "a").value, TEXT), "1");
        assert_eq!(shown(&entry(&root, "flow").value, TEXT), "{k: [1, 2]}");
        let Node::Sequence { items, flow: false, .. } = &entry(&root, "list").value else {
            panic!("no list")
        };
        assert_eq!(shown(&items[0], TEXT), "x: |\n    text");
        assert_eq!(shown(&items[1], TEXT), "y:");
    }

    #[test]
    fn unsupported_yaml_is_rejected() {
        for text in ["a: 1\n---\nb: 2\n", "a: [", "? {a: b}\n: c\n"] {
            assert!(parse(text).is_none(), "{text}");
        }
        assert!(parse(&"[".repeat(200)).is_none());
    }
}
