//! Checks of the documentation: links, values of the chart, metrics, tests and tasks that it names
//! must exist. Tests are those that parsing the sources finds ([`test_names`]).

mod test_names;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::check::layering::PRODUCT;

/// First words of the chart's values that text may name.
const VALUES: [&str; 9] = [
    "global",
    "dapr_operator",
    "dapr_placement",
    "dapr_sentry",
    "dapr_scheduler",
    "dapr_sidecar_injector",
    "dapr_rbac",
    "dapr_config",
    "admissionGuard",
];
/// First words of metrics of our services.
const METRICS: [&str; 5] =
    ["dapr_operator_", "dapr_sentry_", "dapr_placement_", "dapr_injector_", "trilby_"];
/// Folders with our sources.
pub(crate) fn sources() -> impl Iterator<Item = &'static str> {
    PRODUCT.into_iter().chain(["tests", "bench", "fuzz", "xtask"])
}

/// Documents, and folders of documents. The change log is history: it may name what is gone.
const DOCUMENTS: [&str; 8] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs",
    "deploy",
    "fuzz/README.md",
    "charts/dapr/README.md",
];

/// A word with at least this many underscores and this length names a test.
const TEST_UNDERSCORES: usize = 4;

/// The names that exist.
struct Known {
    root: PathBuf,
    values: Value,
    schema: Value,
    source: String,
    tests: BTreeSet<String>,
    tasks: BTreeSet<String>,
}

/// Checks every document of the repository; `tasks` are the names of `cargo xtask`.
pub(crate) fn check(root: &Path, tasks: BTreeSet<String>) -> Result<()> {
    let values = std::fs::read_to_string(root.join("charts/dapr/values.yaml"))?;
    let values = serde_saphyr::from_str(&values).context("read the chart's values")?;
    let schema = std::fs::read_to_string(root.join("charts/dapr/values.schema.json"))?;
    let schema = serde_json::from_str(&schema).context("read the schema of the chart's values")?;
    let (mut source, mut tests) = (String::new(), BTreeSet::new());
    each_source(root, sources(), &mut |name, text| {
        test_names::collect(text, &mut tests).with_context(|| format!("parse {name}"))?;
        source.push_str(text);
        Ok(())
    })?;
    let known = Known { root: root.to_path_buf(), values, schema, source, tests, tasks };
    let mut offences = Vec::new();
    for place in DOCUMENTS {
        gather(&root.join(place), "md", &mut |file| {
            let text = std::fs::read_to_string(file)?;
            let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
            let found = known.offences(file, &text);
            offences.extend(found.into_iter().map(|what| format!("{name}: {what}")));
            Ok(())
        })?;
    }
    ensure!(offences.is_empty(), "documentation:\n  {}", offences.join("\n  "));
    Ok(())
}

/// Calls `take` with the path and the text of every source file of these folders.
///
/// # Errors
/// A file cannot be read, or what `take` says.
pub(super) fn each_source(
    root: &Path,
    folders: impl Iterator<Item = &'static str>,
    take: &mut dyn FnMut(&str, &str) -> Result<()>,
) -> Result<()> {
    for folder in folders {
        gather(&root.join(folder), "rs", &mut |file| {
            let name = file.strip_prefix(root).unwrap_or(file).display().to_string();
            take(&name, &std::fs::read_to_string(file)?)
        })?;
    }
    Ok(())
}

/// Calls `take` with every file of that extension at or below a path.
fn gather(place: &Path, extension: &str, take: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    if place.is_file() {
        return take(place);
    }
    if !place.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(place).with_context(|| format!("read {}", place.display()))? {
        let path = entry?.path();
        let wanted = path.extension().is_some_and(|found| found == extension);
        if path.is_dir() || wanted {
            gather(&path, extension, take)?;
        }
    }
    Ok(())
}

impl Known {
    fn offences(&self, file: &Path, text: &str) -> Vec<String> {
        let mut offences = Vec::new();
        for target in links(text) {
            if let Some(why) = self.broken(file, text, &target) {
                offences.push(format!("link {target}: {why}"));
            }
        }
        for word in words(text) {
            if is_value(word) && !self.has_value(word) {
                offences.push(format!("{word} is not a value of the chart"));
            }
            if METRICS.iter().any(|first| word.starts_with(first))
                && !word.contains('.')
                && !self.source.contains(&format!("\"{word}\""))
            {
                offences.push(format!("{word} is not a metric"));
            }
            if is_test(word) && !self.tests.contains(word) {
                offences.push(format!("{word} is not a test"));
            }
            let path = word.starts_with("tests/") || word.starts_with("deploy/samples/");
            let here = file.parent().unwrap_or(&self.root);
            let exists = |folder: &Path| folder.join(word.trim_end_matches('.')).exists();
            if path && !exists(&self.root) && !exists(here) {
                offences.push(format!("{word} does not exist"));
            }
        }
        for word in cells_of_tests(text).flat_map(words) {
            if is_name(word) && !is_test(word) && !self.tests.contains(word) {
                offences.push(format!("{word} is not a test, and stands where tests are listed"));
            }
        }
        for line in invariants(text) {
            if !words(line).any(|word| self.tests.contains(word)) {
                offences.push(format!("no test holds the invariant: {line}"));
            }
        }
        for task in tasks(text) {
            if !self.tasks.contains(&task) {
                offences.push(format!("cargo xtask {task} does not exist"));
            }
        }
        offences
    }

    fn broken(&self, file: &Path, text: &str, target: &str) -> Option<String> {
        let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
        let there = file.parent().unwrap_or(&self.root).join(path);
        if !path.is_empty() && !there.exists() {
            return Some("there is no such file".to_owned());
        }
        if anchor.is_empty() {
            return None;
        }
        let other =
            if path.is_empty() { text.to_owned() } else { std::fs::read_to_string(there).ok()? };
        let found = headings(&other).any(|heading| heading == anchor);
        (!found).then(|| "there is no such heading".to_owned())
    }

    /// A value has a default or, without one, an entry in the schema.
    fn has_value(&self, word: &str) -> bool {
        let keys = || word.trim_end_matches('.').split('.');
        let described = keys().try_fold(&self.schema, |at, key| at.get("properties")?.get(key));
        described.is_some() || self.has_default(keys())
    }

    /// Any key is allowed below a map without members.
    fn has_default<'a>(&self, keys: impl Iterator<Item = &'a str>) -> bool {
        let mut at = &self.values;
        for key in keys {
            if at.as_object().is_some_and(serde_json::Map::is_empty) || at.is_null() {
                return true;
            }
            match at.get(key) {
                Some(next) => at = next,
                None => return false,
            }
        }
        true
    }
}

fn is_value(word: &str) -> bool {
    let Some((first, rest)) = word.split_once('.') else { return false };
    VALUES.contains(&first) && !rest.is_empty()
}

/// Whether a word is written as the name of a function of two words or more.
fn is_name(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    word.chars().all(plain) && word.contains('_')
}

fn is_test(word: &str) -> bool {
    is_name(word)
        && word.matches('_').count() >= TEST_UNDERSCORES
        && !word.starts_with("dapr_")
        && !word.starts_with("trilby_")
}

/// The numbered lines of the chapter about invariants.
fn invariants(text: &str) -> impl Iterator<Item = &str> {
    let chapter = text.split("\n## ").find(|chapter| chapter.starts_with("Invariants"));
    chapter.unwrap_or_default().lines().filter(|line| {
        let rest = line.trim_start_matches(|c: char| c.is_ascii_digit());
        rest.len() < line.len() && rest.starts_with(". ")
    })
}

/// The cells of the columns of tables that are headed `test` or `tests`.
fn cells_of_tests(text: &str) -> impl Iterator<Item = &str> {
    let mut table = None;
    text.lines().filter_map(move |line| {
        let Some(row) = line.strip_prefix('|') else {
            table = None;
            return None;
        };
        let mut cells = row.split('|').map(str::trim);
        if let Some(column) = table {
            return cells.nth(column?);
        }
        table = Some(cells.position(|head| matches!(head, "test" | "tests")));
        None
    })
}

/// Targets of Markdown links that stay in the repository.
fn links(text: &str) -> impl Iterator<Item = String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).filter(|target| !target.contains("://"))
}

/// Anchors of headings as GitHub creates them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

/// Words of code: in back quotes, or in a block of commands.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
    text.split('`').skip(1).step_by(2).flat_map(move |code| code.split(move |c: char| !word(c)))
}

/// The tasks that text calls with `cargo xtask`.
fn tasks(text: &str) -> impl Iterator<Item = String> {
    text.split("cargo xtask ").skip(1).filter_map(|rest| {
        let task: String =
            rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
        (!task.is_empty() && !task.starts_with('-')).then_some(task)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn offences(text: &str) -> Vec<String> {
        let known = Known {
            root: PathBuf::from("/nowhere"),
            values: json!({"global": {"tag": "x", "labels": {}}}),
            schema: json!({"properties": {"global": {"properties": {"domain": {}}}}}),
            source: "const X: &str = \"dapr_sentry_up\"; fn no_test_of_that_name()".to_owned(),
            tests: ["a_test_that_is_there", "short_name"].map(str::to_owned).into(),
            tasks: ["demo".to_owned()].into(),
        };
        known.offences(Path::new("/nowhere/README.md"), text)
    }

    #[test]
    fn what_exists_may_be_named() {
        let text = "# The Way, here\n[a](#the-way-here) [b](https://example.com)\n\
                    `global.tag=1` `global.labels.any` `global.domain` `dapr_sentry_up{kind}` \
                    `a_test_that_is_there` `cargo xtask demo`\n## Invariants\n\
                    1. It is there. — `a_test_that_is_there`\n\
                    \n| what | test |\n|---|---|\n| `other_name` | `short_name`, `docs/a` |\n\
                    \n| what | where |\n|---|---|\n| test | `other_name` |";
        assert_eq!(offences(text), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_exist_is_found() {
        for (text, what) in [
            ("[a](no.md)", "link no.md: there is no such file"),
            ("[a](#no)", "link #no: there is no such heading"),
            ("`--set global.tags=1`", "global.tags is not a value of the chart"),
            ("`dapr_sentry_down`", "dapr_sentry_down is not a metric"),
            ("`a_test_that_was_there_once`", "a_test_that_was_there_once is not a test"),
            ("`no_test_of_that_name`", "no_test_of_that_name is not a test"),
            (
                "| # | tests |\n|---|---|\n| 1 | `short_name`, `gone_name` |",
                "gone_name is not a test, and stands where tests are listed",
            ),
            ("`tests/no.rs`", "tests/no.rs does not exist"),
            ("`cargo xtask damo`", "cargo xtask damo does not exist"),
            (
                "\n## Invariants\n1. It holds.\n## Others\n1. No invariant.",
                "no test holds the invariant: 1. It holds.",
            ),
        ] {
            assert_eq!(offences(text), [what]);
        }
    }
}
