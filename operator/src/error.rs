//! Why the operator does not start.
use std::io;

use identity::SpiffeError;
use kubernetes::ClientError;
use kubernetes::lease::LeaseError;
use runtime::{ListenError, RootUserError};
use transport::svid;
use transport::tls::TlsError;

/// Why the operator does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The process runs as root.
    #[error(transparent)]
    User(#[from] RootUserError),
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The leader election cannot determine its namespace.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A metric is registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The control plane's Configuration cannot be used.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// There is no certificate from sentry.
    #[error(transparent)]
    Svid(#[from] svid::StartError),
    /// A port is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system does not report the port that it chose.
    #[error(transparent)]
    Address(io::Error),
    /// The certificate cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why the control plane's Configuration cannot be used. `name` is `NAMESPACE/NAME`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The API server did not return it.
    #[error("read Configuration {name}: {message}")]
    Read {
        /// Namespace and name of the Configuration.
        name: String,
        /// The message of the API server, or the transport error.
        message: String,
    },
    /// It does not exist.
    #[error("read Configuration {0}: not found")]
    NotFound(String),
    /// It does not configure mTLS.
    #[error("Configuration {0} has no spec.mtls")]
    NoMtls(String),
    /// Its trust domain is invalid.
    #[error("spec.mtls.controlPlaneTrustDomain of Configuration {name}")]
    TrustDomain {
        /// Namespace and name of the Configuration.
        name: String,
        /// Why the trust domain does not parse.
        #[source]
        cause: SpiffeError,
    },
}
