//! The cluster of the flags, and the client of its API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kubernetes::ClientError;

use super::Cluster;

/// Timeout of a call to the API server, of which a webhook can take 30 s.
const CALL_LIMIT: Duration = Duration::from_secs(40);

/// The cluster, chosen as kubectl does.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterFlags {
    /// Path of the kubeconfig. Default: `KUBECONFIG`, else ~/.kube/config
    #[arg(long, value_name = "PATH", global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig. Default: its current context
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) context: Option<String>,
}

impl ClusterFlags {
    /// The cluster that the flags name; `namespace` is that of the control plane.
    ///
    /// # Errors
    /// There are no usable credentials.
    pub(crate) async fn connect(&self, namespace: String) -> Result<Cluster, ClientError> {
        Cluster::connect(self.kubeconfig.as_deref(), self.context.as_deref(), namespace).await
    }
}

impl Cluster {
    /// The cluster of a context, without a call to it; `namespace` is that of the control plane.
    ///
    /// # Errors
    /// There are no usable credentials.
    pub(crate) async fn connect(
        kubeconfig: Option<&Path>,
        context: Option<&str>,
        namespace: String,
    ) -> Result<Self, ClientError> {
        let client = kubernetes::user_client(kubeconfig, context, CALL_LIMIT).await?;
        Ok(Self::new(client, namespace))
    }
}
