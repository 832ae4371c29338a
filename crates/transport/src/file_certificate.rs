//! A certificate of the web's PKI, given as files and followed when they change: for servers whose
//! clients know no SPIFFE ids.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use runtime::Scope;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::file_watch::FileWatch;
use crate::tls::{self, Alpn};

/// How often missing files are looked for. Source: Dapr 1.18, sentry's OIDC server.
const MISSING_POLL: Duration = Duration::from_secs(5);
/// How often the files are read even without an event.
const SLOW_POLL: Duration = Duration::from_mins(1);

/// Waits for both files, then serves with them and with what replaces them for as long as the scope
/// lives. Files that do not fit each other leave the former certificate in use. `None` if the scope
/// ends first.
///
/// # Errors
/// The directories cannot be watched.
pub async fn server(
    certificate: &Path,
    key: &Path,
    alpn: Alpn,
    scope: &Scope,
) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
    // Before the files are read: no change is missed.
    let watch = FileWatch::new([certificate, key])?;
    let Some(first) = scope.token().run_until_cancelled(files.wait()).await else {
        return Ok(None);
    };
    let current = Arc::new(Current(ArcSwap::new(first)));
    let (handle, token) = (current.clone(), scope.token().clone());
    scope.spawn("file-certificate", async move {
        token.run_until_cancelled(files.follow(&handle, watch)).await;
        Ok(())
    });
    tls::server_with(current, alpn).map(Some)
}

struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

impl Files {
    fn read(&self) -> anyhow::Result<Arc<CertifiedKey>> {
        let named = |path: &Path| format!("read {}", path.display());
        let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&self.certificate)
            .with_context(|| named(&self.certificate))?
            .collect();
        let chain = chain.with_context(|| named(&self.certificate))?;
        let key = PrivateKeyDer::from_pem_file(&self.key).with_context(|| named(&self.key))?;
        let certified = CertifiedKey::from_der(chain, key, &tls::provider());
        Ok(Arc::new(certified.context("certificate and key do not fit each other")?))
    }

    async fn wait(&self) -> Arc<CertifiedKey> {
        loop {
            match self.read() {
                Ok(certified) => return certified,
                Err(e) => tracing::warn!("{e:#}; waiting for a certificate"),
            }
            tokio::time::sleep(MISSING_POLL).await;
        }
    }

    async fn follow(&self, current: &Current, mut watch: FileWatch) {
        loop {
            watch.changed(SLOW_POLL).await;
            match self.read() {
                Ok(read) if read.cert == current.0.load().cert => {}
                Ok(read) => current.0.store(read),
                Err(e) => tracing::error!("{e:#}; the former certificate stays in use"),
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
