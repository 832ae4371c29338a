//! The result of a check.

use runtime::printable;
use serde::Serialize;

use crate::facts::ReadError;

/// Status of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// No problem.
    Ok,
    /// Works, but needs attention.
    Warning,
    /// Does not work. The only status with exit code 1.
    Error,
    /// A fact could not be read.
    Unknown,
}

/// Groups of checks, in the order of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Group {
    /// The API server.
    KubernetesApi,
    Nodes,
    /// Rights of the caller. Before the installation only.
    Permissions,
    /// Objects that prevent an installation. Before the installation only.
    Existing,
    /// Workloads and settings of the control plane.
    ControlPlane,
    /// Custom resource definitions and conversion.
    Definitions,
    /// The CA.
    Identity,
    /// Injection of sidecars into new pods.
    Injection,
    /// Sidecars and Components.
    DataPlane,
}

impl Group {
    /// Name of the group, as in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KubernetesApi => "kubernetes-api",
            Self::Nodes => "nodes",
            Self::Permissions => "permissions",
            Self::Existing => "existing",
            Self::ControlPlane => "control-plane",
            Self::Definitions => "definitions",
            Self::Identity => "identity",
            Self::Injection => "injection",
            Self::DataPlane => "data-plane",
        }
    }
}

/// The result of a check: one line, and the remedy for a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) group: Group,
    /// Id of the check; stable across versions.
    pub(crate) id: &'static str,
    pub(crate) status: Status,
    /// The observation in one line.
    pub(crate) text: String,
    /// The remedy; `None` for [`Status::Ok`].
    pub(crate) remedy: Option<String>,
}

impl Finding {
    /// A finding without a problem.
    pub(crate) fn ok(group: Group, id: &'static str, text: impl AsRef<str>) -> Self {
        Self { group, id, status: Status::Ok, text: printable(text.as_ref()), remedy: None }
    }

    /// A finding that needs attention.
    pub(crate) fn warning(
        group: Group,
        id: &'static str,
        text: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self::bad(group, id, Status::Warning, text.as_ref(), remedy.as_ref())
    }

    /// A finding about a failure.
    pub(crate) fn error(
        group: Group,
        id: &'static str,
        text: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self::bad(group, id, Status::Error, text.as_ref(), remedy.as_ref())
    }

    /// A finding without the facts that it needs.
    pub(crate) fn unknown(group: Group, id: &'static str, error: &ReadError) -> Self {
        Self::bad(group, id, Status::Unknown, &error.to_string(), error.remedy())
    }

    fn bad(group: Group, id: &'static str, status: Status, text: &str, remedy: &str) -> Self {
        let remedy = Some(printable(remedy));
        Self { group, id, status, text: printable(text), remedy }
    }
}

/// Evaluates a fact, or returns [`Finding::unknown`].
pub(crate) fn about<T>(
    group: Group,
    id: &'static str,
    fact: &Result<T, ReadError>,
    judge: impl FnOnce(&T) -> Finding,
) -> Finding {
    match fact {
        Ok(value) => judge(value),
        Err(error) => Finding::unknown(group, id, error),
    }
}

/// The first five names and the number of the others.
pub(crate) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortens_lists() {
        let names: Vec<String> = (1..=7).map(|n| n.to_string()).collect();
        assert_eq!(some_of(&names), "1, 2, 3, 4, 5 and 2 more");
        assert_eq!(some_of(names.get(..2).unwrap_or_default()), "1, 2");
    }

    #[test]
    fn control_characters_are_replaced() {
        let finding = Finding::error(Group::Nodes, "x", "a\nb\u{1b}[31m", "c\td");
        assert_eq!((finding.text.as_str(), finding.remedy.as_deref()), ("a b [31m", Some("c d")));
    }
}
