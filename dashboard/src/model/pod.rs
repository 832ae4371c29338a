//! Pods of applications and of the control plane.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use resources::annotations::{
    ANNOTATION_APP_ID, ANNOTATION_CONFIG, ANNOTATION_ENABLED, ANNOTATION_INJECTION_SKIPPED, PREFIX,
    is_truthy,
};
use resources::{images, names, ports};
use serde::Serialize;
use serde_json::Value;

use super::arguments::Arguments;
use super::{redaction, string};

/// Label that the chart sets on each pod of the control plane (Dapr 1.18).
const PART_OF: &str = "app.kubernetes.io/part-of";
/// Largest kept value of an annotation in bytes.
const MAX_ANNOTATION_BYTES: usize = 4096;

/// The stored part of a pod; a large cluster has many.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Labels `app` and `app.kubernetes.io/part-of`.
    pub(super) labels: BTreeMap<String, String>,
    /// Its `dapr.io` annotations, redacted.
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) owner: Owner,
    /// Pending, Running, Succeeded, Failed.
    pub(crate) phase: String,
    pub(crate) created: Option<Timestamp>,
    pub(crate) is_deleting: bool,
    pub(crate) address: Option<IpAddr>,
    pub(crate) ports: SidecarPorts,
    pub(crate) service_account: String,
    /// Ordinary and init containers.
    pub(crate) containers: Vec<Container>,
    pub(crate) arguments: Arguments,
}

/// The workload that a pod belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Owner {
    /// `Deployment`, `StatefulSet`, ...; `Pod` for a pod without controller.
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// Ports of a sidecar that the dashboard asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SidecarPorts {
    /// Port of the metadata.
    pub(crate) public: u16,
    /// Port of the metrics; `None` if they are off.
    pub(crate) metrics: Option<u16>,
    /// Port that other sidecars call, with mTLS; `None` if unknown.
    pub(crate) internal: Option<u16>,
}

impl Default for SidecarPorts {
    fn default() -> Self {
        Self {
            public: ports::SIDECAR_PUBLIC,
            metrics: Some(ports::SIDECAR_METRICS),
            internal: Some(ports::SIDECAR_INTERNAL_GRPC),
        }
    }
}

/// A container of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) is_ready: bool,
    pub(crate) restarts: u64,
    /// Reason of the waiting state, such as `CrashLoopBackOff`.
    pub(crate) waiting: Option<String>,
}

impl Pod {
    /// Reads a pod of the API; absent members stay empty. `None` for a pod that neither has nor
    /// asks for a sidecar and is not part of the control plane.
    pub(crate) fn read(pod: &Value) -> Option<Self> {
        let metadata = |key: &str| string(pod.pointer(&format!("/metadata/{key}")));
        let labels = strings(pod.pointer("/metadata/labels"));
        let annotations = strings(pod.pointer("/metadata/annotations"))
            .into_iter()
            .filter(|(name, value)| name.starts_with(PREFIX) && value.len() <= MAX_ANNOTATION_BYTES)
            .map(|(name, value)| (redaction::annotation(&name, &value), name))
            .map(|(value, name)| (name, value))
            .collect();
        let read = Self {
            namespace: metadata("namespace"),
            name: metadata("name"),
            owner: owner(pod, &labels),
            phase: string(pod.pointer("/status/phase")),
            created: metadata("creationTimestamp").parse().ok(),
            is_deleting: pod.pointer("/metadata/deletionTimestamp").is_some(),
            address: string(pod.pointer("/status/podIP")).parse().ok(),
            ports: SidecarPorts::default(),
            service_account: string(pod.pointer("/spec/serviceAccountName")),
            containers: containers(pod),
            arguments: arguments(pod, &labels),
            labels: labels
                .into_iter()
                .filter(|(name, _)| matches!(name.as_str(), "app" | PART_OF))
                .collect(),
            annotations,
        };
        (read.is_app() || read.is_control_plane()).then_some(read)
    }

    /// Whether it belongs to an application: it has a sidecar, or asks for one.
    pub(crate) fn is_app(&self) -> bool {
        self.sidecar().is_some() || self.asks()
    }

    /// Whether it belongs to the control plane.
    pub(crate) fn is_control_plane(&self) -> bool {
        self.labels.get(PART_OF).is_some_and(|part| part == "dapr")
            || self.app().starts_with("dapr-") && !self.is_app()
    }

    /// Label `app`, which names the service of a pod of the control plane.
    pub(crate) fn app(&self) -> &str {
        self.labels.get("app").map_or("", String::as_str)
    }

    /// The container `daprd`, a native sidecar too.
    pub(crate) fn sidecar(&self) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == names::SIDECAR_CONTAINER)
    }

    /// Its app id, as the injector derives it.
    pub(crate) fn app_id(&self) -> &str {
        let id = self.annotations.get(ANNOTATION_APP_ID).filter(|id| !id.is_empty());
        id.map_or(&self.name, String::as_str)
    }

    /// Name of its Configuration.
    pub(crate) fn configuration(&self) -> Option<&str> {
        self.annotations.get(ANNOTATION_CONFIG).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Whether it has neither finished nor is being deleted.
    pub(crate) fn is_alive(&self) -> bool {
        !self.is_deleting && !matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether all of its containers run and are ready, except init containers that ended.
    pub(crate) fn is_ready(&self) -> bool {
        self.phase == "Running" && self.containers.iter().all(|container| container.is_ready)
    }

    /// Whether it asks for a sidecar and has none, and the injector did not skip it deliberately.
    pub(crate) fn lacks_sidecar(&self) -> bool {
        let skipped = self.annotations.contains_key(ANNOTATION_INJECTION_SKIPPED);
        self.asks() && !skipped && self.is_alive() && self.sidecar().is_none()
    }

    /// Version of the sidecar, or of the first container of a pod without: the tag of the image.
    pub(crate) fn version(&self) -> &str {
        let container = self.sidecar().or(self.containers.first());
        container.map_or("", |container| images::tag(&container.image))
    }

    fn asks(&self) -> bool {
        self.annotations.get(ANNOTATION_ENABLED).is_some_and(|value| is_truthy(value))
    }
}

/// The controller. A `ReplicaSet` represents the Deployment or Rollout whose hash its name ends
/// with.
fn owner(pod: &Value, labels: &BTreeMap<String, String>) -> Owner {
    let references = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let mut references = references.into_iter().flatten();
    let is_controller = |r: &&Value| r.get("controller").and_then(Value::as_bool) == Some(true);
    let Some(controller) = references.find(is_controller) else {
        return Owner { kind: "Pod".to_owned(), name: string(pod.pointer("/metadata/name")) };
    };
    let (kind, name) = (string(controller.get("kind")), string(controller.get("name")));
    let templates =
        [("pod-template-hash", "Deployment"), ("rollouts-pod-template-hash", "Rollout")];
    for (label, kind_of_owner) in templates {
        let hash = labels.get(label).map(|hash| format!("-{hash}")).unwrap_or_default();
        if kind == "ReplicaSet"
            && !hash.is_empty()
            && let Some(name) = name.strip_suffix(&hash)
        {
            return Owner { kind: kind_of_owner.to_owned(), name: name.to_owned() };
        }
    }
    Owner { kind, name }
}

/// Of the sidecar, or of a pod of the control plane, whose containers are its own.
fn arguments(pod: &Value, labels: &BTreeMap<String, String>) -> Arguments {
    let list = |path: &str| pod.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let all = list("/spec/containers").chain(list("/spec/initContainers"));
    let is_own = |container: &&Value| match labels.get(PART_OF).map(String::as_str) {
        Some("dapr") => true,
        _ => string(container.get("name")) == names::SIDECAR_CONTAINER,
    };
    let words = all.filter(is_own).flat_map(|container| {
        let parts = ["command", "args"].map(|part| container.get(part).and_then(Value::as_array));
        parts.into_iter().flatten().flatten().filter_map(Value::as_str)
    });
    Arguments::read(words)
}

/// Containers, and init containers that keep running, as native sidecars do.
fn containers(pod: &Value) -> Vec<Container> {
    let list = |path: &str| pod.pointer(path).and_then(Value::as_array).into_iter().flatten();
    let statuses: Vec<&Value> =
        list("/status/containerStatuses").chain(list("/status/initContainerStatuses")).collect();
    let stays = |c: &&Value| c.get("restartPolicy").and_then(Value::as_str) == Some("Always");
    let all = list("/spec/containers").chain(list("/spec/initContainers").filter(stays));
    all.map(|container| {
        let name = string(container.get("name"));
        let status = statuses.iter().find(|status| string(status.get("name")) == name);
        let member = |member: &str| status.and_then(|status| status.get(member));
        let waiting = status.and_then(|status| status.pointer("/state/waiting/reason"));
        Container {
            image: string(container.get("image")),
            is_ready: member("ready").and_then(Value::as_bool) == Some(true),
            restarts: member("restartCount").and_then(Value::as_u64).unwrap_or_default(),
            waiting: waiting.and_then(Value::as_str).map(str::to_owned),
            name,
        }
    })
    .collect()
}

fn strings(value: Option<&Value>) -> BTreeMap<String, String> {
    let members = value.and_then(Value::as_object).into_iter().flatten();
    members.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn app() -> Value {
        json!({
            "metadata": {"namespace": "shop", "name": "cart-7d9f-x",
                "labels": {"pod-template-hash": "7d9f", "app": "cart"},
                "annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": "cart",
                    "dapr.io/env": "TOKEN=abc", "other": "abc"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "cart-7d9f", "controller": true}]},
            "spec": {"containers": [{"name": "app", "image": "cart:2"},
                {"name": "daprd", "image": "ghcr.io/dapr/daprd:1.18.3",
                    "args": ["--enable-mtls", "--mode", "kubernetes"]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.4", "containerStatuses": [
                {"name": "app", "ready": true, "restartCount": 1},
                {"name": "daprd", "ready": true, "restartCount": 0}]},
        })
    }

    #[test]
    fn an_application_is_read_with_its_workload_and_version() {
        let pod = Pod::read(&app()).unwrap();
        assert_eq!((pod.owner.kind.as_str(), pod.owner.name.as_str()), ("Deployment", "cart"));
        assert_eq!((pod.app_id(), pod.version()), ("cart", "1.18.3"));
        assert!(pod.is_app() && pod.is_ready() && !pod.lacks_sidecar() && !pod.is_control_plane());
        assert_eq!(pod.annotations.get("other"), None);
        assert!(!format!("{pod:?}").contains("abc"), "{pod:?}");
    }

    #[test]
    fn an_argo_rollout_is_the_owner_of_its_pods() {
        let mut pod = app();
        pod["metadata"]["labels"] = json!({"rollouts-pod-template-hash": "7d9f"});
        let owner = Pod::read(&pod).unwrap().owner;
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Rollout", "cart"));
    }

    #[test]
    fn a_pod_without_dapr_is_not_kept() {
        let mut pod = app();
        pod["metadata"]["annotations"] = json!({});
        pod["spec"]["containers"] = json!([{"name": "app", "image": "cart:2"}]);
        assert_eq!(Pod::read(&pod), None);
    }

    #[test]
    fn arguments_are_those_of_the_sidecar_or_of_the_service() {
        assert!(Pod::read(&app()).unwrap().arguments.has_mtls);
        let mut own = app();
        own["spec"]["containers"] = json!([
            {"name": "app", "image": "cart:2", "args": ["--enable-mtls"]},
            {"name": "daprd", "image": "d:1", "args": ["--app-id", "cart"]}]);
        assert!(!Pod::read(&own).unwrap().arguments.has_mtls);
        let placement = json!({"metadata": {"name": "p", "labels": {"app": "dapr-placement-server",
                "app.kubernetes.io/part-of": "dapr"}},
            "spec": {"containers": [{"name": "dapr-placement-server", "command": ["/placement"],
                "args": ["--port", "50005", "--replicationFactor=250"]}]}});
        let placement = Pod::read(&placement).unwrap();
        assert_eq!(placement.arguments.virtual_nodes, Some(250));
    }

    #[test]
    fn a_pod_that_asks_without_getting_lacks_its_sidecar() {
        let mut pod = app();
        pod["spec"]["containers"] = json!([{"name": "app", "image": "cart:2"}]);
        assert!(Pod::read(&pod).unwrap().lacks_sidecar());
        pod["metadata"]["annotations"]["dapr.io/injection-skipped"] = json!("hostNetwork");
        assert!(!Pod::read(&pod).unwrap().lacks_sidecar());
    }

    #[test]
    fn a_native_sidecar_is_a_sidecar_and_an_ordinary_init_container_is_none() {
        let mut pod = app();
        pod["spec"]["containers"] = json!([{"name": "app", "image": "cart:2"}]);
        pod["spec"]["initContainers"] = json!([{"name": "init", "image": "i"},
            {"name": "daprd", "image": "daprd:1.18.3", "restartPolicy": "Always"}]);
        let read = Pod::read(&pod).unwrap();
        assert_eq!(read.containers.len(), 2);
        assert!(read.sidecar().is_some());
    }

    #[test]
    fn annotations_have_a_limit() {
        let with = |bytes: usize| {
            let mut pod = app();
            pod["metadata"]["annotations"]["dapr.io/x"] = json!("a".repeat(bytes));
            Pod::read(&pod).unwrap().annotations.contains_key("dapr.io/x")
        };
        assert!(with(MAX_ANNOTATION_BYTES));
        assert!(!with(MAX_ANNOTATION_BYTES + 1));
    }

    #[test]
    fn the_control_plane_is_known_by_its_label() {
        let pod = json!({"metadata": {"namespace": "dapr-system", "name": "dapr-operator-x",
            "labels": {"app": "dapr-operator", "app.kubernetes.io/part-of": "dapr"}},
            "spec": {"containers": [{"name": "dapr-operator", "image": "r/operator:1.18.3"}]}});
        let pod = Pod::read(&pod).unwrap();
        assert!(pod.is_control_plane());
        assert_eq!((pod.app(), pod.version()), ("dapr-operator", "1.18.3"));
    }
}
