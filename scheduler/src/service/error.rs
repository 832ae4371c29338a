//! Why the scheduler does not start.

use std::io;

use kubernetes::ClientError;
use runtime::{BoxError, ListenError, RootUserError};
use transport::svid;
use transport::tls::TlsError;

use super::ExternalError;

/// Why the scheduler does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The process runs as root, in Kubernetes mode.
    #[error(transparent)]
    User(#[from] RootUserError),
    /// There is no usable configuration for the API server.
    #[error("connect to the API server")]
    Cluster(#[source] ClientError),
    /// The certificate cannot be requested from sentry.
    #[error("get an identity")]
    Svid(#[source] svid::StartError),
    /// A metric is registered already.
    #[error("register metrics")]
    Metrics(#[source] prometheus::Error),
    /// The port is in use, or the address does not resolve.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// As [`RunError::Listen`], of the etcd API.
    #[error("open the port of the etcd API: choose another --etcd-client-port")]
    ListenClient(#[source] ListenError),
    /// The chosen port cannot be read from the system.
    #[error("read the listening address")]
    Address(#[source] io::Error),
    /// The process was stopped while another one had the directory, or the file system was full.
    #[error("stopped while waiting")]
    Stopped,
    /// The job store failed as soon as it was open.
    #[error("read the job store")]
    Store(#[source] BoxError),
    /// The client of the etcd cannot be created.
    #[error(transparent)]
    External(#[from] ExternalError),
    /// The certificate cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
