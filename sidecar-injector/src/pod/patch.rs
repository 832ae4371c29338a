//! Builds the JSON Patch (RFC 6902) of a pod.
//!
//! The writer tracks which parents exist, in the pod and through earlier operations. The API server
//! rejects a pod whose patch adds below a missing parent, whatever the failure policy.

use std::collections::BTreeSet;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use serde_json::{Value, json};

use super::view::{ContainerView, PodView};

/// A list in the pod's `spec`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PodList {
    Containers,
    InitContainers,
    Volumes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ContainerList {
    Env,
    VolumeMounts,
}

/// Collects operations in the order in which the API server applies them.
#[derive(Debug)]
pub(crate) struct PatchWriter {
    operations: Vec<PatchOperation>,
    has_labels: bool,
    filled: BTreeSet<PodList>,
    filled_in_container: BTreeSet<(usize, ContainerList)>,
    volumes: BTreeSet<String>,
}

impl PatchWriter {
    pub(crate) fn new(pod: &PodView<'_>) -> Self {
        let containers = pod.containers();
        let lists = [
            (PodList::Containers, !containers.is_empty()),
            (PodList::InitContainers, !pod.init_containers().is_empty()),
            (PodList::Volumes, !pod.volumes().is_empty()),
        ];
        Self {
            operations: Vec::new(),
            has_labels: pod.labels().is_some(),
            filled: lists.iter().filter(|(_, full)| *full).map(|(list, _)| *list).collect(),
            filled_in_container: containers.iter().enumerate().flat_map(filled_lists).collect(),
            volumes: pod.volumes().into_iter().map(str::to_owned).collect(),
        }
    }

    /// Creates the map of labels if the pod has none.
    pub(crate) fn ensure_labels(&mut self) {
        if !self.has_labels {
            self.add(&["metadata", "labels"], json!({}));
            self.has_labels = true;
        }
    }

    /// Creates a list if it is absent or empty, so that [`Self::push`] appends single items.
    pub(crate) fn ensure_list(&mut self, list: PodList) {
        if self.filled.insert(list) {
            self.add(&["spec", list.key()], json!([]));
        }
    }

    /// Sets a label and replaces an existing value.
    pub(crate) fn label(&mut self, key: &str, value: &str) {
        self.ensure_labels();
        self.add(&["metadata", "labels", key], json!(value));
    }

    /// Sets an annotation. The pod must have annotations.
    pub(crate) fn annotation(&mut self, key: &str, value: &str) {
        self.add(&["metadata", "annotations", key], json!(value));
    }

    /// Removes an annotation. The pod must have it.
    pub(crate) fn remove_annotation(&mut self, key: &str) {
        let path = PointerBuf::from_tokens(["metadata", "annotations", key]);
        self.operations.push(PatchOperation::Remove(RemoveOperation { path }));
    }

    /// Appends an item to a list of the pod.
    pub(crate) fn push(&mut self, list: PodList, item: Value) {
        self.append(self.filled.contains(&list), &["spec", list.key()], vec![item]);
        self.filled.insert(list);
    }

    /// Inserts an item at the front of a list. Call [`Self::ensure_list`] first.
    pub(crate) fn push_first(&mut self, list: PodList, item: Value) {
        self.add(&["spec", list.key(), "0"], item);
    }

    /// Adds the volumes whose names are not in use yet; a single operation if the pod has none.
    pub(crate) fn volumes(&mut self, volumes: Vec<Value>) {
        let mut new = volumes;
        new.retain(|volume| self.volumes.insert(name_of(volume).to_owned()));
        if !new.is_empty() {
            let filled = !self.filled.insert(PodList::Volumes);
            self.append(filled, &["spec", PodList::Volumes.key()], new);
        }
    }

    /// Whether the pod has a volume of this name or this patch adds one.
    pub(crate) fn has_volume(&self, name: &str) -> bool {
        self.volumes.contains(name)
    }

    /// Appends items to a list of the container at this index.
    pub(crate) fn extend_container(
        &mut self,
        index: usize,
        list: ContainerList,
        items: Vec<Value>,
    ) {
        if items.is_empty() {
            return;
        }
        let filled = !self.filled_in_container.insert((index, list));
        self.append(filled, &["spec", "containers", &index.to_string(), list.key()], items);
    }

    pub(crate) fn finish(self) -> Patch {
        Patch(self.operations)
    }

    fn append(&mut self, filled: bool, path: &[&str], items: Vec<Value>) {
        if filled {
            let path: Vec<&str> = path.iter().copied().chain(["-"]).collect();
            for item in items {
                self.add(&path, item);
            }
        } else {
            self.add(path, Value::Array(items));
        }
    }

    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.operations.push(PatchOperation::Add(AddOperation { path, value }));
    }
}

impl PodList {
    fn key(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::Volumes => "volumes",
        }
    }
}

impl ContainerList {
    fn key(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::VolumeMounts => "volumeMounts",
        }
    }
}

fn filled_lists((index, container): (usize, &ContainerView<'_>)) -> Vec<(usize, ContainerList)> {
    let lists = [
        (ContainerList::Env, container.has_env()),
        (ContainerList::VolumeMounts, container.has_mounts()),
    ];
    lists.into_iter().filter(|(_, full)| *full).map(|(list, _)| (index, list)).collect()
}

/// The `name` of a volume, a mount or a container.
pub(crate) fn name_of(item: &Value) -> &str {
    item.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(mut pod: Value, write: impl FnOnce(&mut PatchWriter)) -> (Value, Value) {
        let mut writer = PatchWriter::new(&PodView::parse(&pod).unwrap());
        write(&mut writer);
        let patch = writer.finish();
        json_patch::patch(&mut pod, &patch).unwrap();
        (serde_json::to_value(&patch).unwrap(), pod)
    }

    #[test]
    fn creates_each_missing_parent_once() {
        let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        let (patch, pod) = patched(pod, |w| {
            w.volumes(vec![json!({"name": "v1"}), json!({"name": "v2"})]);
            w.volumes(vec![json!({"name": "v3"}), json!({"name": "v1"})]);
            w.label("dapr.io/x", "1");
            w.label("y", "2");
            w.extend_container(0, ContainerList::Env, vec![json!({"name": "A"})]);
            w.extend_container(0, ContainerList::Env, vec![json!({"name": "B"})]);
            w.extend_container(0, ContainerList::VolumeMounts, vec![]);
        });
        let paths: Vec<&str> =
            patch.as_array().unwrap().iter().map(|op| op["path"].as_str().unwrap()).collect();
        assert_eq!(
            paths,
            [
                "/spec/volumes",
                "/spec/volumes/-",
                "/metadata/labels",
                "/metadata/labels/dapr.io~1x",
                "/metadata/labels/y",
                "/spec/containers/0/env",
                "/spec/containers/0/env/-",
            ]
        );
        assert_eq!(
            pod,
            json!({
                "metadata": {"labels": {"dapr.io/x": "1", "y": "2"}},
                "spec": {
                    "containers": [{"name": "a", "env": [{"name": "A"}, {"name": "B"}]}],
                    "volumes": [{"name": "v1"}, {"name": "v2"}, {"name": "v3"}],
                },
            })
        );
    }

    #[test]
    fn null_parents_are_replaced() {
        let pod = json!({
            "metadata": {"labels": null},
            "spec": {"containers": [{"env": null}], "volumes": null, "initContainers": null}
        });
        let (_, pod) = patched(pod, |w| {
            w.label("a", "b");
            w.push(PodList::InitContainers, json!({"name": "i"}));
            w.extend_container(0, ContainerList::Env, vec![json!({"name": "A"})]);
            w.volumes(vec![json!({"name": "v"})]);
        });
        assert_eq!(pod["spec"]["initContainers"][0]["name"], "i");
        assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "A");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "v");
    }
}
