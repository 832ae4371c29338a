//! What the Service reconciler reads of Deployments, StatefulSets and Rollouts.
use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::core::DynamicObject;
use resources::annotations::{ANNOTATION_APP_ID, ANNOTATION_ENABLED, PREFIX, is_truthy};
use serde_json::Value;

/// A kind of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` StatefulSet.
    StatefulSet,
    /// `apps/v1` `DaemonSet`.
    DaemonSet,
    /// `argoproj.io/v1alpha1` Rollout.
    Rollout,
}

impl WorkloadKind {
    /// Group, version, kind and plural.
    pub fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        match self {
            Self::Deployment => ("apps", "v1", "Deployment", "deployments"),
            Self::StatefulSet => ("apps", "v1", "StatefulSet", "statefulsets"),
            Self::DaemonSet => ("apps", "v1", "DaemonSet", "daemonsets"),
            Self::Rollout => ("argoproj.io", "v1alpha1", "Rollout", "rollouts"),
        }
    }
}

/// Which workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkloadKey {
    /// Kind.
    pub kind: WorkloadKind,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Which one.
    pub key: WorkloadKey,
    /// Its unique id.
    pub uid: String,
    /// Whether its pods get sidecars.
    pub enabled: bool,
    /// When it was made; the oldest of several with one app id gets the Service.
    pub created: Option<Timestamp>,
    /// The `dapr.io` annotations of its pod template.
    pub annotations: BTreeMap<String, String>,
    /// Its selector's `matchLabels`.
    pub selector: BTreeMap<String, String>,
    /// Whether all its pods are of the current template.
    pub rolled_out: bool,
}

impl Workload {
    /// `None` for a workload that is being deleted, or has no pods of its own, as a Rollout that
    /// refers to a Deployment.
    pub fn of(kind: WorkloadKind, object: &DynamicObject) -> Option<Self> {
        let metadata = &object.metadata;
        let template = object.data.pointer("/spec/template")?;
        let mut annotations = strings(template.pointer("/metadata/annotations"));
        annotations.retain(|key, _| key.starts_with(PREFIX));
        let enabled = annotations.get(ANNOTATION_ENABLED).is_some_and(|text| is_truthy(text));
        if metadata.deletion_timestamp.is_some() {
            return None;
        }
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
            selector: strings(object.data.pointer("/spec/selector/matchLabels")),
            rolled_out: rolled_out(kind, metadata.generation, &object.data),
        })
    }

    /// An annotation of the pod template; empty when absent.
    pub fn annotation(&self, key: &str) -> &str {
        self.annotations.get(key).map_or("", String::as_str)
    }

    /// Its app id; empty when the annotation is missing. Unlike the injector, the reconciler knows
    /// no other name (Dapr 1.18).
    pub fn app_id(&self) -> &str {
        self.annotation(ANNOTATION_APP_ID)
    }
}

fn strings(object: Option<&Value>) -> BTreeMap<String, String> {
    let members = object.and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Whether the controller has seen the current specification and replaced every pod.
fn rolled_out(kind: WorkloadKind, generation: Option<i64>, object: &Value) -> bool {
    let number = |path: &str| object.pointer(path).and_then(Value::as_i64);
    let status = |name: &str| number(&format!("/status/{name}")).unwrap_or(0);
    let (wanted, counts) = match kind {
        WorkloadKind::DaemonSet => (
            status("desiredNumberScheduled"),
            ["updatedNumberScheduled", "numberReady", "currentNumberScheduled"],
        ),
        WorkloadKind::Deployment | WorkloadKind::StatefulSet | WorkloadKind::Rollout => (
            number("/spec/replicas").unwrap_or(1),
            ["updatedReplicas", "readyReplicas", "replicas"],
        ),
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
    fn annotations_of_the_template_count() {
        let plain = read(&json!({}), &json!({})).unwrap();
        assert!(!plain.enabled, "the workload's own do not");
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
    fn rollout_that_refers_to_a_deployment_is_skipped() {
        let object = json!({"metadata": {"name": "w", "namespace": "n", "uid": "u"},
            "spec": {"workloadRef": {"name": "d"}}});
        let object = serde_json::from_value(object).unwrap();
        assert_eq!(Workload::of(WorkloadKind::Rollout, &object), None);
    }
}
