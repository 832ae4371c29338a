//! Connects to a peer by address and verifies it by SPIFFE id.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use identity::SpiffeId;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::certified::Svid;
use crate::tls::{self, TlsError};

/// Why there is no channel to a peer.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is not `host:port`.
    #[error("address {address:?} is not host:port")]
    Address {
        /// The address as configured.
        address: String,
        /// Why it does not parse.
        #[source]
        cause: axum::http::uri::InvalidUri,
    },
    /// There is no TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The connection failed, or the configuration does not accept the peer.
    #[error(transparent)]
    Connect(#[from] tonic::transport::Error),
}

/// Time limit of one connection attempt, TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(20);

/// A lazily connected gRPC channel to the peer `expected` at `address` (`host:port`); it reconnects
/// automatically with the current SVID.
///
/// # Errors
/// [`DialError::Address`]: the address is not `host:port`.
pub fn channel(svid: &Svid, address: &str, expected: SpiffeId) -> Result<Channel, DialError> {
    let connector = Connector { address: address.to_owned(), tls: tls::client(svid, expected)? };
    Ok(endpoint(address)?.connect_with_connector_lazy(connector.service()))
}

/// Connects at once, with a TLS configuration of [`tls`].
///
/// # Errors
/// [`DialError`]: the address is not `host:port`, the connection failed, or the configuration does
/// not accept the peer.
pub async fn dial(address: &str, tls: Arc<rustls::ClientConfig>) -> Result<Channel, DialError> {
    let connector = Connector { address: address.to_owned(), tls };
    Ok(endpoint(address)?.connect_with_connector(connector.service()).await?)
}

fn endpoint(address: &str) -> Result<Endpoint, DialError> {
    let uri = format!("https://{address}");
    let uri: Uri =
        uri.parse().map_err(|cause| DialError::Address { address: address.to_owned(), cause })?;
    Ok(Endpoint::from(uri).connect_timeout(CONNECT))
}

struct Connector {
    address: String,
    tls: Arc<rustls::ClientConfig>,
}

impl Connector {
    fn service(
        self,
    ) -> impl tower::Service<
        Uri,
        Response = TokioIo<tokio_rustls::client::TlsStream<TcpStream>>,
        Error = std::io::Error,
        Future: Send,
    > + Send
    + 'static {
        let this = Arc::new(self);
        tower::service_fn(move |_| {
            let this = this.clone();
            async move { this.connect().await }
        })
    }

    async fn connect(
        &self,
    ) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
        let host = self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host)
            .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?;
        let tcp = TcpStream::connect(&self.address).await?;
        tcp.set_nodelay(true)?;
        Ok(TokioIo::new(TlsConnector::from(self.tls.clone()).connect(name, tcp).await?))
    }
}
