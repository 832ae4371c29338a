//! Default values for annotations, set for the cluster or for a Namespace.
//!
//! An annotation of the pod has precedence over the default of its Namespace, and that over the
//! default of the cluster; an empty annotation counts as set. Only annotations that the sidecar
//! alone uses can have defaults: operator, sentry and CLI read the others from the pod or its
//! template.

use std::collections::BTreeMap;

use resources::annotations as key;
use serde_json::{Value, json};

use super::view::PodView;

/// The annotations that can have defaults.
pub(crate) const DEFAULTABLE: &[&str] = &[
    key::ANNOTATION_SIDECAR_IMAGE,
    key::ANNOTATION_LOG_LEVEL,
    key::ANNOTATION_LOG_AS_JSON,
    key::ANNOTATION_ENABLE_API_LOGGING,
    key::ANNOTATION_ENABLE_NATIVE_SIDECAR,
    key::ANNOTATION_NATIVE_SIDECAR_POSITION,
    key::ANNOTATION_ENV,
    key::ANNOTATION_GRACEFUL_SHUTDOWN_SECONDS,
    key::ANNOTATION_BLOCK_SHUTDOWN_DURATION,
    key::ANNOTATION_CPU_REQUEST,
    key::ANNOTATION_CPU_LIMIT,
    key::ANNOTATION_MEMORY_REQUEST,
    key::ANNOTATION_MEMORY_LIMIT,
    key::ANNOTATION_LIVENESS_DELAY,
    key::ANNOTATION_LIVENESS_TIMEOUT,
    key::ANNOTATION_LIVENESS_PERIOD,
    key::ANNOTATION_LIVENESS_THRESHOLD,
    key::ANNOTATION_READINESS_DELAY,
    key::ANNOTATION_READINESS_TIMEOUT,
    key::ANNOTATION_READINESS_PERIOD,
    key::ANNOTATION_READINESS_THRESHOLD,
    key::ANNOTATION_SECCOMP_PROFILE_TYPE,
];

/// Defaults of the cluster or of a Namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults(BTreeMap<&'static str, String>);

impl Defaults {
    #[cfg(test)]
    pub(crate) const NONE: &'static Self = &Self::new();

    /// No defaults.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// The annotations that can be defaults, and the keys of the other `dapr.io` annotations.
    pub(crate) fn of_annotations(annotations: &BTreeMap<String, String>) -> (Self, Vec<String>) {
        let (mut defaults, mut others) = (BTreeMap::new(), Vec::new());
        for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(key::PREFIX)) {
            match defaultable(key) {
                Some(key) => {
                    defaults.insert(key, value.clone());
                }
                None => others.push(key.clone()),
            }
        }
        (Self(defaults), others)
    }

    /// Parses a JSON object of annotations; the prefix `dapr.io/` of keys is optional.
    ///
    /// # Errors
    /// The text is not a JSON object, a key cannot have a default, or a value is not a scalar.
    pub fn parse(text: &str) -> Result<Self, BadDefaults> {
        let object: serde_json::Map<String, Value> =
            serde_json::from_str(text).map_err(|_| BadDefaults::NoObject)?;
        let mut defaults = BTreeMap::new();
        for (key, value) in object {
            let full = format!("{}{}", key::PREFIX, key.trim_start_matches(key::PREFIX));
            let known = defaultable(&full).ok_or_else(|| BadDefaults::Key { key: key.clone() })?;
            let value = match value {
                Value::String(text) => text,
                Value::Bool(_) | Value::Number(_) => value.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => {
                    return Err(BadDefaults::Value(key));
                }
            };
            defaults.insert(known, value);
        }
        Ok(Self(defaults))
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// Text that is not a valid set of defaults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDefaults {
    #[error("not a JSON object of annotations")]
    NoObject,
    #[error("{key:?} cannot have a default; use one of {}", DEFAULTABLE.join(", "))]
    Key { key: String },
    #[error("the value of {0:?} is not a string, a number or a boolean")]
    Value(String),
}

fn defaultable(key: &str) -> Option<&'static str> {
    DEFAULTABLE.iter().find(|known| **known == key).copied()
}

/// The defaults that apply to a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DefaultLayers<'a> {
    pub(crate) cluster: &'a Defaults,
    /// Have precedence over those of the cluster.
    pub(crate) namespace: &'a Defaults,
}

impl<'a> DefaultLayers<'a> {
    #[cfg(test)]
    pub(crate) const NONE: DefaultLayers<'static> =
        DefaultLayers { cluster: Defaults::NONE, namespace: Defaults::NONE };

    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.namespace.get(key).or_else(|| self.cluster.get(key))
    }

    /// The defaults that a pod uses, by source, as value of
    /// [`key::ANNOTATION_APPLIED_DEFAULTS`]; `None` if it uses none.
    pub(crate) fn applied_to(&self, pod: &PodView<'_>) -> Option<String> {
        let open = |key: &str| pod.annotation(key).is_none();
        let namespace: BTreeMap<_, _> = self.namespace.0.iter().filter(|(k, _)| open(k)).collect();
        let cluster = self.cluster.0.iter().filter(|(k, _)| open(k));
        let cluster: BTreeMap<_, _> = cluster.filter(|(k, _)| !namespace.contains_key(k)).collect();
        let mut sources = BTreeMap::new();
        for (source, applied) in [("cluster", cluster), ("namespace", namespace)] {
            if !applied.is_empty() {
                sources.insert(source, applied);
            }
        }
        (!sources.is_empty()).then(|| json!(sources).to_string())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn every_key_is_a_pod_annotation() {
        assert!(DEFAULTABLE.iter().all(|key| key::POD.contains(key)));
    }

    #[test]
    fn the_schema_of_the_chart_lists_the_same_keys() {
        let schema = include_str!("../../../charts/dapr/values.schema.json");
        let schema: Value = serde_json::from_str(schema).unwrap();
        let path =
            "/properties/dapr_sidecar_injector/properties/sidecarDefaults/propertyNames/enum";
        let listed: Vec<&str> = schema
            .pointer(path)
            .unwrap()
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        let short: Vec<&str> =
            DEFAULTABLE.iter().filter_map(|key| key.strip_prefix(key::PREFIX)).collect();
        assert_eq!(listed, [short, DEFAULTABLE.to_vec()].concat());
    }

    #[rstest]
    #[case(r#"{"log-level": "debug", "dapr.io/log-as-json": true}"#, Ok(2))]
    #[case("{}", Ok(0))]
    #[case("[]", Err(BadDefaults::NoObject))]
    #[case(r#"{"app-port": "1"}"#, Err(BadDefaults::Key { key: "app-port".to_owned() }))]
    #[case(r#"{"env": ["A=1"]}"#, Err(BadDefaults::Value("env".to_owned())))]
    fn parses_defaults_of_the_cluster(
        #[case] text: &str,
        #[case] want: Result<usize, BadDefaults>,
    ) {
        assert_eq!(Defaults::parse(text).map(|d| d.0.len()), want);
    }

    #[test]
    fn pod_namespace_and_cluster_have_precedence_in_this_order() {
        let cluster =
            Defaults::parse(r#"{"log-level": "info", "env": "A=1", "sidecar-image": "i"}"#)
                .unwrap();
        let namespace = Defaults::parse(r#"{"log-level": "debug", "sidecar-image": "j"}"#).unwrap();
        let layers = DefaultLayers { cluster: &cluster, namespace: &namespace };
        assert_eq!(layers.get(key::ANNOTATION_LOG_LEVEL), Some("debug"));
        assert_eq!(layers.get(key::ANNOTATION_ENV), Some("A=1"));
        let pod = json!({"metadata": {"annotations": {"dapr.io/sidecar-image": ""}}, "spec": {}});
        let pod = PodView::parse(&pod).unwrap();
        let want = r#"{"cluster":{"dapr.io/env":"A=1"},"namespace":{"dapr.io/log-level":"debug"}}"#;
        assert_eq!(layers.applied_to(&pod).as_deref(), Some(want));
        assert_eq!(DefaultLayers::NONE.applied_to(&pod), None);
    }
}
