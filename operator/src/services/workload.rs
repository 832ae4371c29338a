//! The members of workloads that the Service reconciler reads.
use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::core::DynamicObject;
use resources::annotations::{ANNOTATION_APP_ID, ANNOTATION_ENABLED, PREFIX, is_truthy};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    /// `argoproj.io/v1alpha1`.
    Rollout,
}

impl WorkloadKind {
    /// Group, version, kind and plural.
    pub(crate) fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet", "statefulsets"),
            Self::DaemonSet => ("apps", "v1", "DaemonSet", "daemonsets"),
            Self::Rollout => ("argoproj.io", "v1alpha1", "Rollout", "rollouts"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WorkloadKey {
    pub(crate) kind: WorkloadKind,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Workload {
    pub(crate) key: WorkloadKey,
    pub(crate) uid: String,
    /// Whether its pods get sidecars.
    pub(crate) enabled: bool,
    /// The oldest of several workloads with one app id gets the Service.
    pub(crate) created: Option<Timestamp>,
    /// The `dapr.io` annotations of its pod template.
    pub(crate) annotations: BTreeMap<String, String>,
    /// `matchLabels` of its selector, and the value of each expression that allows only one.
    pub(crate) selector: BTreeMap<String, String>,
    /// Whether the selector has other expressions and no `matchLabels`. With `matchLabels`, Dapr ignores
    /// expressions.
    pub(crate) selects_more: bool,
    /// Whether it is scaled to at least one pod. A daemon set always is.
    pub(crate) has_pods: bool,
    /// Whether all pods were created from the current template.
    pub(crate) rolled_out: bool,
}

impl Workload {
    /// `None` for a workload that is being deleted, and for a Rollout that references a Deployment
    /// and therefore has no template.
    pub(crate) fn of(kind: WorkloadKind, object: &DynamicObject) -> Option<Self> {
        let metadata = &object.metadata;
        let template = object.data.pointer("/spec/template")?;
        let mut annotations = strings(template.pointer("/metadata/annotations"));
        annotations.retain(|key, _| key.starts_with(PREFIX));
        let enabled = annotations.get(ANNOTATION_ENABLED).is_some_and(|text| is_truthy(text));
        if metadata.deletion_timestamp.is_some() {
            return None;
        }
        let (selector, selects_more) = selector(object.data.pointer("/spec/selector"));
        Some(Self {
            key: WorkloadKey {
                kind,
                namespace: metadata.namespace.clone()?,
                name: metadata.name.clone()?,
            },
            uid: metadata.uid.clone()?,
            enabled,
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            annotations,
            selector,
            selects_more,
            has_pods: replicas(&object.data) > 0,
            rolled_out: rolled_out(kind, metadata.generation, &object.data),
        })
    }

    /// An annotation of the pod template; empty when absent.
    pub(crate) fn annotation(&self, key: &str) -> &str {
        self.annotations.get(key).map_or("", String::as_str)
    }

    /// The app id; empty when the annotation is absent. Unlike the injector, the reconciler does not
    /// default it to the name of the pod (Dapr 1.18).
    pub(crate) fn app_id(&self) -> &str {
        self.annotation(ANNOTATION_APP_ID)
    }
}

fn strings(object: Option<&Value>) -> BTreeMap<String, String> {
    let members = object.and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// [`Workload::selector`] and [`Workload::selects_more`].
fn selector(selector: Option<&Value>) -> (BTreeMap<String, String>, bool) {
    let mut labels = strings(selector.and_then(|selector| selector.get("matchLabels")));
    let expressions = selector.and_then(|selector| selector.get("matchExpressions"));
    let (only_expressions, mut others) = (labels.is_empty(), false);
    for expression in expressions.and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| expression.get(key).and_then(Value::as_str);
        let values = expression.get("values").and_then(Value::as_array).map(Vec::as_slice);
        match (text("key"), text("operator"), values) {
            (Some(key), Some("In"), Some([Value::String(value)])) => {
                labels.entry(key.to_owned()).or_insert_with(|| value.clone());
            }
            _ => others = true,
        }
    }
    (labels, others && only_expressions)
}

/// The number of desired pods; 1 where the kind or the object does not specify it.
fn replicas(object: &Value) -> i64 {
    object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1)
}

/// Whether the controller has observed the current generation and replaced every pod.
fn rolled_out(kind: WorkloadKind, generation: Option<i64>, object: &Value) -> bool {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    let status = |name: &str| number(&format!("/status/{name}")).unwrap_or(0);
    let (wanted, counts) = match kind {
        WorkloadKind::DaemonSet => (
            status("desiredNumberScheduled"),
            ["updatedNumberScheduled", "numberReady", "currentNumberScheduled"],
        ),
        WorkloadKind::Deployment | WorkloadKind::StatefulSet | WorkloadKind::Rollout => {
            (replicas(object), ["updatedReplicas", "readyReplicas", "replicas"])
        }
    };
    number("/status/observedGeneration") >= generation
        && counts.iter().all(|count| status(count) == wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deployment(annotations: &Value, status: &Value) -> DynamicObject {
        serde_json::from_value(json!({
            "metadata": {"name": "w", "namespace": "n", "uid": "u", "generation": 2,
                         "annotations": {"dapr.io/enabled": "true"},
                         "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "w"}},
                     "template": {"metadata": {"annotations": annotations}}},
            "status": status,
        }))
        .unwrap()
    }

    fn read(annotations: &Value, status: &Value) -> Option<Workload> {
        Workload::of(WorkloadKind::Deployment, &deployment(annotations, status))
    }

    #[test]
    fn annotations_of_the_template_are_read() {
        let plain = read(&json!({}), &json!({})).unwrap();
        assert!(!plain.enabled, "annotations of the workload are ignored");
        let annotations = json!({"dapr.io/enabled": "Yes", "dapr.io/app-id": "a", "other": "x"});
        let workload = read(&annotations, &json!({})).unwrap();
        assert!(workload.enabled);
        assert_eq!(workload.app_id(), "a");
        assert!(!workload.annotations.contains_key("other"));
        assert_eq!(workload.selector, [("app".to_owned(), "w".to_owned())].into());
    }

    #[rstest::rstest]
    #[case::done(json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}), true)]
    #[case::not_seen(json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}), false)]
    #[case::old_pods(json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "readyReplicas": 2}), false)]
    #[case::nothing(json!({}), false)]
    fn rollout_is_complete_when_all_pods_are_new(#[case] status: Value, #[case] want: bool) {
        let annotations = json!({"dapr.io/enabled": "true"});
        assert_eq!(read(&annotations, &status).unwrap().rolled_out, want);
    }

    #[rstest::rstest]
    #[case::done(json!({"observedGeneration": 1, "desiredNumberScheduled": 3,
        "currentNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 3}), true)]
    #[case::no_node(json!({"observedGeneration": 1}), true)]
    #[case::not_seen(json!({}), false)]
    #[case::old_pods(json!({"observedGeneration": 1, "desiredNumberScheduled": 3,
        "currentNumberScheduled": 3, "updatedNumberScheduled": 2, "numberReady": 3}), false)]
    fn daemon_set_is_complete_when_each_node_has_the_new_pod(
        #[case] status: Value,
        #[case] want: bool,
    ) {
        let object = json!({"status": status});
        assert_eq!(rolled_out(WorkloadKind::DaemonSet, Some(1), &object), want);
    }

    #[test]
    fn rollout_that_references_a_deployment_is_skipped() {
        let object = json!({"metadata": {"name": "w", "namespace": "n", "uid": "u"},
            "spec": {"workloadRef": {"name": "d"}}});
        let object = serde_json::from_value(object).unwrap();
        assert_eq!(Workload::of(WorkloadKind::Rollout, &object), None);
    }
}
