//! Why the injector does not start.

use std::io;
use std::path::PathBuf;

/// An error of another crate that has no type of its own.
type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why the injector does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A metric is registered already.
    #[error("register metrics")]
    Metrics(#[from] prometheus::Error),
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] kubernetes::ClientError),
    /// Sentry issued no certificate.
    #[error("get the certificate of the injector")]
    Certificate(#[source] Source),
    /// The port cannot be used.
    #[error("listen for webhook requests")]
    Listen(#[source] Source),
    /// The file with the CA of client certificates cannot be read.
    #[error("read the CA of client certificates, {}", path.display())]
    ClientCa {
        /// Path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The TLS settings are invalid.
    #[error("configure TLS of the webhook")]
    Tls(#[source] Source),
}
