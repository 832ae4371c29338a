//! The findings as text, JSON, SARIF 2.1.0 (OASIS) and workflow commands of GitHub.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::json;

use super::{Finding, Level};
use crate::output::words::count;

/// Output format of `daprctl lint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LintOutput {
    Text,
    Json,
    Sarif,
    Github,
}

/// The findings in a format. `files` is how many were checked.
///
/// # Errors
/// Serialisation fails; every member has a JSON form.
pub(crate) fn print(
    output: LintOutput,
    findings: &[Finding],
    files: usize,
) -> serde_json::Result<String> {
    match output {
        LintOutput::Text => Ok(text(findings, files)),
        LintOutput::Github => Ok(github(findings)),
        LintOutput::Json => {
            let errors = findings.iter().any(|finding| finding.level == Level::Error);
            let report = json!({"success": !errors, "files": files, "findings": findings});
            Ok(serde_json::to_string_pretty(&report)? + "\n")
        }
        LintOutput::Sarif => Ok(serde_json::to_string_pretty(&sarif(findings))? + "\n"),
    }
}

fn level(finding: &Finding) -> &'static str {
    match finding.level {
        Level::Error => "error",
        Level::Warning => "warning",
    }
}

/// The object before its problem.
fn subject(finding: &Finding) -> String {
    let object = &finding.object;
    if object.is_empty() { String::new() } else { format!("{object}: ") }
}

fn text(findings: &[Finding], files: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        let Finding { file, line, id, text: words, .. } = finding;
        let (level, subject) = (level(finding), subject(finding));
        let _ = writeln!(text, "{file}:{line}: {level} [{id}] {subject}{words}");
    }
    let number = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (errors, warnings) = (number(Level::Error), number(Level::Warning));
    let (errors, warnings) = (count(errors, "error"), count(warnings, "warning"));
    let _ = writeln!(text, "{}, {errors}, {warnings}", count(files, "file"));
    text
}

/// One workflow command for each finding. Percent signs and line ends are escaped, in properties also
/// colons and commas (GitHub, workflow commands).
fn github(findings: &[Finding]) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    let mut text = String::new();
    for finding in findings {
        let Finding { file, line, id, object, text: words, .. } = finding;
        let title = property(&format!("{object} {id}"));
        let (kind, file, words) = (level(finding), property(file), data(words));
        let _ = writeln!(text, "::{kind} file={file},line={line},title={title}::{words}");
    }
    text
}

fn sarif(findings: &[Finding]) -> serde_json::Value {
    let ids: BTreeSet<_> = findings.iter().map(|finding| finding.id.as_str()).collect();
    let rules: Vec<_> = ids.into_iter().map(|id| json!({"id": id})).collect();
    let results: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "ruleId": finding.id,
                "level": level(finding),
                "message": {"text": subject(finding) + &finding.text},
                "locations": [{"physicalLocation": {
                    "artifactLocation": {"uri": finding.file},
                    "region": {"startLine": finding.line},
                }}],
            })
        })
        .collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "daprctl", "version": runtime::VERSION, "rules": rules}},
            "results": results,
        }],
    })
}
