//! What one check came to.

use runtime::printable;
use serde::Serialize;

use crate::facts::Unread;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, but somebody should look at it.
    Warning,
    /// Does not work. The only one that makes the command fail.
    Error,
    /// Could not be found out.
    Unknown,
}

/// What belongs together; printed under one heading, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The API server.
    KubernetesApi,
    /// Where pods run.
    Nodes,
    /// What the caller may do. Before an installation only.
    Permissions,
    /// What stands in the way. Before an installation only.
    Existing,
    /// The control plane's own workloads.
    ControlPlane,
    /// The custom resource definitions and their conversion.
    Definitions,
    /// The CA.
    Identity,
    /// Sidecars for new pods.
    Injection,
    /// Sidecars of pods, and Components.
    DataPlane,
}

impl Group {
    /// The heading, as in JSON.
    pub fn name(self) -> &'static str {
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

/// What one check came to: one line, and what to do when it is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Where it belongs.
    pub group: Group,
    /// Which check; the same in every version.
    pub id: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was seen, in one line.
    pub text: String,
    /// What to do, unless all is well.
    pub remedy: Option<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(group: Group, id: &'static str, text: impl AsRef<str>) -> Self {
        Self { group, id, status: Status::Ok, text: printable(text.as_ref()), remedy: None }
    }

    /// Works, but somebody should look at it.
    pub fn warning(
        group: Group,
        id: &'static str,
        text: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self::bad(group, id, Status::Warning, text.as_ref(), remedy.as_ref())
    }

    /// Does not work.
    pub fn error(
        group: Group,
        id: &'static str,
        text: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self::bad(group, id, Status::Error, text.as_ref(), remedy.as_ref())
    }

    /// Could not be found out, because something could not be read.
    pub fn unknown(group: Group, id: &'static str, unread: &Unread) -> Self {
        Self::bad(group, id, Status::Unknown, &unread.to_string(), unread.remedy())
    }

    fn bad(group: Group, id: &'static str, status: Status, text: &str, remedy: &str) -> Self {
        let remedy = Some(printable(remedy));
        Self { group, id, status, text: printable(text), remedy }
    }
}

/// The finding about something that was read, or that it could not be.
pub(crate) fn about<T>(
    group: Group,
    id: &'static str,
    fact: &Result<T, Unread>,
    judge: impl FnOnce(&T) -> Finding,
) -> Finding {
    match fact {
        Ok(value) => judge(value),
        Err(unread) => Finding::unknown(group, id, unread),
    }
}

/// At most five names of a list, and how many more there are.
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
    fn lists_are_cut() {
        let names: Vec<String> = (1..=7).map(|n| n.to_string()).collect();
        assert_eq!(some_of(&names), "1, 2, 3, 4, 5 and 2 more");
        assert_eq!(some_of(names.get(..2).unwrap_or_default()), "1, 2");
    }

    #[test]
    fn foreign_text_stays_on_its_line() {
        let finding = Finding::error(Group::Nodes, "x", "a\nb\u{1b}[31m", "c\td");
        assert_eq!((finding.text.as_str(), finding.remedy.as_deref()), ("a b [31m", Some("c d")));
    }
}
