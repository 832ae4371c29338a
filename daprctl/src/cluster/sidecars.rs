//! Reads the facts about sidecars: Pods, Components, and through the API server the metadata of each
//! sidecar (its proxy to pods) and the certificate (a port-forward).

use std::time::Duration;

use dashboard::Metadata;
use futures::{StreamExt as _, stream};
use identity::CertChain;
use k8s_openapi::api::core::v1;
use kube::Api;
use kubernetes::api_text;
use resources::images::tag;
use resources::{GROUP, ports};
use runtime::clock;

use super::Cluster;

use crate::facts::answers::{self, Answers, Ask, Presented};
use crate::facts::{Fact, ReadError};
use crate::pods::{Pod, text};
use crate::sidecars::SidecarFacts;

/// Status of a request without the right.
const FORBIDDEN: u16 = 403;
/// Sidecars that are asked at the same time.
const CONCURRENT: usize = 16;
/// Time for the answer of one sidecar.
const ANSWER: Duration = Duration::from_secs(5);

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
        let answers = match ask {
            Ask::Sidecars => self.answers(pods.iter().filter(|pod| answers::is_ready(pod))).await,
            Ask::Nobody => Answers::default(),
        };
        Ok(SidecarFacts {
            version: version.ok().flatten(),
            pods,
            components: components?,
            answers,
            now: clock::now(),
        })
    }

    /// Asks the sidecars of these pods.
    pub(super) async fn answers(&self, pods: impl IntoIterator<Item = &Pod>) -> Answers {
        let asked = pods.into_iter().map(|pod| async move {
            let has_mtls = pod.sidecar().is_some_and(|sidecar| sidecar.arguments.has_mtls);
            let certificate =
                async { if has_mtls { Some(self.certificate(pod).await) } else { None } };
            let (metadata, certificate) = tokio::join!(self.metadata(pod), certificate);
            (pod.id(), metadata, certificate)
        });
        let mut asked = stream::iter(asked).buffer_unordered(CONCURRENT);
        let mut answers = Answers::default();
        while let Some((id, metadata, certificate)) = asked.next().await {
            answers.certificates.extend(certificate.map(|found| (id.clone(), found)));
            answers.metadata.insert(id, metadata);
        }
        answers
    }

    /// The certificate that a sidecar presents on its internal port, by a port-forward.
    async fn certificate(&self, pod: &Pod) -> Fact<Presented> {
        let (name, port) = (&pod.name, ports::SIDECAR_INTERNAL_GRPC);
        let doing =
            format!("get the certificate of the sidecar through pods/portforward of {name}");
        let failed = |said: String| ReadError::Failed { doing: doing.clone(), said };
        let pods: Api<v1::Pod> = Api::namespaced(self.reader.client(), &pod.namespace);
        let presented = async {
            let mut forwarder = match pods.portforward(name, &[port]).await {
                Ok(forwarder) => forwarder,
                Err(kube::Error::Api(status)) if status.code == FORBIDDEN => {
                    return Err(ReadError::Forbidden(doing.clone()));
                }
                Err(error) => return Err(failed(api_text(&error))),
            };
            let stream =
                forwarder.take_stream(port).ok_or_else(|| failed("no stream".to_owned()))?;
            let chain = transport::presented(stream).await.map_err(|e| failed(e.to_string()))?;
            CertChain::from_der(chain).map_err(|error| failed(error.to_string()))
        };
        let chain = tokio::time::timeout(ANSWER, presented).await;
        let chain = chain.map_err(|_| failed("no answer within 5 s".to_owned()))??;
        let id = chain.leaf_id().ok().map(|id| id.to_string());
        let (not_before, not_after) = (chain.not_before(), chain.not_after());
        Ok(Presented { id, not_before, not_after, chain: chain.certs().to_vec() })
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
