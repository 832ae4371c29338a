//! Polls the versions of the API server and, for `NATIVE_SIDECAR_ENABLED=auto`, of the nodes.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;

use super::{Cluster, ClusterError, ClusterSnapshot, LOG, call};
use crate::sidecar::{NativeDefault, Platform, Version};

/// Interval of reads. Upgrades of clusters are rare.
const POLL: Duration = Duration::from_mins(1);
/// Nodes per page; the objects are large.
const PAGE: u32 = 100;

impl Cluster {
    /// Polls the versions.
    pub(crate) async fn poll_platform(self, native: NativeDefault, snapshot: ClusterSnapshot) {
        let mut last_error = String::new();
        loop {
            let text = match self.read_platform(native, &snapshot).await {
                Ok(()) => String::new(),
                Err(error) => runtime::chain(&error),
            };
            if text != last_error {
                if !text.is_empty() {
                    tracing::warn!(target: LOG, "cannot read the versions of the cluster, native sidecars are used only for pods that request them; retrying: {text}");
                }
                last_error = text;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads the versions.
    ///
    /// # Errors
    /// [`ClusterError`]; versions that could not be read count as unknown.
    pub(crate) async fn read_platform(
        &self,
        native: NativeDefault,
        snapshot: &ClusterSnapshot,
    ) -> Result<(), ClusterError> {
        let known = snapshot.platform();
        let server = call(self.client.apiserver_version()).await?;
        let server = Version::parse(&format!("{}.{}", server.major, server.minor));
        snapshot.set_platform(Platform { server, ..known });
        if native == NativeDefault::Auto {
            let nodes = self.oldest_node().await;
            let oldest_node = nodes.as_ref().ok().copied().flatten();
            snapshot.set_platform(Platform { server, oldest_node });
            nodes?;
        }
        Ok(())
    }

    async fn oldest_node(&self) -> Result<Option<Version>, ClusterError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut versions = Vec::new();
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let nodes = call(api.list(&page)).await?;
            versions.extend(nodes.items.iter().filter(|node| is_ready(node)).filter_map(version));
            match nodes.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(versions.into_iter().min()),
            }
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn version(node: &Node) -> Option<Version> {
    Version::parse(&node.status.as_ref()?.node_info.as_ref()?.kubelet_version)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parses_a_node() {
        let node: Node = serde_json::from_value(json!({"metadata": {}, "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.30.1+k3s1", "architecture": "", "bootID": "",
                "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                "machineID": "", "operatingSystem": "", "osImage": "", "systemUUID": ""},
        }}))
        .unwrap();
        assert!(is_ready(&node) && version(&node) == Version::parse("1.30"));
        assert!(!is_ready(&Node::default()) && version(&Node::default()).is_none());
    }
}
