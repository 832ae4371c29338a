//! Asks for the versions of the API server and, where native sidecars follow them, of the nodes.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;

use super::{Cluster, ClusterError, LOG, call};
use crate::live::Live;
use crate::platform::{Platform, Version};
use crate::settings::NativeDefault;

/// How often the versions are asked for; clusters are upgraded hardly more than once a month, and
/// node by node.
const POLL: Duration = Duration::from_mins(1);
/// Nodes of one answer: their objects are large.
const PAGE: u32 = 100;

impl Cluster {
    /// Keeps the versions in `live`, until dropped.
    pub async fn follow_platform(self, native: NativeDefault, live: Live) {
        let mut trouble = String::new();
        loop {
            let text = match self.read_platform(native, &live).await {
                Ok(()) => String::new(),
                Err(error) => runtime::chain(&error),
            };
            if text != trouble {
                if !text.is_empty() {
                    tracing::warn!(target: LOG, "versions of the cluster cannot be read, native sidecars are used only where they are asked for: {text}");
                }
                trouble = text;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks for the versions once.
    ///
    /// # Errors
    /// [`ClusterError`]; what could not be read counts as unknown.
    pub async fn read_platform(
        &self,
        native: NativeDefault,
        live: &Live,
    ) -> Result<(), ClusterError> {
        let known = live.platform();
        let server = call(self.client.apiserver_version()).await?;
        let server = Version::parse(&format!("{}.{}", server.major, server.minor));
        live.set_platform(Platform { server, ..known });
        if native == NativeDefault::Auto {
            let nodes = self.oldest_node().await;
            let oldest_node = nodes.as_ref().ok().copied().flatten();
            live.set_platform(Platform { server, oldest_node });
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
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_a_node() {
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
