//! The certificate that a server presents, for tools that show it. It is not trusted: nothing is
//! sent after the handshake.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::tls::{Alpn, provider};

/// Certificates of a chain that are kept; a longer one is cut off.
const MAX_CERTIFICATES: usize = 16;

/// The chain that a gRPC server presents in a TLS handshake, leaf first, at most 16 certificates. The
/// server has proved that it has the key of the leaf; the caller checks who signed it. Sidecars send
/// their certificate before they ask for one (TLS 1.3), so a caller needs none. Dropping the future
/// is safe; it has no time limit of its own.
///
/// # Errors
/// The server speaks no TLS, or the connection ends before its certificate.
pub async fn presented(
    stream: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<Vec<CertificateDer<'static>>> {
    let recorder = Arc::new(Recorder {
        chain: Mutex::default(),
        algorithms: provider().signature_verification_algorithms,
    });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous() // rustls's term for any verifier of one's own; see the module's doc
        .with_custom_certificate_verifier(recorder.clone())
        .with_no_client_auth();
    config.alpn_protocols = Alpn::Grpc.protocols();
    // Sidecars have no host name; a name is sent to no one, because addresses are not.
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(drop);
    // A server may end the handshake because there is no certificate of ours: its own came before.
    match (recorder.take(), handshake) {
        (Some(chain), _) => Ok(chain),
        (None, Ok(())) => Err(io::Error::other("the server presented no certificate")),
        (None, Err(error)) => Err(error),
    }
}

/// Accepts every certificate whose key the server has, and records the chain.
#[derive(Debug)]
struct Recorder {
    chain: Mutex<Proven>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A chain, and whether the server has proved that it has the key of its leaf.
#[derive(Debug, Default)]
struct Proven {
    chain: Vec<CertificateDer<'static>>,
    is_proven: bool,
}

impl Recorder {
    fn lock(&self) -> std::sync::MutexGuard<'_, Proven> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Vec<CertificateDer<'static>>> {
        let mut proven = self.lock();
        proven.is_proven.then(|| std::mem::take(&mut proven.chain))
    }

    fn proven(
        &self,
        checked: Result<HandshakeSignatureValid, rustls::Error>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.lock().is_proven = checked.is_ok();
        checked
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(leaf).chain(intermediates).take(MAX_CERTIFICATES);
        self.lock().chain = chain.map(|der| der.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proven(rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.proven(rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_certificates_are_kept_as_may_be_and_no_more() {
        let kept = |count: u8| {
            let recorder = Recorder {
                chain: Mutex::default(),
                algorithms: provider().signature_verification_algorithms,
            };
            let chain: Vec<_> = (0..count).map(|n| CertificateDer::from(vec![n])).collect();
            let (leaf, others) = chain.split_first().unwrap();
            let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
            let now = UnixTime::since_unix_epoch(std::time::Duration::ZERO);
            recorder.verify_server_cert(leaf, others, &name, &[], now).unwrap();
            let kept = recorder.lock().chain.len();
            assert!(recorder.take().is_none(), "the key is not proven");
            kept
        };
        assert_eq!([15, 16, 17].map(kept), [15, MAX_CERTIFICATES, MAX_CERTIFICATES]);
    }
}
