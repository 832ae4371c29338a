//! All findings, printed for people or programs.

use std::fmt::Write as _;

use anyhow::Context as _;
use serde::Serialize;

use crate::checks;
use crate::facts::{Facts, Flavour, Unread};
use crate::finding::{Finding, Group, Status};

/// The outcome of a run. Its JSON form is described in docs/check.md; members are only ever added.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// No finding is an error.
    success: bool,
    /// Namespace that was looked at.
    namespace: String,
    /// Whose control plane is there.
    installation: Flavour,
    /// Its version, by the tag of the operator's image.
    version: Option<String>,
    /// Every finding, in the order of the groups.
    checks: Vec<Finding>,
}

impl Report {
    /// Puts the findings in order.
    pub fn new(facts: &Facts, mut checks: Vec<Finding>) -> Self {
        checks.sort_by_key(|finding| finding.group); // stable: within a group as they were made
        Self {
            success: checks.iter().all(|finding| finding.status != Status::Error),
            namespace: facts.namespace.clone(),
            installation: facts.flavour(),
            version: facts.version_of("dapr-operator"),
            checks,
        }
    }

    /// The API server does not answer, so nothing else is known.
    pub fn unreachable(namespace: &str, unread: &Unread) -> Self {
        let remedy = "look at the kubeconfig and its context (`kubectl config current-context`), \
                      at the credentials, and at the way to the API server";
        let text = unread.to_string();
        Self {
            success: false,
            namespace: namespace.to_owned(),
            installation: Flavour::None,
            version: None,
            checks: vec![Finding::error(Group::KubernetesApi, checks::api::ANSWERS, text, remedy)],
        }
    }

    /// Whether no finding is an error.
    pub fn success(&self) -> bool {
        self.success
    }

    /// One line per check, the remedy below it.
    pub fn to_table(&self) -> String {
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
        let count = |status| self.checks.iter().filter(|f| f.status == status).count();
        let _ = writeln!(
            text,
            "\n{} ok, {} warnings, {} errors, {} unknown",
            count(Status::Ok),
            count(Status::Warning),
            count(Status::Error),
            count(Status::Unknown)
        );
        text
    }

    /// One JSON object and a newline.
    ///
    /// # Errors
    /// Never in practice: every member has a JSON form.
    pub fn to_json(&self) -> anyhow::Result<String> {
        let text = serde_json::to_string_pretty(self).context("print the report as JSON")?;
        Ok(text + "\n")
    }
}
