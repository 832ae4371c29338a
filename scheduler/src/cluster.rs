//! The API server in Kubernetes mode: trust anchors of a fresh installation, and the Namespaces whose
//! deletion deletes jobs (`namespaces`).

mod namespaces;

use std::future::Future;
use std::sync::Arc;

use kubernetes::{BundleReader, ClientError, Precedence};
use runtime::{BoxError, ReadyGuard};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::store::Store;

/// The connection to the API server.
pub(crate) struct Cluster {
    client: kube::Client,
    /// Set when the Namespaces were listed, or cannot be.
    ready: ReadyGuard,
}

impl Cluster {
    /// # Errors
    /// [`ClientError`]
    pub(crate) async fn connect(config: &Config, ready: ReadyGuard) -> Result<Self, ClientError> {
        let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::Kubeconfig);
        Ok(Self { client: client.await?, ready })
    }

    /// Reads the trust anchors of the control plane's namespace from the API server.
    pub(crate) fn trust_bundle(&self, namespace: &str) -> BundleReader {
        kubernetes::trust_bundle(self.client.clone(), namespace)
    }

    /// Deletes the jobs of deleted Namespaces until `stop`.
    pub(crate) fn delete_jobs_of_deleted_namespaces(
        self,
        store: Arc<dyn Store>,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
        namespaces::run(self.client, store, self.ready, stop)
    }
}
