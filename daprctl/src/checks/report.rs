//! The report: all findings as a table or as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::checks::api;
use crate::checks::finding::{Finding, Group, Status};
use crate::facts::{Distribution, Facts, ReadError};
use crate::output::words::count;

/// The result of a run. docs/check.md describes its JSON form, whose members are stable.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Whether no finding is an error.
    success: bool,
    /// Namespace of the control plane.
    namespace: String,
    /// Installed product.
    installation: Distribution,
    /// Its version: the tag of the operator's image.
    version: Option<String>,
    /// The findings, ordered by group.
    checks: Vec<Finding>,
}

impl Report {
    /// Orders the findings by group.
    pub(crate) fn new(facts: &Facts, mut checks: Vec<Finding>) -> Self {
        checks.sort_by_key(|finding| finding.group); // stable: keeps the order within a group
        Self {
            success: checks.iter().all(|finding| finding.status != Status::Error),
            namespace: facts.namespace.clone(),
            installation: facts.distribution(),
            version: facts.version_of("dapr-operator"),
            checks,
        }
    }

    /// The report if the API server does not answer.
    pub(crate) fn unreachable(namespace: &str, error: &ReadError) -> Self {
        let remedy = "check the kubeconfig and its context (`kubectl config current-context`), the \
                      credentials, and the network path to the API server";
        let text = error.to_string();
        Self {
            success: false,
            namespace: namespace.to_owned(),
            installation: Distribution::None,
            version: None,
            checks: vec![Finding::error(Group::KubernetesApi, api::ANSWERS, text, remedy)],
        }
    }

    /// Whether no finding is an error.
    pub(crate) fn success(&self) -> bool {
        self.success
    }

    /// One line per check, followed by its remedy.
    pub(crate) fn to_table(&self) -> String {
        let mut text = String::new();
        let mut heading: Option<Group> = None;
        for finding in &self.checks {
            if heading != Some(finding.group) {
                let name = finding.group.name();
                let gap = if heading.is_some() { "\n" } else { "" };
                let _ = writeln!(text, "{gap}{name}\n{}", "-".repeat(name.len()));
                heading = Some(finding.group);
            }
            let mark = match finding.status {
                Status::Ok => '√',
                Status::Warning => '‼',
                Status::Error => '×',
                Status::Unknown => '?',
            };
            let _ = writeln!(text, "{mark} {}", finding.text);
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(text, "    {remedy}");
            }
        }
        let number = |status| self.checks.iter().filter(|f| f.status == status).count();
        let _ = writeln!(
            text,
            "\n{} ok, {}, {}, {} unknown",
            number(Status::Ok),
            count(number(Status::Warning), "warning"),
            count(number(Status::Error), "error"),
            number(Status::Unknown)
        );
        text
    }

    /// One JSON object and a newline.
    ///
    /// # Errors
    /// Serialisation fails; every member has a JSON form.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
