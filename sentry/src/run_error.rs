//! Why sentry does not start.

use std::io;

use identity::SpiffeError;
use kubernetes::ClientError;
use runtime::{BoxError, ListenError, RootUserError};
use transport::tls::TlsError;

/// Why sentry does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The process runs as root.
    #[error(transparent)]
    User(#[from] RootUserError),
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A port is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system does not report the port that it chose.
    #[error("read the listening address")]
    Address(#[source] io::Error),
    /// A metric is registered already.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// Trust domain and namespace do not form a SPIFFE id.
    #[error("name sentry's own identity")]
    OwnId(#[source] SpiffeError),
    /// The control plane's Configuration cannot be used. Source of the text: Dapr 1.18, sentry.
    #[error("couldn't find config name {name}")]
    Configuration {
        /// Name of the resource in quotes; the path of the file in standalone mode.
        name: String,
        /// Why it cannot be read or is invalid.
        #[source]
        cause: BoxError,
    },
    /// The CA's files cannot be read or written.
    #[error(transparent)]
    Ca(BoxError),
    /// The JWT key cannot be read or created.
    #[error(transparent)]
    JwtKey(BoxError),
    /// There is no TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl RunError {
    /// For `map_err`; `name` is in quotes.
    pub(crate) fn configuration<E: Into<BoxError>>(name: &str) -> impl FnOnce(E) -> Self {
        let name = name.to_owned();
        move |cause| Self::Configuration { name, cause: cause.into() }
    }
}
