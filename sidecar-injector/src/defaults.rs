//! Annotations that pods need not repeat: defaults of the cluster and of a Namespace.
//!
//! A pod's own annotation always wins, an empty one included; a Namespace wins over the cluster.
//! Only annotations that concern the sidecar alone can be defaults: the others are also read by
//! the operator, by sentry or by the CLI, who look at the pod and its template.

use std::collections::BTreeMap;

use resources::annotations as key;
use serde_json::{Value, json};

use crate::pod::PodView;

/// The annotations that can be defaults.
pub const DEFAULTABLE: &[&str] = &[
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

/// Defaults of one source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults(BTreeMap<&'static str, String>);

impl Defaults {
    /// No defaults.
    pub const NONE: &'static Self = &Self::new();

    /// No defaults yet.
    pub const fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Those among some annotations that can be defaults, and the keys of `dapr.io` that cannot.
    pub fn of_annotations(annotations: &BTreeMap<String, String>) -> (Self, Vec<String>) {
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

    /// Reads a JSON object of annotations, their keys with or without `dapr.io/`.
    ///
    /// # Errors
    /// [`BadDefaults`]
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

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

/// Defaults of the cluster that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDefaults {
    /// The text is no JSON object.
    #[error("it is not a JSON object of annotations")]
    NoObject,
    /// An annotation that cannot be a default.
    #[error("{key:?} cannot be a default; these can: {}", DEFAULTABLE.join(", "))]
    Key {
        /// As given.
        key: String,
    },
    /// A list or an object.
    #[error("the value of {0:?} is not a text, a number or a boolean")]
    Value(String),
}

fn defaultable(key: &str) -> Option<&'static str> {
    DEFAULTABLE.iter().find(|known| **known == key).copied()
}

/// The defaults that hold for a pod.
#[derive(Debug, Clone, Copy)]
pub struct Layers<'a> {
    /// Those of the cluster.
    pub cluster: &'a Defaults,
    /// Those of the pod's Namespace.
    pub namespace: &'a Defaults,
}

impl<'a> Layers<'a> {
    /// No defaults.
    pub const NONE: Layers<'static> = Layers { cluster: Defaults::NONE, namespace: Defaults::NONE };

    /// The default for an annotation.
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.namespace.get(key).or_else(|| self.cluster.get(key))
    }

    /// The defaults that a pod follows, by source, as the text of
    /// [`key::ANNOTATION_APPLIED_DEFAULTS`]; nothing when it follows none.
    pub fn applied_to(&self, pod: &PodView<'_>) -> Option<String> {
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
    use super::*;
    use rstest::rstest;

    #[test]
    fn every_default_is_an_annotation_of_pods() {
        assert!(DEFAULTABLE.iter().all(|key| key::POD.contains(key)));
    }

    #[test]
    fn the_charts_schema_knows_the_same_keys() {
        let schema = include_str!("../../charts/dapr/values.schema.json");
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
    fn reads_the_clusters_defaults(#[case] text: &str, #[case] want: Result<usize, BadDefaults>) {
        assert_eq!(Defaults::parse(text).map(|d| d.0.len()), want);
    }

    #[test]
    fn the_pod_wins_over_its_namespace_and_that_over_the_cluster() {
        let cluster =
            Defaults::parse(r#"{"log-level": "info", "env": "A=1", "sidecar-image": "i"}"#)
                .unwrap();
        let namespace = Defaults::parse(r#"{"log-level": "debug", "sidecar-image": "j"}"#).unwrap();
        let layers = Layers { cluster: &cluster, namespace: &namespace };
        assert_eq!(layers.get(key::ANNOTATION_LOG_LEVEL), Some("debug"));
        assert_eq!(layers.get(key::ANNOTATION_ENV), Some("A=1"));
        let pod = json!({"metadata": {"annotations": {"dapr.io/sidecar-image": ""}}, "spec": {}});
        let pod = PodView::parse(&pod).unwrap();
        let want = r#"{"cluster":{"dapr.io/env":"A=1"},"namespace":{"dapr.io/log-level":"debug"}}"#;
        assert_eq!(layers.applied_to(&pod).as_deref(), Some(want));
        assert_eq!(Layers::NONE.applied_to(&pod), None);
    }
}
