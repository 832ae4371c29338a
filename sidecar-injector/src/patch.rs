//! The JSON Patch (RFC 6902) that changes a pod, written operation by operation.
//!
//! The writer knows which parents exist, in the incoming pod and by its own operations: a patch
//! whose parent is missing is not covered by any failure policy and refuses the pod.

use std::collections::BTreeSet;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation};
use serde_json::{Value, json};

use crate::pod::{ContainerView, PodView};

/// A list in `spec` that operations append to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodList {
    /// `spec.containers`
    Containers,
    /// `spec.initContainers`
    InitContainers,
    /// `spec.volumes`
    Volumes,
}

/// A list in a container that operations append to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerList {
    /// `env`
    Env,
    /// `volumeMounts`
    VolumeMounts,
}

/// Collects operations in the order in which they will be applied.
#[derive(Debug)]
pub struct PatchWriter {
    operations: Vec<PatchOperation>,
    has_labels: bool,
    filled: BTreeSet<PodList>,
    filled_in_container: BTreeSet<(usize, ContainerList)>,
    volumes: BTreeSet<String>,
}

impl PatchWriter {
    /// A writer of a patch for this pod.
    pub fn new(pod: &PodView<'_>) -> Self {
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

    /// Makes sure that the labels exist; does nothing when they do.
    pub fn ensure_labels(&mut self) {
        if !self.has_labels {
            self.add(&["metadata", "labels"], json!({}));
            self.has_labels = true;
        }
    }

    /// Makes sure that a list exists, so that [`Self::push`] appends to it one by one.
    pub fn ensure_list(&mut self, list: PodList) {
        if self.filled.insert(list) {
            self.add(&["spec", list.key()], json!([]));
        }
    }

    /// Sets a label, replacing one that is there.
    pub fn label(&mut self, key: &str, value: &str) {
        self.ensure_labels();
        self.add(&["metadata", "labels", key], json!(value));
    }

    /// Sets an annotation of a pod that has annotations.
    pub fn annotation(&mut self, key: &str, value: &str) {
        self.add(&["metadata", "annotations", key], json!(value));
    }

    /// Removes an annotation that the pod has.
    pub fn remove_annotation(&mut self, key: &str) {
        let path = PointerBuf::from_tokens(["metadata", "annotations", key]);
        self.operations.push(PatchOperation::Remove(RemoveOperation { path }));
    }

    /// Appends to a list of the pod.
    pub fn push(&mut self, list: PodList, item: Value) {
        self.append(self.filled.contains(&list), &["spec", list.key()], vec![item]);
        self.filled.insert(list);
    }

    /// Puts something in front of a list that [`Self::ensure_list`] was called for.
    pub fn push_first(&mut self, list: PodList, item: Value) {
        self.add(&["spec", list.key(), "0"], item);
    }

    /// Adds the volumes whose names are new; one operation when the pod had none before.
    pub fn volumes(&mut self, volumes: Vec<Value>) {
        let mut new = volumes;
        new.retain(|volume| self.volumes.insert(name_of(volume).to_owned()));
        if !new.is_empty() {
            let filled = !self.filled.insert(PodList::Volumes);
            self.append(filled, &["spec", PodList::Volumes.key()], new);
        }
    }

    /// Whether the pod has, or gets by this patch, a volume of this name.
    pub fn has_volume(&self, name: &str) -> bool {
        self.volumes.contains(name)
    }

    /// Appends to a list of the pod's container with this index.
    pub fn extend_container(&mut self, index: usize, list: ContainerList, items: Vec<Value>) {
        if items.is_empty() {
            return;
        }
        let filled = !self.filled_in_container.insert((index, list));
        self.append(filled, &["spec", "containers", &index.to_string(), list.key()], items);
    }

    /// The finished patch.
    pub fn finish(self) -> Patch {
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
pub fn name_of(item: &Value) -> &str {
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
    fn creates_parents_that_are_missing_once() {
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
