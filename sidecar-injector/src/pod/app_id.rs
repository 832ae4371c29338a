//! The app id: part of the SPIFFE ID, value of a label and prefix of the Service name.

use std::fmt;

use resources::annotations::ANNOTATION_APP_ID;

use super::view::PodView;

/// Suffix that the operator appends to an app id for the Service name. Source: Dapr 1.18.
const SERVICE_SUFFIX: &str = "-dapr";
/// Maximum length of a DNS-1123 label (RFC 1123 §2.1, RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;

/// A checked app id: at most 58 characters of `a-z`, `0-9` and `-`, with a letter or a digit at
/// both ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AppId(String);

impl AppId {
    /// The app id of a pod: its annotation, or the pod name if the annotation is absent or empty.
    ///
    /// # Errors
    /// The pod has neither, or the id cannot name a Service.
    pub(crate) fn of(pod: &PodView<'_>, namespace: &str) -> Result<Self, AppIdError> {
        let annotated = pod.annotation(ANNOTATION_APP_ID).filter(|id| !id.is_empty());
        let id = annotated.unwrap_or_else(|| pod.name());
        if id.is_empty() {
            return Err(AppIdError::Empty { pod: describe(pod, namespace) });
        }
        match violated_rule(id) {
            None => Ok(Self(id.to_owned())),
            Some(rule) => Err(AppIdError::Invalid {
                id: printable(id),
                pod: describe(pod, namespace),
                from: if annotated.is_some() {
                    "annotation"
                } else {
                    "pod name, in the absence of annotation"
                },
                rule,
            }),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pod without a usable app id. The first words of each message are those of Dapr 1.18.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppIdError {
    /// The pod has neither an annotation nor a name.
    #[error(
        "value for the {ANNOTATION_APP_ID} annotation is empty and {pod} has no name yet that could replace it: \
         set {ANNOTATION_APP_ID} in the pod template"
    )]
    Empty {
        /// The pod and its owner.
        pod: String,
    },
    /// The id, or the Service name derived from it, is not a DNS-1123 label.
    #[error(
        "invalid app id (input: '{id}', service: '{id}{SERVICE_SUFFIX}'): {rule} ({from} {ANNOTATION_APP_ID} of {pod}); \
         use at most 58 characters of a-z, 0-9 and '-', with a letter or digit at both ends"
    )]
    Invalid {
        /// The id, printable.
        id: String,
        /// The pod and its owner.
        pod: String,
        /// Source of the id.
        from: &'static str,
        /// The rule that it violates.
        rule: Rule,
    },
}

/// The rule that an app id violates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    #[error("must be no more than 63 characters including the suffix, 58 without it, and has {0}")]
    TooLong(usize),
    #[error("a lowercase RFC 1123 label cannot contain {0:?}")]
    Character(char),
    #[error("a lowercase RFC 1123 label must start and end with an alphanumeric character")]
    Ends,
}

fn violated_rule(id: &str) -> Option<Rule> {
    let forbidden = |c: &char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-');
    if let Some(c) = id.chars().find(forbidden) {
        return Some(Rule::Character(c));
    }
    if id.starts_with('-') || id.ends_with('-') {
        return Some(Rule::Ends);
    }
    (id.len() + SERVICE_SUFFIX.len() > MAX_LABEL).then_some(Rule::TooLong(id.len()))
}

/// `pod default/web-* of ReplicaSet web`.
fn describe(pod: &PodView<'_>, namespace: &str) -> String {
    let name = printable(&pod.display_name());
    let owner = pod
        .owner()
        .map(|owner| format!(" of {} {}", printable(&owner.kind), printable(&owner.name)))
        .unwrap_or_default();
    format!("pod {namespace}/{name}{owner}")
}

/// At most 80 characters with control characters escaped, for logs and terminals.
fn printable(text: &str) -> String {
    let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().nth(80).is_some() { format!("{shown}…") } else { shown }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case("nodeapp", None)]
    #[case("3-a", None)]
    #[case::longest(&"a".repeat(58), None)]
    #[case::long(&"a".repeat(59), Some(Rule::TooLong(59)))]
    #[case("Node", Some(Rule::Character('N')))]
    #[case("a.b", Some(Rule::Character('.')))]
    #[case("a b", Some(Rule::Character(' ')))]
    #[case("-a", Some(Rule::Ends))]
    #[case("dash-", Some(Rule::Ends))]
    fn an_app_id_names_a_service(#[case] id: &str, #[case] want: Option<Rule>) {
        assert_eq!(violated_rule(id), want);
    }

    #[rstest]
    #[case::annotation(json!({"name": "p", "annotations": {"dapr.io/app-id": "a"}}), "a")]
    #[case::empty_annotation(json!({"name": "p", "annotations": {"dapr.io/app-id": ""}}), "p")]
    #[case::name(json!({"name": "web-0"}), "web-0")]
    fn falls_back_to_the_pods_name(#[case] metadata: serde_json::Value, #[case] want: &str) {
        let pod = json!({"metadata": metadata, "spec": {}});
        let id = AppId::of(&PodView::parse(&pod).unwrap(), "default").unwrap();
        assert_eq!(id.as_str(), want);
    }

    #[test]
    fn a_refusal_names_pod_owner_and_remedy() {
        let owner = json!([{"kind": "ReplicaSet", "name": "web-7d", "controller": true}]);
        let mut pod = json!({
            "metadata": {"generateName": "web-7d-", "ownerReferences": owner}, "spec": {}
        });
        let refusal = |pod: &serde_json::Value| {
            AppId::of(&PodView::parse(pod).unwrap(), "shop").unwrap_err().to_string()
        };
        insta::assert_snapshot!(refusal(&pod), @"value for the dapr.io/app-id annotation is empty and pod shop/web-7d-* of ReplicaSet web-7d has no name yet that could replace it: set dapr.io/app-id in the pod template");
        pod["metadata"]["annotations"] = json!({"dapr.io/app-id": "My\nApp"});
        insta::assert_snapshot!(refusal(&pod), @r"invalid app id (input: 'My\nApp', service: 'My\nApp-dapr'): a lowercase RFC 1123 label cannot contain 'M' (annotation dapr.io/app-id of pod shop/web-7d-* of ReplicaSet web-7d); use at most 58 characters of a-z, 0-9 and '-', with a letter or digit at both ends");
    }
}
