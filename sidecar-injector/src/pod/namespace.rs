//! Labels and annotations of a Namespace that apply to the sidecars of its pods.

use std::collections::BTreeMap;

use resources::labels::LABEL_INJECTION;

use super::defaults::Defaults;

/// Pod Security level that a namespace enforces. Source: Kubernetes 1.25.
const LABEL_ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// The part of a Namespace that applies to sidecars.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespacePolicy {
    pub(crate) injection: Injection,
    /// Defaults for annotations of its pods.
    pub(crate) defaults: Defaults,
    /// Pod Security `restricted` is enforced: the API server rejects a sidecar that does not drop
    /// all capabilities or has no seccomp profile.
    pub(crate) restricted: bool,
}

/// Value of the label [`LABEL_INJECTION`] of a Namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Injection {
    /// Each pod decides by its annotation. The default.
    #[default]
    AsAnnotated,
    /// Pods with an app id get a sidecar unless `dapr.io/enabled` is false.
    Enabled,
    /// No pod gets a sidecar.
    Disabled,
}

impl NamespacePolicy {
    /// A Namespace without labels and annotations for sidecars.
    pub const NONE: &'static Self =
        &Self { injection: Injection::AsAnnotated, defaults: Defaults::new(), restricted: false };

    /// Reads labels and annotations. The second value lists those without effect, for the log.
    pub fn of(
        labels: &BTreeMap<String, String>,
        annotations: &BTreeMap<String, String>,
    ) -> (Self, Vec<String>) {
        let (defaults, others) = Defaults::of_annotations(annotations);
        let mut ignored: Vec<String> = others
            .iter()
            .map(|key| format!("annotation {key} cannot be a default for pods"))
            .collect();
        let injection = match labels.get(LABEL_INJECTION).map(String::as_str) {
            None => Injection::AsAnnotated,
            Some("enabled") => Injection::Enabled,
            Some("disabled") => Injection::Disabled,
            Some(other) => {
                let text =
                    format!("label {LABEL_INJECTION} has value {other}; use enabled or disabled");
                ignored.push(text);
                Injection::AsAnnotated
            }
        };
        let restricted = labels.get(LABEL_ENFORCE).is_some_and(|level| level == "restricted");
        (Self { injection, defaults, restricted }, ignored)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

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
        #[case] ignored: usize,
    ) {
        let (policy, found) = NamespacePolicy::of(&map(labels), &map(&[]));
        assert_eq!(
            (policy.injection, policy.restricted, found.len()),
            (injection, restricted, ignored)
        );
    }

    #[test]
    fn names_annotations_that_cannot_be_defaults() {
        let annotations =
            map(&[("dapr.io/log-level", "debug"), ("dapr.io/app-id", "a"), ("x", "y")]);
        let (policy, found) = NamespacePolicy::of(&map(&[]), &annotations);
        assert_ne!(policy.defaults, Defaults::new());
        assert_eq!(found, ["annotation dapr.io/app-id cannot be a default for pods"]);
    }
}
