//! A view of a pod's JSON.
//!
//! The pod is not decoded into a typed struct, because members that the types lack would be lost.
//! [`PodView::parse`] checks the JSON type of each member that the accessors read, so the accessors
//! are infallible.

use serde_json::{Map, Value};

/// Mount path of the service account token. Source: Kubernetes, admission of service accounts.
pub(crate) const API_TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// A checked view of a pod's JSON. An absent member, `null` and an empty collection are equal.
#[derive(Debug, Clone, Copy)]
pub struct PodView<'a> {
    metadata: Option<&'a Map<String, Value>>,
    spec: &'a Map<String, Value>,
}

/// The controller of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// For example `apps/v1`.
    pub(crate) api_version: String,
    /// For example `ReplicaSet`.
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// A member of a pod with the wrong JSON type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is not {wanted}")]
pub struct BadShape {
    path: String,
    wanted: &'static str,
}

impl<'a> PodView<'a> {
    /// Checks the JSON type of the members that the accessors read.
    ///
    /// # Errors
    /// A member has another type than in a pod; the message names the member.
    pub fn parse(pod: &'a Value) -> Result<Self, BadShape> {
        let root = pod.as_object().ok_or_else(|| bad("object", "a pod"))?;
        let metadata = object(root.get("metadata"), "metadata")?;
        check_metadata(metadata)?;
        let spec = object(root.get("spec"), "spec")?.ok_or_else(|| bad("spec", "present"))?;
        check_spec(spec)?;
        Ok(Self { metadata, spec })
    }

    pub(crate) fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations()?.get(key)?.as_str()
    }

    /// All annotations; `None` if the pod has none.
    pub(crate) fn annotations(&self) -> Option<&'a Map<String, Value>> {
        map(self.metadata, "annotations")
    }

    /// All labels; `None` if the pod has none.
    pub(crate) fn labels(&self) -> Option<&'a Map<String, Value>> {
        map(self.metadata, "labels")
    }

    /// `metadata.name`; empty at admission for pods of controllers.
    pub(crate) fn name(&self) -> &'a str {
        text(self.metadata, "name")
    }

    /// The name for messages: `metadata.name`, else `metadata.generateName` followed by `*`.
    pub(crate) fn display_name(&self) -> String {
        match (self.name(), text(self.metadata, "generateName")) {
            ("", "") => "(unnamed)".to_owned(),
            ("", prefix) => format!("{prefix}*"),
            (name, _) => name.to_owned(),
        }
    }

    /// The controller of this pod, else its first owner.
    pub(crate) fn owner(&self) -> Option<Owner> {
        let owners = self.metadata?.get("ownerReferences")?.as_array()?;
        let owner = owners
            .iter()
            .find(|o| o.get("controller") == Some(&Value::Bool(true)))
            .or_else(|| owners.first())?
            .as_object();
        let member = |key| text(owner, key).to_owned();
        Some(Owner {
            api_version: member("apiVersion"),
            kind: member("kind"),
            name: member("name"),
            uid: member("uid"),
        })
    }

    /// The containers without the init containers.
    pub(crate) fn containers(&self) -> Vec<ContainerView<'a>> {
        containers(self.spec, "containers")
    }

    pub(crate) fn init_containers(&self) -> Vec<ContainerView<'a>> {
        containers(self.spec, "initContainers")
    }

    pub(crate) fn has_container(&self, name: &str) -> bool {
        self.containers().iter().chain(&self.init_containers()).any(|c| c.name() == name)
    }

    /// The names of the volumes, in order.
    pub(crate) fn volumes(&self) -> Vec<&'a str> {
        list(Some(self.spec), "volumes").iter().map(|v| text(v.as_object(), "name")).collect()
    }

    pub(crate) fn tolerations(&self) -> &'a [Value] {
        list(Some(self.spec), "tolerations")
    }

    /// Whether `spec.os` or the node selector selects Linux.
    pub(crate) fn is_linux(&self) -> bool {
        let selector = self.spec.get("nodeSelector").and_then(Value::as_object);
        self.os() == "linux" || text(selector, "kubernetes.io/os") == "linux"
    }

    /// Whether `spec.os` is Windows. The API server then rejects fields that only Linux has.
    pub(crate) fn is_windows(&self) -> bool {
        self.os() == "windows"
    }

    fn os(&self) -> &'a str {
        text(self.spec.get("os").and_then(Value::as_object), "name")
    }

    pub(crate) fn uses_host_network(&self) -> bool {
        self.spec.get("hostNetwork") == Some(&Value::Bool(true))
    }

    /// Whether the pod has no service account token for the API server. At admission the API server
    /// has set `serviceAccountName` and, unless a pod or ServiceAccount disables it, mounted the
    /// token into each container.
    pub(crate) fn has_no_api_token(&self) -> bool {
        match self.spec.get("automountServiceAccountToken").and_then(Value::as_bool) {
            Some(automount) => !automount,
            None => {
                !text(Some(self.spec), "serviceAccountName").is_empty()
                    && !self.containers().is_empty()
                    && !self.containers().iter().any(|c| c.mounts("", API_TOKEN_DIRECTORY))
            }
        }
    }

    /// Name of the service account; `default` if the pod names none.
    pub(crate) fn service_account(&self) -> &'a str {
        match text(Some(self.spec), "serviceAccountName") {
            "" => "default",
            name => name,
        }
    }

    /// Whether the pod uses the host network and the node's DNS, which does not resolve the
    /// Services of the control plane.
    pub(crate) fn uses_node_dns(&self) -> bool {
        self.uses_host_network()
            && matches!(text(Some(self.spec), "dnsPolicy"), "" | "ClusterFirst" | "Default")
    }

    /// Seconds between SIGTERM and SIGKILL. Default 30.
    pub(crate) fn grace_period_seconds(&self) -> i64 {
        self.spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
    }
}

/// A container of a pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ContainerView<'a>(&'a Value);

impl<'a> ContainerView<'a> {
    pub(crate) fn name(self) -> &'a str {
        text(self.0.as_object(), "name")
    }

    pub(crate) fn has_env(self) -> bool {
        !list(self.0.as_object(), "env").is_empty()
    }

    pub(crate) fn defines(self, variable: &str) -> bool {
        list(self.0.as_object(), "env").iter().any(|e| text(e.as_object(), "name") == variable)
    }

    pub(crate) fn has_mounts(self) -> bool {
        !list(self.0.as_object(), "volumeMounts").is_empty()
    }

    /// Whether an init container runs as long as the pod: it has restart policy `Always`.
    pub(crate) fn keeps_running(self) -> bool {
        text(self.0.as_object(), "restartPolicy") == "Always"
    }

    /// TCP ports that the container declares.
    pub(crate) fn tcp_ports(self) -> Vec<i64> {
        let ports = list(self.0.as_object(), "ports").iter().filter_map(Value::as_object);
        let tcp = ports.filter(|port| matches!(text(Some(port), "protocol"), "" | "TCP"));
        tcp.filter_map(|port| port.get("containerPort")?.as_i64()).collect()
    }

    /// Whether this volume is mounted, or any volume at this path.
    pub(crate) fn mounts(self, volume: &str, path: &str) -> bool {
        list(self.0.as_object(), "volumeMounts").iter().any(|mount| {
            let mount = mount.as_object();
            (!volume.is_empty() && text(mount, "name") == volume)
                || text(mount, "mountPath") == path
        })
    }
}

fn map<'a>(parent: Option<&'a Map<String, Value>>, key: &str) -> Option<&'a Map<String, Value>> {
    parent?.get(key)?.as_object().filter(|map| !map.is_empty())
}

fn text<'a>(parent: Option<&'a Map<String, Value>>, key: &str) -> &'a str {
    parent.and_then(|p| p.get(key)).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(parent: Option<&'a Map<String, Value>>, key: &str) -> &'a [Value] {
    parent.and_then(|p| p.get(key)).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn containers<'a>(spec: &'a Map<String, Value>, key: &str) -> Vec<ContainerView<'a>> {
    list(Some(spec), key).iter().map(ContainerView).collect()
}

fn bad(path: impl Into<String>, wanted: &'static str) -> BadShape {
    BadShape { path: path.into(), wanted }
}

fn object<'a>(
    value: Option<&'a Value>,
    path: &str,
) -> Result<Option<&'a Map<String, Value>>, BadShape> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(bad(path, "an object")),
    }
}

fn string(parent: &Map<String, Value>, key: &str, path: &str) -> Result<(), BadShape> {
    match parent.get(key) {
        None | Some(Value::Null | Value::String(_)) => Ok(()),
        Some(_) => Err(bad(format!("{path}.{key}"), "a string")),
    }
}

fn string_map(value: Option<&Value>, path: &str) -> Result<(), BadShape> {
    let wrong = object(value, path)?.and_then(|map| map.iter().find(|(_, v)| !v.is_string()));
    wrong.map_or(Ok(()), |(key, _)| Err(bad(format!("{path}[{key:?}]"), "a string")))
}

/// A list of objects whose `name`, if present, is a string.
fn objects<'a>(
    parent: &'a Map<String, Value>,
    key: &str,
    path: &str,
) -> Result<Vec<&'a Map<String, Value>>, BadShape> {
    let path = format!("{path}.{key}");
    let items = match parent.get(key) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(bad(path, "a list")),
    };
    let mut found = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let item = item.as_object().ok_or_else(|| bad(&path, "an object"))?;
        string(item, "name", &path)?;
        found.push(item);
    }
    Ok(found)
}

fn check_metadata(metadata: Option<&Map<String, Value>>) -> Result<(), BadShape> {
    let Some(metadata) = metadata else { return Ok(()) };
    string(metadata, "name", "metadata")?;
    string(metadata, "generateName", "metadata")?;
    string_map(metadata.get("annotations"), "metadata.annotations")?;
    string_map(metadata.get("labels"), "metadata.labels")
}

fn check_spec(spec: &Map<String, Value>) -> Result<(), BadShape> {
    for key in ["containers", "initContainers"] {
        for container in objects(spec, key, "spec")? {
            let path = format!("spec.{key}");
            objects(container, "env", &path)?;
            for mount in objects(container, "volumeMounts", &path)? {
                string(mount, "mountPath", &format!("{path}.volumeMounts"))?;
            }
        }
    }
    objects(spec, "volumes", "spec")?;
    objects(spec, "tolerations", "spec").map(|_| ())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    #[rstest]
    #[case::no_object(json!([]), "object is not a pod")]
    #[case::no_spec(json!({"metadata": {}}), "spec is not present")]
    #[case::spec_text(json!({"spec": "x"}), "spec is not an object")]
    #[case::annotation_number(
        json!({"metadata": {"annotations": {"dapr.io/app-port": 3000}}, "spec": {}}),
        "metadata.annotations[\"dapr.io/app-port\"] is not a string"
    )]
    #[case::container_null(
        json!({"spec": {"containers": [null]}}),
        "spec.containers[0] is not an object"
    )]
    #[case::env_object(
        json!({"spec": {"containers": [{"env": {}}]}}),
        "spec.containers.env is not a list"
    )]
    #[case::volume_name(
        json!({"spec": {"volumes": [{"name": 7}]}}),
        "spec.volumes[0].name is not a string"
    )]
    fn names_the_member_with_the_wrong_type(#[case] pod: Value, #[case] want: &str) {
        assert_eq!(PodView::parse(&pod).unwrap_err().to_string(), want);
    }

    #[test]
    fn null_and_empty_collections_count_as_absent() {
        let pod = json!({
            "metadata": {"annotations": null, "labels": {}},
            "spec": {"containers": [{"name": "a", "env": null, "volumeMounts": []}], "volumes": null}
        });
        let view = PodView::parse(&pod).unwrap();
        assert!(view.annotations().is_none() && view.labels().is_none());
        let containers = view.containers();
        assert!(!containers[0].has_env() && !containers[0].has_mounts());
        assert!(view.volumes().is_empty());
    }
}
