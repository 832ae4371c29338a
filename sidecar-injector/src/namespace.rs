//! What a Namespace decides about the sidecars of its pods.

use std::collections::BTreeMap;

use resources::labels::LABEL_INJECTION;

use crate::defaults::Defaults;

/// The label by which Pod Security admission is told what to enforce. Source: Kubernetes 1.25.
const LABEL_ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// A Namespace, as far as sidecars are concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePolicy {
    /// Its switch.
    pub injection: Injection,
    /// Defaults for annotations of its pods.
    pub defaults: Defaults,
    /// Pod Security `restricted` is enforced: sidecars must drop all capabilities and have a
    /// seccomp profile, or the pod is refused.
    pub restricted: bool,
}

/// The switch of a Namespace: label [`LABEL_INJECTION`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Injection {
    /// Pods say themselves whether they want a sidecar.
    #[default]
    AsAnnotated,
    /// Pods with an app id get one unless they refuse.
    Enabled,
    /// No pod gets one.
    Disabled,
}

impl NamespacePolicy {
    /// A Namespace that says nothing.
    pub const NONE: &'static Self =
        &Self { injection: Injection::AsAnnotated, defaults: Defaults::new(), restricted: false };

    /// Reads labels and annotations; the second part is for the log: what has no effect.
    pub fn of(
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> (Self, Vec<String>) {
        let (defaults, others) = Defaults::of_annotations(annotations);
        let mut remarks: Vec<String> =
            others.iter().map(|key| format!("annotation {key} cannot be a default")).collect();
        let injection = match labels.get(LABEL_INJECTION).map(String::as_str) {
            None => Injection::AsAnnotated,
            Some("enabled") => Injection::Enabled,
            Some("disabled") => Injection::Disabled,
            Some(other) => {
                let text = format!("label {LABEL_INJECTION} is {other}, not enabled or disabled");
                remarks.push(text);
                Injection::AsAnnotated
            }
        };
        let restricted = labels.get(LABEL_ENFORCE).is_some_and(|level| level == "restricted");
        (Self { injection, defaults, restricted }, remarks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[rstest]
    #[case(&[], Injection::AsAnnotated, false, 0)]
    #[case(&[("dapr.io/injection", "enabled")], Injection::Enabled, false, 0)]
    #[case(&[("dapr.io/injection", "disabled")], Injection::Disabled, false, 0)]
    #[case(&[("dapr.io/injection", "off")], Injection::AsAnnotated, false, 1)]
    #[case(&[(LABEL_ENFORCE, "restricted")], Injection::AsAnnotated, true, 0)]
    #[case(&[(LABEL_ENFORCE, "baseline")], Injection::AsAnnotated, false, 0)]
    fn reads_labels(
        #[case] labels: &[(&str, &str)],
        #[case] injection: Injection,
        #[case] restricted: bool,
        #[case] remarks: usize,
    ) {
        let (policy, said) = NamespacePolicy::of(&map(labels), &map(&[]));
        assert_eq!(
            (policy.injection, policy.restricted, said.len()),
            (injection, restricted, remarks)
        );
    }

    #[test]
    fn annotations_that_cannot_be_defaults_are_named() {
        let annotations =
            map(&[("dapr.io/log-level", "debug"), ("dapr.io/app-id", "a"), ("x", "y")]);
        let (policy, said) = NamespacePolicy::of(&map(&[]), &annotations);
        assert!(!policy.defaults.is_empty());
        assert_eq!(said, ["annotation dapr.io/app-id cannot be a default"]);
    }
}
