//! Splits a stream of YAML or JSON documents.

use std::ops::Range;

/// The ranges of the documents in a text, without separator lines.
pub(crate) fn split(text: &str) -> Vec<Range<usize>> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if is_separator(line) {
            documents.push(start..at);
            start = at + line.len();
        }
        at += line.len();
    }
    documents.push(start..at);
    documents
}

/// Whether a line is `---` or `...`, optionally with a comment. A line that starts a document after
/// `---` counts as part of the document.
fn is_separator(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| {
        let trimmed = rest.trim();
        trimmed.is_empty() || (rest.starts_with([' ', '\t']) && trimmed.starts_with('#'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_at_separators_only() {
        let text = "# top\na: 1\n--- # next\nb: |\n  --- x\n---\n...\n--- 3\n";
        let parts: Vec<&str> = split(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(parts, ["# top\na: 1\n", "b: |\n  --- x\n", "", "--- 3\n"]);
        assert_eq!(split("").len(), 1);
    }
}
