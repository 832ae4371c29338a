//! Connections to servers outside of the control plane, whose certificates are verified against a CA
//! and their host name. Files are read at each connection, so a renewed one needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::fetch::{Fetcher, Roots, RootsError, store};
use crate::file_certificate::{PemFileError, read_pair};
use crate::tls;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum FileClientError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        cause: std::io::Error,
    },
    /// A file of the client certificate cannot be read, or is not PEM.
    #[error(transparent)]
    Pem(#[from] PemFileError),
    /// No server can be trusted.
    #[error("the CA of the server")]
    Roots(#[from] RootsError),
    /// The client certificate and its key cannot be used.
    #[error("the client certificate")]
    Certificate(#[from] rustls::Error),
}

/// A byte stream, in plain text or TLS.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// How servers are verified, and the certificate that they ask for.
#[derive(Debug, Clone, Default)]
pub struct FileClient {
    /// CA certificates, PEM; `None` for the system's store.
    pub ca: Option<PathBuf>,
    /// The client certificate with its chain, and its key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl FileClient {
    /// Reads the files.
    ///
    /// # Errors
    /// [`FileClientError`]: a file is missing or holds something else.
    pub fn config(&self) -> Result<Arc<ClientConfig>, FileClientError> {
        let roots = match &self.ca {
            Some(path) => Roots::Pem(read(path)?),
            None => Roots::System,
        };
        let builder = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store(&roots)?);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let (chain, private) = read_pair(certificate, key)?;
                builder.with_client_auth_cert(chain, private)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// Fetches documents of such servers; the files are read once.
    ///
    /// # Errors
    /// As [`Self::config`].
    pub fn fetcher(&self, limit: Duration, max_bytes: usize) -> Result<Fetcher, FileClientError> {
        let mut config = self.config()?;
        // HTTP/1.1 needs no negotiation.
        Arc::make_mut(&mut config).alpn_protocols.clear();
        Ok(Fetcher::with_tls(config, limit, max_bytes))
    }

    /// Makes TLS of a connection to `host`.
    ///
    /// # Errors
    /// The files cannot be used, or the server's certificate is not valid for the host.
    pub async fn connect(
        &self,
        host: &str,
        stream: impl Io + 'static,
    ) -> std::io::Result<Box<dyn Io>> {
        let config = self.config().map_err(std::io::Error::other)?;
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FileClientError> {
    std::fs::read(path).map_err(|cause| FileClientError::File { path: path.to_owned(), cause })
}
