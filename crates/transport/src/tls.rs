//! rustls configurations that look up certificate and anchors at each handshake, and check SPIFFE
//! ids instead of host names. Source: Dapr 1.18, security module.

use std::sync::Arc;

use identity::{SpiffeId, TrustAnchors};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
};
use tokio::sync::watch;

use crate::certified::Svid;

/// Why there is no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The crypto provider supports no protocol version, or a CA certificate cannot be used.
    #[error(transparent)]
    Config(#[from] rustls::Error),
    /// The CA of clients is not PEM.
    #[error("read the CA of clients")]
    ClientCaPem(#[source] rustls::pki_types::pem::Error),
    /// The CA of clients holds no certificate.
    #[error(transparent)]
    ClientCa(#[from] VerifierBuilderError),
}

/// Whether a server requests a certificate from its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientAuth {
    /// No client certificate: sentry (callers have no identity yet) and webhooks.
    None,
    /// A valid SVID of any trust domain is required; authorization is per request.
    Spiffe,
    /// A valid SVID of exactly this id is required; the handshake fails for all others.
    Only(SpiffeId),
}

/// Application protocols of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// gRPC: HTTP/2 only. Peers refuse a server that selects no protocol.
    Grpc,
    /// HTTPS for the API server: HTTP/2 and HTTP/1.1.
    Https,
}

impl Alpn {
    pub(crate) fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Grpc => vec![b"h2".to_vec()],
            Self::Https => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

/// A server configuration: TLS 1.2 and 1.3, the current SVID at each handshake.
///
/// # Errors
/// [`TlsError::Config`]: the crypto provider supports neither protocol version, which a build of this
/// crate excludes.
pub fn server(svid: &Svid, clients: ClientAuth, alpn: Alpn) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let resolver = Arc::new(Resolver(svid.clone()));
    let expected = match clients {
        ClientAuth::None => {
            let config = builder.with_no_client_auth().with_cert_resolver(resolver);
            return Ok(fresh_sessions(config, alpn));
        }
        ClientAuth::Spiffe => None,
        ClientAuth::Only(id) => Some(id),
    };
    let config = builder
        .with_client_cert_verifier(Arc::new(SpiffeVerifier::new(svid.anchors(), expected)))
        .with_cert_resolver(resolver);
    Ok(fresh_sessions(config, alpn))
}

/// A server configuration for HTTPS whose clients must have a certificate of one of these CAs
/// (PEM): for the API server, which has no SPIFFE id.
///
/// # Errors
/// [`TlsError`]: the text holds no CA certificate that can be used.
pub fn server_for_clients_of(svid: &Svid, ca_pem: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(certificate.map_err(TlsError::ClientCaPem)?)?;
    }
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Resolver(svid.clone())));
    Ok(fresh_sessions(config, Alpn::Https))
}

/// A server configuration without client certificates, with the certificate of `resolver`.
pub(crate) fn server_with(
    resolver: Arc<dyn rustls::server::ResolvesServerCert>,
    alpn: Alpn,
) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    Ok(fresh_sessions(config, alpn))
}

/// No session is resumed: a resumed one would keep a peer whose anchor was removed. Sidecars and
/// API servers never request it, so no tickets are sent.
fn fresh_sessions(mut config: ServerConfig, alpn: Alpn) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn.protocols();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// A client configuration that presents the current SVID and accepts exactly the server `expected`.
///
/// # Errors
/// As [`server`].
pub fn client(svid: &Svid, expected: SpiffeId) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = SpiffeVerifier::new(svid.anchors(), Some(expected));
    let mut config =
        dangerous(verifier)?.with_client_cert_resolver(Arc::new(Resolver(svid.clone())));
    config.alpn_protocols = Alpn::Grpc.protocols();
    Ok(Arc::new(config))
}

/// A client configuration without a certificate of its own, as callers of sentry have none yet.
///
/// # Errors
/// As [`server`].
pub fn anonymous_client(
    anchors: watch::Receiver<Arc<TrustAnchors>>,
    expected: SpiffeId,
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = dangerous(SpiffeVerifier::new(anchors, Some(expected)))?.with_no_client_auth();
    config.alpn_protocols = Alpn::Grpc.protocols();
    Ok(Arc::new(config))
}

fn dangerous(
    verifier: SpiffeVerifier,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous() // rustls's term for any verifier that does not check host names
        .with_custom_certificate_verifier(Arc::new(verifier)))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default()
        .cloned()
        .unwrap_or_else(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Resolves the current SVID.
#[derive(Debug)]
struct Resolver(Svid);

impl rustls::server::ResolvesServerCert for Resolver {
    fn resolve(
        &self,
        _: rustls::server::ClientHello<'_>,
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.current().certified().clone())
    }
}

impl rustls::client::ResolvesClientCert for Resolver {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.current().certified().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Accepts SVIDs that chain to the current anchors, and one id only where one is expected.
#[derive(Debug)]
struct SpiffeVerifier {
    anchors: watch::Receiver<Arc<TrustAnchors>>,
    expected: Option<SpiffeId>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SpiffeVerifier {
    fn new(anchors: watch::Receiver<Arc<TrustAnchors>>, expected: Option<SpiffeId>) -> Self {
        let algorithms = provider().signature_verification_algorithms;
        Self { anchors, expected, algorithms }
    }

    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let now = jiff::Timestamp::from_second(seconds).map_err(refused)?;
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(leaf).chain(intermediates).cloned().collect();
        let anchors = self.anchors.borrow().clone();
        let id = identity::verify_svid(&chain, &anchors, now).map_err(refused)?;
        match &self.expected {
            Some(expected) if *expected != id => {
                Err(refused(UnexpectedId { expected: expected.clone(), got: id }))
            }
            _ => Ok(()),
        }
    }
}

/// The certificate is valid but has another SPIFFE id.
#[derive(Debug, thiserror::Error)]
#[error("peer is {got}, expected {expected}")]
struct UnexpectedId {
    expected: SpiffeId,
    got: SpiffeId,
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

impl ServerCertVerifier for SpiffeVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for SpiffeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // any client certificate is requested; its SPIFFE id decides
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(leaf, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The id of the verified client certificate of a finished handshake.
pub(crate) fn peer_id(session: &rustls::ServerConnection) -> Option<SpiffeId> {
    let leaf = session.peer_certificates()?.first()?;
    identity::CertChain::from_der(vec![leaf.clone().into_owned()]).ok()?.leaf_id().ok()
}
