//! A certificate of the web's PKI, read from files and reloaded when they change: for servers whose
//! clients do not use SPIFFE ids.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use runtime::{Scope, chain};
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::file_watch::{FileWatch, FileWatchError};
use crate::tls::{self, Alpn, TlsError};

/// Interval at which missing files are polled. Source: Dapr 1.18, sentry's OIDC server.
const MISSING_POLL: Duration = Duration::from_secs(5);
/// Interval at which the files are read without an event.
const SLOW_POLL: Duration = Duration::from_mins(1);

/// Why no certificate is served from files.
#[derive(Debug, thiserror::Error)]
pub enum FileCertificateError {
    /// A directory cannot be watched.
    #[error(transparent)]
    Watch(#[from] FileWatchError),
    /// There is no TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A file that cannot be read, or is not PEM.
#[derive(Debug, thiserror::Error)]
#[error("read {}", path.display())]
pub struct PemFileError {
    path: PathBuf,
    #[source]
    cause: pem::Error,
}

/// Why files are not used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error(transparent)]
    Read(#[from] PemFileError),
    #[error("certificate and key do not match")]
    Mismatch(#[source] rustls::Error),
}

/// Waits for both files, then serves with them and their replacements for as long as the scope
/// lives. Files that do not match leave the former certificate in use. `None` if the scope ends
/// first.
///
/// # Errors
/// [`FileCertificateError`]: the directories cannot be watched.
pub async fn server(
    certificate: &Path,
    key: &Path,
    alpn: Alpn,
    scope: &Scope,
) -> Result<Option<Arc<ServerConfig>>, FileCertificateError> {
    let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
    // Before the files are read, so that no change is missed.
    let watch = FileWatch::new([certificate, key])?;
    let Some(first) = scope.token().run_until_cancelled(files.wait()).await else {
        return Ok(None);
    };
    let current = Arc::new(Current(ArcSwap::new(first)));
    let (handle, token) = (current.clone(), scope.token().clone());
    scope.spawn("file-certificate", async move {
        token.run_until_cancelled(files.watch(&handle, watch)).await;
        Ok(())
    });
    Ok(Some(tls::server_with(current, alpn)?))
}

/// Reads a certificate with its chain, and its key.
pub(crate) fn read_pair(
    certificate: &Path,
    key: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PemFileError> {
    let failed = |path: &Path, cause| PemFileError { path: path.to_owned(), cause };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|cause| failed(certificate, cause))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|cause| failed(key, cause))?;
    Ok((chain, private))
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn read(&self) -> Result<Arc<CertifiedKey>, FileError> {
        let (chain, key) = read_pair(&self.certificate, &self.key)?;
        let certified = CertifiedKey::from_der(chain, key, &tls::provider());
        Ok(Arc::new(certified.map_err(FileError::Mismatch)?))
    }

    async fn wait(&self) -> Arc<CertifiedKey> {
        loop {
            match self.read() {
                Ok(certified) => return certified,
                Err(e) => tracing::warn!("{}; waiting for a certificate", chain(&e)),
            }
            tokio::time::sleep(MISSING_POLL).await;
        }
    }

    async fn watch(&self, current: &Current, mut watch: FileWatch) {
        loop {
            watch.changed(SLOW_POLL).await;
            match self.read() {
                Ok(read) if read.cert == current.0.load().cert => {}
                Ok(read) => current.0.store(read),
                Err(e) => tracing::error!("{}; the former certificate stays in use", chain(&e)),
            }
        }
    }
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}
