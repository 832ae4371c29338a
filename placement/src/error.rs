//! Why placement does not start.

use std::io;

use runtime::{ListenError, RootUserError};
use transport::svid;
use transport::tls::TlsError;

use crate::election::ElectionError;

/// Why placement does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The process runs as root.
    #[error(transparent)]
    User(#[from] RootUserError),
    /// Neither trust anchors nor sentry are configured correctly, or sentry issues no certificate.
    #[error("get an identity")]
    Svid(#[source] svid::StartError),
    /// A metric is registered already.
    #[error("register metrics")]
    Metrics(#[source] prometheus::Error),
    /// The port is in use, or the address does not resolve.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system does not report the port that it chose.
    #[error("read the listening address")]
    Address(#[source] io::Error),
    /// The election cannot start.
    #[error(transparent)]
    Election(#[from] ElectionError),
    /// The certificate cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
