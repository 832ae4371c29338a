//! Volumes of the node: folders of its state, in the cluster's default `StorageClass`. Nothing
//! provisions more: a test cluster has as many as either control plane needs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::node_cluster::NODE_NAME;
use crate::Cluster;

/// Name of the class.
const CLASS: &str = "local";
/// Number of volumes: three schedulers of the reference, and some more.
const VOLUMES: usize = 6;
/// Declared capacity: what the charts request. The folder itself has no limit.
const CAPACITY: &str = "16Gi";

/// Creates the folders and registers them.
pub(crate) fn provide(cluster: &Cluster, folder: &Path) -> Result<()> {
    let mut items = vec![class()];
    for number in 0..VOLUMES {
        let name = format!("volume-{number}");
        let path = folder.join(&name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        items.push(volume(&name, &path));
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    cluster.apply(&list.to_string()).context("register the node's volumes").map(drop)
}

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {
            "name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// A `local` volume, because the kubelet applies `fsGroup` to it and not to `hostPath`.
fn volume(name: &str, path: &Path) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": CAPACITY},
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]},
            ]}]}},
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
        },
    })
}
