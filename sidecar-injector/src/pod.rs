//! A pod as the API server sent it, read in place.
//!
//! The pod is never decoded into a typed structure: members newer than our types would be lost.
//! [`PodView::parse`] checks the shape of every member that is read here, once; the accessors
//! then cannot fail.

use serde_json::{Map, Value};

use crate::events::Owner;

/// A checked view of a pod's JSON. An absent member, `null` and an empty collection are alike.
#[derive(Debug, Clone, Copy)]
pub struct PodView<'a> {
    metadata: Option<&'a Map<String, Value>>,
    spec: &'a Map<String, Value>,
}

/// What is wrong with the shape of a pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} is not {wanted}")]
pub struct BadShape {
    path: String,
    wanted: &'static str,
}

impl<'a> PodView<'a> {
    /// Checks the members that the injector reads.
    ///
    /// # Errors
    /// A member has another JSON type than a pod's.
    pub fn parse(pod: &'a Value) -> Result<Self, BadShape> {
        let root = pod.as_object().ok_or_else(|| bad("object", "a pod"))?;
        let metadata = object(root.get("metadata"), "metadata")?;
        check_metadata(metadata)?;
        let spec = object(root.get("spec"), "spec")?.ok_or_else(|| bad("spec", "present"))?;
        check_spec(spec)?;
        Ok(Self { metadata, spec })
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&'a str> {
        self.annotations()?.get(key)?.as_str()
    }

    /// All annotations; `None` when the pod has none.
    pub fn annotations(&self) -> Option<&'a Map<String, Value>> {
        map(self.metadata, "annotations")
    }

    /// All labels; `None` when the pod has none.
    pub fn labels(&self) -> Option<&'a Map<String, Value>> {
        map(self.metadata, "labels")
    }

    /// `metadata.name`, empty for pods of controllers at admission time.
    pub fn name(&self) -> &'a str {
        text(self.metadata, "name")
    }

    /// What to call this pod in a message: its name, or the prefix that its name will get.
    pub fn display_name(&self) -> String {
        match (self.name(), text(self.metadata, "generateName")) {
            ("", "") => "(unnamed)".to_owned(),
            ("", prefix) => format!("{prefix}*"),
            (name, _) => name.to_owned(),
        }
    }

    /// The object that controls this pod.
    pub fn owner(&self) -> Option<Owner> {
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

    /// The containers, without init containers.
    pub fn containers(&self) -> Vec<ContainerView<'a>> {
        containers(self.spec, "containers")
    }

    /// The init containers.
    pub fn init_containers(&self) -> Vec<ContainerView<'a>> {
        containers(self.spec, "initContainers")
    }

    /// Whether a container or an init container has this name.
    pub fn has_container(&self, name: &str) -> bool {
        self.containers().iter().chain(&self.init_containers()).any(|c| c.name() == name)
    }

    /// The names of the pod's volumes, in order.
    pub fn volumes(&self) -> Vec<&'a str> {
        list(Some(self.spec), "volumes").iter().map(|v| text(v.as_object(), "name")).collect()
    }

    /// The pod's tolerations.
    pub fn tolerations(&self) -> &'a [Value] {
        list(Some(self.spec), "tolerations")
    }

    /// Whether pod or node selector say that the pod runs on Linux.
    pub fn is_linux(&self) -> bool {
        let os = self.spec.get("os").and_then(Value::as_object);
        let selector = self.spec.get("nodeSelector").and_then(Value::as_object);
        text(os, "name") == "linux" || text(selector, "kubernetes.io/os") == "linux"
    }

    /// Whether the pod is on the host's network but resolves names as the node does, which cannot
    /// find the control plane.
    pub fn resolves_like_its_node(&self) -> bool {
        self.spec.get("hostNetwork") == Some(&Value::Bool(true))
            && matches!(text(Some(self.spec), "dnsPolicy"), "" | "ClusterFirst" | "Default")
    }

    /// Seconds between the stop signal and the kill; 30 by default.
    pub fn grace_period_seconds(&self) -> i64 {
        self.spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30)
    }
}

/// One container of a pod.
#[derive(Debug, Clone, Copy)]
pub struct ContainerView<'a>(&'a Value);

impl<'a> ContainerView<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        text(self.0.as_object(), "name")
    }

    /// Whether it has any environment variable.
    pub fn has_env(&self) -> bool {
        !list(self.0.as_object(), "env").is_empty()
    }

    /// Whether it defines an environment variable of this name.
    pub fn defines(&self, variable: &str) -> bool {
        list(self.0.as_object(), "env").iter().any(|e| text(e.as_object(), "name") == variable)
    }

    /// Whether it has any volume mount.
    pub fn has_mounts(&self) -> bool {
        !list(self.0.as_object(), "volumeMounts").is_empty()
    }

    /// Whether something is mounted at this path, or this volume anywhere.
    pub fn mounts(&self, volume: &str, path: &str) -> bool {
        list(self.0.as_object(), "volumeMounts").iter().any(|mount| {
            let mount = mount.as_object();
            text(mount, "name") == volume || text(mount, "mountPath") == path
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

/// A list of objects, each with a name (or nothing) under `name`.
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
    use super::*;
    use rstest::rstest;
    use serde_json::json;

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
    fn names_the_member_that_is_no_pods(#[case] pod: Value, #[case] want: &str) {
        assert_eq!(PodView::parse(&pod).unwrap_err().to_string(), want);
    }

    #[test]
    fn null_and_empty_count_as_absent() {
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
