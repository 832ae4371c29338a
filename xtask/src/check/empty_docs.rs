//! Documentation that repeats the name of what it documents, such as `/// The port.` above `port`. It
//! says what it is good for, or is left out where the compiler does not ask for it.

use std::path::Path;

use anyhow::{Result, ensure};

use super::docs::each_source;

/// Words before the name of an item, besides visibility.
const KEYWORDS: [&str; 9] =
    ["struct", "enum", "trait", "type", "fn", "mod", "const", "static", "async"];
/// Words with which such a sentence begins.
const ARTICLES: [&str; 5] = ["The", "Its", "Their", "A", "An"];

/// Fails with each line of documentation that says nothing.
///
/// # Errors
/// When there is one, or a source file cannot be read.
pub(crate) fn check(root: &Path, folders: impl Iterator<Item = &'static str>) -> Result<()> {
    let mut found = Vec::new();
    each_source(root, folders, &mut |name, text| {
        found.extend(lines_of(text).map(|line| format!("{name}:{line}")));
        Ok(())
    })?;
    ensure!(found.is_empty(), "documentation that repeats a name:\n  {}", found.join("\n  "));
    Ok(())
}

/// Numbers of the lines that say nothing.
fn lines_of(text: &str) -> impl Iterator<Item = usize> {
    let lines = || text.lines().map(str::trim);
    let pairs = lines().zip(lines().skip(1));
    let before = std::iter::once("").chain(lines());
    (1..).zip(before.zip(pairs)).filter_map(|(number, (before, (doc, item)))| {
        // A longer text may begin or end so.
        let is_alone = !before.starts_with("///");
        (is_alone && repeats(doc, item)).then_some(number)
    })
}

fn repeats(doc: &str, item: &str) -> bool {
    let words = || {
        let sentence = doc.strip_prefix("/// ")?.strip_suffix('.')?;
        let (article, words) = sentence.split_once(' ')?;
        ARTICLES.contains(&article).then(|| words.to_lowercase())
    };
    words().is_some_and(|words| words == name_of(item).to_lowercase().replace('_', " "))
}

/// The name that a line declares: of an item, a field or a variant.
fn name_of(line: &str) -> &str {
    let visibility = line.strip_prefix("pub").map(|rest| {
        let rest = rest.trim_start();
        rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest)
    });
    let mut rest = visibility.unwrap_or(line).trim_start();
    while let Some((_, after)) = rest.split_once(' ').filter(|(word, _)| KEYWORDS.contains(word)) {
        rest = after.trim_start();
    }
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_repeats_a_name_is_found() {
        let text =
            "/// Its port.\npub fn port(&self) -> u16 {\n\n/// The log file.\nlog_file: PathBuf,\n";
        assert_eq!(lines_of(text).collect::<Vec<_>>(), [1, 4]);
        assert_eq!(lines_of("/// The stream.\n    pub(crate) stream: StreamId,").count(), 1);
        assert_eq!(lines_of("    /// The reference.\n    Reference,\n").count(), 1);
    }

    #[test]
    fn a_text_that_says_more_is_none() {
        for text in [
            "/// TCP port.\nport: u16,",
            "/// The port; 0 for a free one.\nport: u16,",
            "/// As in the other file.\n/// The port.\nport: u16,",
            "// The port.\nport: u16,",
            "/// The port.\naddress: String,",
        ] {
            assert_eq!(lines_of(text).count(), 0, "{text}");
        }
    }
}
