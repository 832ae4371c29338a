//! The report of the test runner.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Number of slowest tests that a run lists.
const SLOWEST: usize = 10;
/// Path of the report, below cargo's target folder.
const REPORT: &str = "nextest/default/junit.xml";

/// The slowest tests of the last run, one line each, the slowest first.
///
/// # Errors
/// When there is no report.
pub(crate) fn slowest(target: &Path) -> Result<Vec<String>> {
    let report = target.join(REPORT);
    let report = fs::read_to_string(&report)
        .with_context(|| format!("read the report of the tests, {}", report.display()))?;
    let mut tests = durations(&report);
    tests.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let line = |(seconds, name): &(f64, String)| format!("{seconds:8.1} s  {name}");
    Ok(tests.iter().take(SLOWEST).map(line).collect())
}

/// Seconds and name of each test of a `JUnit` report.
fn durations(report: &str) -> Vec<(f64, String)> {
    let test = |element: &str| {
        let suite = attribute(element, "classname")?;
        let name = attribute(element, "name")?;
        Some((attribute(element, "time")?.parse().ok()?, format!("{suite} {name}")))
    };
    report.split("<testcase ").skip(1).filter_map(test).collect()
}

/// The value of an attribute of the element that `text` starts with.
fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let element = text.split('>').next()?;
    let mut attributes = element.split("\" ");
    let found = attributes.find_map(|one| one.trim().strip_prefix(name)?.strip_prefix("=\""))?;
    found.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_seconds_and_names_of_a_report() {
        let report = r#"<testsuites><testsuite name="sentry" tests="2">
            <testcase name="ca::a" classname="sentry" timestamp="2026-01-01" time="0.250">
            </testcase><testcase name="b" classname="blackbox::e2e" time="61.5"/>"#;
        assert_eq!(
            durations(report),
            [(0.25, "sentry ca::a".to_owned()), (61.5, "blackbox::e2e b".to_owned())]
        );
    }
}
