//! Kubernetes for tests. Start reading at [`api_cluster`]: an API server without a node and without
//! root. [`node_cluster`] adds a node with real Pods and needs root. [`client`] runs kubectl and
//! helm against either, or against an existing cluster.

pub(crate) mod api_cluster;
pub(crate) mod client;
mod containerd;
pub mod control_plane;
mod host;
pub(crate) mod local_api;
pub mod node_cluster;
mod node_image;
mod node_parts;
mod node_storage;
mod roster;
