//! Reads the facts about sidecars: Pods, Components, and the metadata of each sidecar through
//! the API server's proxy to pods.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use resources::{GROUP, ports};

use super::Cluster;
use resources::images::tag;

use crate::facts::{Fact, ReadError};
use crate::pods::{Pod, text};
use crate::sidecars::{Metadata, SidecarFacts};

/// Sidecars that are asked at the same time.
const CONCURRENT: usize = 16;
/// Time for the answer of one sidecar.
const ANSWER: Duration = Duration::from_secs(5);

/// Whether sidecars are asked in addition to the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Each sidecar that is ready, for its metadata.
    Sidecars,
    /// No sidecar.
    Nobody,
}

impl Cluster {
    /// Reads the sidecars of a namespace, or of all.
    ///
    /// # Errors
    /// Pods or Components cannot be listed.
    pub(crate) async fn sidecars(&self, namespace: Option<&str>, ask: Ask) -> Fact<SidecarFacts> {
        let place = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
        let pods = format!("/api/v1{place}/pods");
        let components = format!("/apis/{GROUP}/v1alpha1{place}/components");
        let (pods, components, version) = tokio::join!(
            self.reader.list_as("list pods", &pods, |pod| Pod::read(&pod)),
            self.reader.list("list components", &components),
            self.version(),
        );
        let mut pods = pods?;
        pods.retain(|pod| pod.is_alive() && pod.sidecar().is_some());
        let mut metadata = BTreeMap::new();
        if ask == Ask::Sidecars {
            let ready = pods.iter().filter(|pod| pod.sidecar().is_some_and(|s| s.ready));
            let asked = ready.map(|pod| async { (pod.id(), self.metadata(pod).await) });
            metadata = stream::iter(asked).buffer_unordered(CONCURRENT).collect().await;
        }
        Ok(SidecarFacts {
            version: version.ok().flatten(),
            pods,
            components: components?,
            metadata,
        })
    }

    /// Version of the control plane: the tag of the operator's image.
    async fn version(&self) -> Fact<Option<String>> {
        let namespace = &self.namespace;
        let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments/dapr-operator");
        let doing = format!("get deployment {namespace}/dapr-operator");
        let operator: Option<serde_json::Value> = self.reader.get(&doing, &path).await?;
        let image = operator
            .map(|operator| text(operator.pointer("/spec/template/spec/containers/0/image")));
        Ok(image.map(|image| tag(&image).to_owned()).filter(|tag| !tag.is_empty()))
    }

    async fn metadata(&self, pod: &Pod) -> Fact<Metadata> {
        let (namespace, name, port) = (&pod.namespace, &pod.name, ports::SIDECAR_PUBLIC);
        let doing = format!("get metadata of the sidecar through pods/proxy of {name}");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/v1.0/metadata");
        let failed = |said: &str| ReadError::Failed { doing: doing.clone(), said: said.to_owned() };
        let answer = tokio::time::timeout(ANSWER, self.reader.get(&doing, &path)).await;
        let answer = answer.map_err(|_| failed("no answer within 5 s"))??;
        answer.ok_or_else(|| failed("the sidecar has no metadata"))
    }
}
