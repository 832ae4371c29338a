//! Writes values as YAML in block style or as JSON.
//!
//! Scalars are written so that YAML 1.1 parsers, such as that of kubectl, and YAML 1.2 parsers read
//! the same value.

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

/// Spaces per level.
const STEP: usize = 2;

/// The lines of a non-empty collection, without indentation of the first level. `None` for other
/// values; see [`inline`].
pub(crate) fn block(value: &Value, dash_indent: usize) -> Option<Vec<String>> {
    match value {
        Value::Object(map) if !map.is_empty() => {
            let lines = map.iter().flat_map(|(key, value)| entry(key, value, dash_indent));
            Some(lines.collect())
        }
        Value::Array(items) if !items.is_empty() => {
            Some(items.iter().flat_map(|value| item(value, dash_indent)).collect())
        }
        _ => None,
    }
}

/// The lines of `key: value`. `dash_indent` is the indentation of lists below their key.
pub(crate) fn entry(key: &str, value: &Value, dash_indent: usize) -> Vec<String> {
    let key = text(key);
    if let Value::String(long) = value
        && let Some(lines) = literal(long)
    {
        let head = if long.ends_with('\n') { "|" } else { "|-" };
        return [vec![format!("{key}: {head}")], indented(lines, STEP)].concat();
    }
    match block(value, dash_indent) {
        None => vec![format!("{key}: {}", inline(value))],
        Some(lines) => {
            let by = if value.is_array() { dash_indent } else { STEP };
            [vec![format!("{key}:")], indented(lines, by)].concat()
        }
    }
}

/// The lines of `- value`.
pub(crate) fn item(value: &Value, dash_indent: usize) -> Vec<String> {
    let lines = block(value, dash_indent).unwrap_or_else(|| vec![inline(value)]);
    let mut lines = indented(lines, STEP);
    if let Some(first) = lines.first_mut() {
        first.replace_range(..STEP, "- ");
    }
    lines
}

/// A value on one line.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        other => other.to_string(),
    }
}

/// JSON on several lines. `step` indents one level; `indent` prefixes each line except the first.
pub(crate) fn json(value: &Value, step: &str, indent: &str) -> String {
    let mut bytes = Vec::new();
    let mut writer =
        Serializer::with_formatter(&mut bytes, PrettyFormatter::with_indent(step.as_bytes()));
    // Writing a value to a vector is infallible.
    let _ = value.serialize(&mut writer);
    String::from_utf8_lossy(&bytes).replace('\n', &format!("\n{indent}"))
}

/// Indents the lines that are not empty.
pub(crate) fn indented(lines: Vec<String>, by: usize) -> Vec<String> {
    let shift = |line: String| if line.is_empty() { line } else { format!("{:by$}{line}", "") };
    lines.into_iter().map(shift).collect()
}

/// The lines of a text for a literal block; `None` if the text needs another form.
fn literal(text: &str) -> Option<Vec<String>> {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let plain = |c: char| c == '\n' || !c.is_control();
    let fits = body.contains('\n')
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        && body.chars().all(plain);
    fits.then(|| body.split('\n').map(str::to_owned).collect())
}

/// A string, quoted unless every parser reads it as a string without quotes.
fn text(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { Value::from(text).to_string() }
}

fn is_plain(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || "_-./:@$()+".contains(c);
    // Words that some parsers read as a boolean or as null.
    let reserved = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    // One dash starts a list item; two dashes and a letter are an argument.
    let start = text.strip_prefix("--").unwrap_or(text);
    start.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_')
        && text.chars().all(word)
        && !text.ends_with(':')
        && !reserved.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("abc", "abc")]
    #[case("/var/run", "/var/run")]
    #[case("a.b:50", "a.b:50")]
    #[case("a:", r#""a:""#)]
    #[case("a: b", r#""a: b""#)]
    #[case("Yes", r#""Yes""#)]
    #[case("3500", r#""3500""#)]
    #[case("--flag", "--flag")]
    #[case("---", r#""---""#)]
    #[case("-x", r#""-x""#)]
    #[case("", r#""""#)]
    #[case("ä", r#""ä""#)]
    fn quotes_strings_that_a_parser_could_misread(#[case] given: &str, #[case] want: &str) {
        assert_eq!(text(given), want);
    }

    #[test]
    fn parses_to_the_same_value() {
        let value = json!({
            "a": [{"b": 1, "c": ["x", "3"]}, [], {}],
            "pem": "one\ntwo\n", "open": "one\n  two", "odd": " lead\nx", "tab": "a\tb\nc",
            "null": null, "flag": true, "empty": "",
        });
        for dash_indent in [0, 2] {
            let text = block(&value, dash_indent).unwrap().join("\n");
            let read: Value = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(read, value, "{text}");
        }
        assert_eq!(
            json(&json!({"a": [1]}), "  ", "    "),
            "{\n      \"a\": [\n        1\n      ]\n    }"
        );
    }
}
