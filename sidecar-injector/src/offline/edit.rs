//! Edits the text of a document where its value changes. Order, comments, quotes and blank lines of
//! the rest stay unchanged.

use std::ops::Range;

use serde_json::Value;

use super::tree::{self, Entry, Node};
use super::{emit, yaml};
use crate::pod::name_of;

/// Replaces the value `old` of the text by `new`. The second value is false if the text could not be
/// edited and was written from scratch, without comments.
pub(crate) fn apply(text: &str, old: &Value, new: &Value) -> (String, bool) {
    if let Some(edited) = edited(text, old, new)
        && yaml::parse(&edited).is_ok_and(|read| read == *new)
    {
        return (edited, true);
    }
    let mut lines = emit::block(new, 0).unwrap_or_else(|| vec![emit::inline(new)]);
    lines.push(String::new());
    (lines.join("\n"), false)
}

fn edited(text: &str, old: &Value, new: &Value) -> Option<String> {
    let root = tree::parse(text)?;
    let dash_indent = dash_indent(text, &root).unwrap_or_default();
    let mut editor = Editor { text, dash_indent, edits: Vec::new() };
    editor.node(&root, old, new, root.start())?;
    let mut edits = editor.edits;
    // Stable: edits at the same offset keep their order.
    edits.sort_by_key(|(range, _)| range.start);
    let mut result = String::with_capacity(text.len());
    let mut at = 0;
    for (range, replacement) in edits {
        result.push_str(text.get(at..range.start)?);
        result.push_str(&replacement);
        at = range.end;
    }
    result.push_str(text.get(at..)?);
    Some(result)
}

struct Editor<'a> {
    text: &'a str,
    dash_indent: usize,
    edits: Vec<(Range<usize>, String)>,
}

/// The functions return `None` if they cannot edit; the document is then written from scratch.
impl Editor<'_> {
    /// `after` is the earliest possible start of the node: the offset after the colon of its key.
    fn node(&mut self, node: &Node, old: &Value, new: &Value, after: usize) -> Option<()> {
        if old == new {
            return Some(());
        }
        match (node, old, new) {
            (Node::Mapping { flow, entries, .. }, Value::Object(was), Value::Object(is))
                if !entries.is_empty() && !is.is_empty() =>
            {
                for entry in entries {
                    match is.get(&entry.key) {
                        Some(is) => {
                            let after = tree::colon(self.text, entry.at.end);
                            self.node(&entry.value, was.get(&entry.key)?, is, after)?;
                        }
                        None => self.remove(entry, *flow)?,
                    }
                }
                let added: Vec<_> = is.iter().filter(|(key, _)| !was.contains_key(*key)).collect();
                if *flow {
                    self.flow_members(entries, &added)
                } else {
                    self.block_members(entries, &added)
                }
            }
            (Node::Sequence { flow, items, .. }, Value::Array(was), Value::Array(is))
                if !items.is_empty() && was.len() == items.len() =>
            {
                let ahead = shift(was, is)?;
                let kept = is.get(ahead..ahead + was.len())?;
                for ((item, was), is) in items.iter().zip(was).zip(kept) {
                    self.node(item, was, is, item.start())?;
                }
                let (first, last) = (is.get(..ahead)?, is.get(ahead + was.len()..)?);
                if *flow {
                    self.flow_items(items, first, last)
                } else {
                    self.block_items(items, first, last)
                }
            }
            _ => {
                self.replace(node, new, after);
                Some(())
            }
        }
    }

    /// Replaces a node by another value.
    fn replace(&mut self, node: &Node, new: &Value, after: usize) {
        let end = node.end(self.text, after);
        let in_flow =
            matches!(node, Node::Mapping { flow: true, .. } | Node::Sequence { flow: true, .. })
                && self.text.trim_start().starts_with('{');
        if in_flow {
            let indent = indentation(self.text, node.start());
            self.edit(node.start()..end, emit::json(new, self.json_step(), &indent));
            return;
        }
        match emit::block(new, self.dash_indent) {
            None => self.edit(node.start()..end, emit::inline(new)),
            Some(lines) => {
                let column = column(self.text, line_start(self.text, after), after);
                let by = column + if new.is_array() { self.dash_indent } else { 2 };
                self.edit(after..end, on_new_lines(emit::indented(lines, by)));
            }
        }
    }

    fn remove(&mut self, entry: &Entry, flow: bool) -> Option<()> {
        let start = line_start(self.text, entry.at.start);
        let alone = self.text.get(start..entry.at.start)?.trim().is_empty();
        if flow || !alone {
            return None;
        }
        let end = entry.value.end(self.text, tree::colon(self.text, entry.at.end));
        let end = (line_end(self.text, end) + 1).min(self.text.len());
        self.edit(start..end, String::new());
        Some(())
    }

    fn block_members(&mut self, entries: &[Entry], added: &[(&String, &Value)]) -> Option<()> {
        let (first, last) = (entries.first()?, entries.last()?);
        let indent = first.at.start - line_start(self.text, first.at.start);
        let end = last.value.end(self.text, tree::colon(self.text, last.at.end));
        let lines = added.iter().flat_map(|(key, value)| emit::entry(key, value, self.dash_indent));
        self.insert_lines(end, emit::indented(lines.collect(), indent));
        Some(())
    }

    fn block_items(&mut self, items: &[Node], ahead: &[Value], behind: &[Value]) -> Option<()> {
        let (first, last) = (items.first()?, items.last()?);
        let dash = dash_of(self.text, first)?;
        let start = line_start(self.text, dash);
        let indent = dash - start;
        let lines = |values: &[Value]| {
            let lines = values.iter().flat_map(|value| emit::item(value, self.dash_indent));
            emit::indented(lines.collect(), indent)
        };
        let (ahead, behind) = (lines(ahead), lines(behind));
        if !ahead.is_empty() {
            let text = ahead.into_iter().map(|line| line + "\n").collect();
            self.edit(start..start, text);
        }
        let end = last.end(self.text, last.start());
        self.insert_lines(end, behind);
        Some(())
    }

    fn flow_members(&mut self, entries: &[Entry], added: &[(&String, &Value)]) -> Option<()> {
        let last = entries.last()?;
        let end = last.value.end(self.text, tree::colon(self.text, last.at.end));
        let (glue, indent) = self.flow_glue(last.at.start);
        for (key, value) in added {
            let value = self.flow_value(value, indent.as_deref());
            self.edit(end..end, format!(",{glue}{}: {value}", Value::from(key.as_str())));
        }
        Some(())
    }

    fn flow_items(&mut self, items: &[Node], ahead: &[Value], behind: &[Value]) -> Option<()> {
        let (first, last) = (items.first()?, items.last()?);
        let (glue, indent) = self.flow_glue(last.start());
        for value in ahead {
            let text = format!("{},{glue}", self.flow_value(value, indent.as_deref()));
            self.edit(first.start()..first.start(), text);
        }
        let end = last.end(self.text, last.start());
        for value in behind {
            let text = format!(",{glue}{}", self.flow_value(value, indent.as_deref()));
            self.edit(end..end, text);
        }
        Some(())
    }

    /// The separator of a new member after the member at `start`, and the indentation if members have
    /// lines of their own.
    fn flow_glue(&self, start: usize) -> (String, Option<String>) {
        let line = line_start(self.text, start);
        if line > 0 && self.text.get(line..start).is_some_and(|before| before.trim().is_empty()) {
            let indent = indentation(self.text, start);
            (format!("\n{indent}"), Some(indent))
        } else {
            (" ".to_owned(), None)
        }
    }

    fn flow_value(&self, value: &Value, indent: Option<&str>) -> String {
        match indent {
            Some(indent) => emit::json(value, self.json_step(), indent),
            None => value.to_string(),
        }
    }

    /// One level of indentation: that of the first indented line.
    fn json_step(&self) -> &str {
        let line = self.text.lines().find(|line| line.starts_with([' ', '\t']));
        let line = line.unwrap_or("  ");
        line.get(..line.len() - line.trim_start().len()).unwrap_or("  ")
    }

    fn insert_lines(&mut self, after: usize, lines: Vec<String>) {
        if !lines.is_empty() {
            let at = line_end(self.text, after);
            self.edit(at..at, on_new_lines(lines));
        }
    }

    fn edit(&mut self, range: Range<usize>, text: String) {
        self.edits.push((range, text));
    }
}

/// The number of items inserted at the front. The other items keep names and order.
fn shift(was: &[Value], is: &[Value]) -> Option<usize> {
    let room = is.len().checked_sub(was.len())?;
    (0..=room).find(|ahead| {
        was.iter().zip(is.iter().skip(*ahead)).all(|(was, is)| name_of(was) == name_of(is))
    })
}

fn on_new_lines(lines: Vec<String>) -> String {
    lines.into_iter().flat_map(|line| ["\n".to_owned(), line]).collect()
}

fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

/// The end of the line, including a comment.
fn line_end(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |newline| at + newline)
}

fn indentation(text: &str, at: usize) -> String {
    let line = text.get(line_start(text, at)..at).unwrap_or_default();
    line.chars().take_while(|c| c.is_whitespace()).collect()
}

/// The column of the first character that is neither a blank nor the dash of a list.
fn column(text: &str, line_start: usize, until: usize) -> usize {
    let line = text.get(line_start..until).unwrap_or_default();
    line.len() - line.trim_start_matches([' ', '-']).len()
}

/// The offset of the dash of an item.
fn dash_of(text: &str, item: &Node) -> Option<usize> {
    let start = line_start(text, item.start());
    text.get(start..item.start())?.rfind('-').map(|dash| start + dash)
}

/// The indentation of the first block list of the document below its key.
fn dash_indent(text: &str, node: &Node) -> Option<usize> {
    match node {
        Node::Leaf(_) => None,
        Node::Sequence { items, .. } => items.iter().find_map(|item| dash_indent(text, item)),
        Node::Mapping { entries, .. } => entries.iter().find_map(|entry| match &entry.value {
            Node::Sequence { flow: false, items, .. } if !items.is_empty() => {
                let dash = dash_of(text, items.first()?)?;
                let key = entry.at.start - line_start(text, entry.at.start);
                (dash - line_start(text, dash)).checked_sub(key)
            }
            other => dash_indent(text, other),
        }),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    /// Applies a JSON Patch to a text.
    fn patched(text: &str, patch: Value) -> (String, bool) {
        let old: Value = serde_saphyr::from_str(text).unwrap();
        let mut new = old.clone();
        let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
        json_patch::patch(&mut new, &patch).unwrap();
        apply(text, &old, &new)
    }

    fn add(path: &str, value: impl Into<Value>) -> Value {
        json!([{"op": "add", "path": path, "value": value.into()}])
    }

    #[rstest]
    #[case::member("a:\n  b: 1 # one\n\n# tail\n", add("/a/c", json!("x")), "a:\n  b: 1 # one\n  c: x\n\n# tail\n")]
    #[case::no_newline("a: 1", add("/b", json!(2)), "a: 1\nb: 2")]
    #[case::item("l:\n- name: a\n  x: 1\nz: 0\n", add("/l/-", json!({"name": "b", "k": [1]})), "l:\n- name: a\n  x: 1\n- name: b\n  k:\n  - 1\nz: 0\n")]
    #[case::indented_item("l:\n  - name: a\n", add("/l/-", json!({"name": "b", "k": [1]})), "l:\n  - name: a\n  - name: b\n    k:\n      - 1\n")]
    #[case::first_item("l:\n# note\n- name: a\n", add("/l/0", json!({"name": "b"})), "l:\n# note\n- name: b\n- name: a\n")]
    #[case::in_item("l:\n- name: a\n- name: b\n", add("/l/0/env", json!([{"name": "E"}])), "l:\n- name: a\n  env:\n  - name: E\n- name: b\n")]
    #[case::empty_map("a: {}\nb: 1\n", add("/a/c", json!("d")), "a:\n  c: d\nb: 1\n")]
    #[case::empty_list("a: []\nb: 1\n", add("/a/-", json!("d")), "a:\n- d\nb: 1\n")]
    #[case::nothing("m:\n  a:\n  b: 1\n", json!([{"op": "replace", "path": "/m/a", "value": {"c": 1}}]), "m:\n  a:\n    c: 1\n  b: 1\n")]
    #[case::scalar("a: 'x' # old\n", json!([{"op": "replace", "path": "/a", "value": "z"}]), "a: z # old\n")]
    #[case::removed("m:\n  a: 1\n  b: 2\nc: 3\n", json!([{"op": "remove", "path": "/m/b"}]), "m:\n  a: 1\nc: 3\n")]
    #[case::after_literal("m:\n  a: |\n    x\n    y\n\nz: 1\n", add("/m/b", json!(1)), "m:\n  a: |\n    x\n    y\n  b: 1\n\nz: 1\n")]
    #[case::flow("a: {b: 1}\nl: [x]\n", add("/a/c", json!("d")), "a: {b: 1, \"c\": \"d\"}\nl: [x]\n")]
    #[case::pem("a: 1\n", add("/p", json!("x\ny\n")), "a: 1\np: |\n  x\n  y\n")]
    #[case::json("{\n    \"l\": [\n        {\n            \"name\": \"a\"\n        }\n    ]\n}\n", add("/l/-", json!({"name": "b"})), "{\n    \"l\": [\n        {\n            \"name\": \"a\"\n        },\n        {\n            \"name\": \"b\"\n        }\n    ]\n}\n")]
    #[case::short_json(r#"{"a":{"b":1},"l":[]}"#, add("/a/c", json!([1])), r#"{"a":{"b":1, "c": [1]},"l":[]}"#)]
    fn edits_in_place(#[case] text: &str, #[case] patch: Value, #[case] want: &str) {
        assert_eq!(patched(text, patch), (want.to_owned(), true));
    }

    #[rstest]
    #[case::shared("a: &x {b: 1}\nc: *x\n", add("/a/d", json!(2)))]
    #[case::merged("base: &b\n  k: 1\nm:\n  <<: *b\n", add("/m/l", json!(2)))]
    #[case::kept_newlines("m:\n  a: |+\n    x\n\nz: 1\n", add("/m/b", json!(1)))]
    fn unsupported_documents_are_written_from_scratch(#[case] text: &str, #[case] patch: Value) {
        let mut new: Value = serde_saphyr::from_str(text).unwrap();
        let operations: json_patch::Patch = serde_json::from_value(patch.clone()).unwrap();
        json_patch::patch(&mut new, &operations).unwrap();
        let (text, _) = patched(text, patch);
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), new, "{text}");
    }
}
