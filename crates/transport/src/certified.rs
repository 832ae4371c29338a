//! The current SVID of a process, which TLS reads at each handshake.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use identity::{CertChain, ChainError, PrivateKey, SpiffeId, TrustAnchors};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Why a chain and a key are not an SVID.
#[derive(Debug, thiserror::Error)]
pub enum CertifiedSvidError {
    /// The leaf has no SPIFFE id.
    #[error("read the SPIFFE id of the certificate")]
    Id(#[source] ChainError),
    /// The key cannot sign.
    #[error("use the certificate's key")]
    Key(#[source] rustls::Error),
}

/// A certificate chain with its key, ready for TLS.
pub struct CertifiedSvid {
    chain: CertChain,
    id: SpiffeId,
    key_pem: Zeroizing<String>,
    certified: Arc<CertifiedKey>,
}

impl CertifiedSvid {
    /// Joins a chain and its key.
    ///
    /// # Errors
    /// [`CertifiedSvidError`]: the leaf has no SPIFFE id or the key cannot sign.
    pub fn new(chain: CertChain, key: &PrivateKey) -> Result<Self, CertifiedSvidError> {
        let id = chain.leaf_id().map_err(CertifiedSvidError::Id)?;
        let der = PrivatePkcs8KeyDer::from(key.pkcs8_der().to_vec());
        let signer = any_supported_type(&der.into()).map_err(CertifiedSvidError::Key)?;
        let certified = Arc::new(CertifiedKey::new(chain.certs().to_vec(), signer));
        Ok(Self { chain, id, key_pem: key.to_pem(), certified })
    }

    /// The SPIFFE id of the leaf.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The leaf and its issuers.
    pub fn chain(&self) -> &CertChain {
        &self.chain
    }

    /// The key of the leaf as PEM, for a program that reads it from a file.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for CertifiedSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertifiedSvid({}, {:?})", self.id, self.chain)
    }
}

/// The current SVID and trust anchors of this process. Cheap to clone; readers never wait.
#[derive(Debug, Clone)]
pub struct Svid {
    current: Arc<ArcSwap<CertifiedSvid>>,
    anchors: watch::Receiver<Arc<TrustAnchors>>,
}

impl Svid {
    /// An SVID that is not requested from a remote sentry: sentry's own, or a test's.
    pub fn fixed(svid: CertifiedSvid, anchors: watch::Receiver<Arc<TrustAnchors>>) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(svid)), anchors }
    }

    /// Replaces the SVID: new handshakes use it, open connections stay.
    pub fn replace(&self, svid: CertifiedSvid) {
        self.current.store(Arc::new(svid));
    }

    /// The current SVID; it may be replaced right after the call.
    pub fn current(&self) -> Arc<CertifiedSvid> {
        self.current.load_full()
    }

    /// The current trust anchors; the receiver sees their changes.
    pub fn anchors(&self) -> watch::Receiver<Arc<TrustAnchors>> {
        self.anchors.clone()
    }
}
