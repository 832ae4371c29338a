//! The part of a pod that the checks read.

use std::collections::BTreeMap;

use dashboard::Arguments;
use jiff::Timestamp;
use resources::annotations::{
    ANNOTATION_APP_ID, ANNOTATION_ENABLED, ANNOTATION_INJECTION_SKIPPED, PREFIX, is_truthy,
};
use resources::names;
use serde_json::Value;

/// The stored part of a pod; a large cluster has many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Its `dapr.io` annotations.
    pub(crate) annotations: BTreeMap<String, String>,
    /// Name of the controller without the hash of a `ReplicaSet`; the pod name without controller.
    pub(crate) owner: String,
    /// Pending, Running, Succeeded, Failed.
    pub(crate) phase: String,
    /// Time of creation.
    pub(crate) created: Option<Timestamp>,
    /// Whether it is being deleted.
    pub(crate) deleting: bool,
    /// Why the scheduler found no node.
    pub(crate) unschedulable: Option<String>,
    /// Ordinary and init containers.
    pub(crate) containers: Vec<Container>,
}

/// A container of a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Container {
    pub(crate) name: String,
    /// Its image, as in the spec.
    pub(crate) image: String,
    /// Whether it is ready.
    pub(crate) ready: bool,
    /// What its arguments say about a sidecar.
    pub(crate) arguments: Arguments,
    /// Reason and message of the waiting state.
    pub(crate) waiting: Option<(String, String)>,
}

impl Pod {
    /// Reads a pod of the API. Absent members stay empty.
    pub(crate) fn read(pod: &Value) -> Self {
        let metadata = |key: &str| text(pod.pointer(&format!("/metadata/{key}")));
        let mut annotations = strings(pod.pointer("/metadata/annotations"));
        annotations.retain(|key, _| key.starts_with(PREFIX));
        let labels = strings(pod.pointer("/metadata/labels"));
        Self {
            namespace: metadata("namespace"),
            name: metadata("name"),
            owner: owner(pod, &labels),
            phase: text(pod.pointer("/status/phase")),
            created: metadata("creationTimestamp").parse().ok(),
            deleting: pod.pointer("/metadata/deletionTimestamp").is_some(),
            unschedulable: unschedulable(pod),
            containers: containers(pod),
            labels,
            annotations,
        }
    }

    /// Namespace and name.
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The container `daprd`, a native sidecar too.
    pub(crate) fn sidecar(&self) -> Option<&Container> {
        self.containers.iter().find(|c| c.name == names::SIDECAR_CONTAINER)
    }

    /// Whether it has neither finished nor is being deleted.
    pub(crate) fn is_alive(&self) -> bool {
        !self.deleting && !matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it requests a sidecar and has none, and the injector did not skip it deliberately.
    pub(crate) fn lacks_sidecar(&self) -> bool {
        let asks = self.annotations.get(ANNOTATION_ENABLED).is_some_and(|text| is_truthy(text));
        let skipped = self.annotations.contains_key(ANNOTATION_INJECTION_SKIPPED);
        asks && !skipped && self.is_alive() && self.sidecar().is_none()
    }

    /// Its app id, as the injector derives it.
    pub(crate) fn app_id(&self) -> &str {
        self.annotations.get(ANNOTATION_APP_ID).map_or(&self.name, String::as_str)
    }
}

fn owner(pod: &Value, labels: &BTreeMap<String, String>) -> String {
    let references = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let controller = references.into_iter().flatten().find(|r| r.get("controller").is_some());
    let Some(controller) = controller else { return text(pod.pointer("/metadata/name")) };
    let name = text(controller.get("name"));
    let hash = labels.get("pod-template-hash").map(|hash| format!("-{hash}"));
    hash.and_then(|hash| name.strip_suffix(&hash)).unwrap_or(&name).to_owned()
}

fn unschedulable(pod: &Value) -> Option<String> {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array)?;
    let condition = conditions.iter().find(|condition| {
        condition.get("type").and_then(Value::as_str) == Some("PodScheduled")
            && condition.get("status").and_then(Value::as_str) == Some("False")
    })?;
    Some(text(condition.get("message")))
}

fn containers(pod: &Value) -> Vec<Container> {
    let list = |path: &str| pod.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let statuses: Vec<&Value> =
        list("/status/containerStatuses").chain(list("/status/initContainerStatuses")).collect();
    let all = list("/spec/containers").chain(list("/spec/initContainers"));
    all.map(|container| {
        let name = text(container.get("name"));
        let status = statuses.iter().find(|status| text(status.get("name")) == name);
        let waiting = status.and_then(|status| status.pointer("/state/waiting"));
        Container {
            image: text(container.get("image")),
            ready: status.and_then(|s| s.get("ready")).and_then(Value::as_bool) == Some(true),
            arguments: arguments(container),
            waiting: waiting.map(|w| (text(w.get("reason")), text(w.get("message")))),
            name,
        }
    })
    .collect()
}

fn arguments(container: &Value) -> Arguments {
    let arguments = container.get("args").and_then(Value::as_array).into_iter().flatten();
    Arguments::read(arguments.filter_map(Value::as_str))
}

/// A member as string; empty if it is absent or of another type.
pub(crate) fn text(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// A map of strings.
pub(crate) fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    let members = value.and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::naked(json!({"dapr.io/enabled": "true"}), json!([{"name": "app"}]), "Running", true)]
    #[case::other_word(json!({"dapr.io/enabled": "Yes"}), json!([{"name": "app"}]), "Pending", true)]
    #[case::injected(json!({"dapr.io/enabled": "true"}), json!([{"name": "daprd"}]), "Running", false)]
    #[case::skipped(json!({"dapr.io/enabled": "true", "dapr.io/injection-skipped": "creator"}),
        json!([{"name": "app"}]), "Running", false)]
    #[case::finished(json!({"dapr.io/enabled": "true"}), json!([{"name": "app"}]), "Succeeded", false)]
    #[case::unasked(json!({}), json!([{"name": "app"}]), "Running", false)]
    fn detects_pods_without_sidecar(
        #[case] annotations: Value,
        #[case] containers: Value,
        #[case] phase: &str,
        #[case] want: bool,
    ) {
        let pod = json!({"metadata": {"name": "p", "annotations": annotations},
            "spec": {"containers": containers}, "status": {"phase": phase}});
        assert_eq!(Pod::read(&pod).lacks_sidecar(), want);
    }

    #[rstest]
    #[case(json!(["--mode", "kubernetes"]), false)]
    #[case(json!(["--enable-mtls"]), true)]
    #[case(json!(["--enable-mtls=1"]), true)]
    #[case(json!(["--enable-mtls=false"]), false)]
    #[case(json!(["--enable-mtls", "--enable-mtls=false"]), false)]
    fn a_sidecar_uses_mtls_as_its_arguments_say(#[case] arguments: Value, #[case] want: bool) {
        let container = json!({"name": "daprd", "args": arguments});
        assert_eq!(super::arguments(&container).has_mtls, want);
    }

    #[test]
    fn replica_sets_of_a_deployment_are_one_owner() {
        let pod = |hash: &str| {
            let set = format!("shop-{hash}");
            let pod = json!({"metadata": {"name": format!("{set}-x"),
                "labels": {"pod-template-hash": hash},
                "ownerReferences": [{"kind": "ReplicaSet", "name": set, "controller": true}]}});
            Pod::read(&pod).owner
        };
        assert_eq!((pod("5d4f").as_str(), pod("77c9").as_str()), ("shop", "shop"));
    }
}
