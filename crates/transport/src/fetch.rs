//! Fetches a small document over HTTP(S), with the usual checks of the web's PKI: for key sets of
//! identity providers, which are not SPIFFE peers. Proxies are not used and redirects not followed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::uri::InvalidUri;
use axum::http::{Request, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls;

/// Why a document was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The time limit of the whole fetch has passed.
    #[error("no answer in time")]
    Timeout,
    /// The address cannot be parsed.
    #[error("not a URL")]
    Url(#[source] InvalidUri),
    /// The address has no host.
    #[error("the URL names no host")]
    NoHost,
    /// The connection failed.
    #[error("connect")]
    Connect(#[source] std::io::Error),
    /// The address is `https://`, and the fetcher has no certificates.
    #[error("TLS is not set up")]
    NoTls,
    /// The host cannot be verified by TLS.
    #[error("the host is not a valid TLS server name")]
    Host(#[source] InvalidDnsNameError),
    /// The server is not trusted, or does not use TLS.
    #[error("TLS handshake")]
    Handshake(#[source] std::io::Error),
    /// The request cannot be made.
    #[error(transparent)]
    Request(#[from] axum::http::Error),
    /// The server does not use HTTP.
    #[error(transparent)]
    Http(hyper::Error),
    /// The request was not sent, or not answered.
    #[error("send the request")]
    Send(#[source] hyper::Error),
    /// An answer other than 200.
    #[error("the server answered {0}")]
    Status(StatusCode),
    /// The document is too large, or was not sent in full.
    #[error("read the document")]
    Body(#[source] axum::Error),
    /// The connection ended before the answer.
    #[error("the connection failed")]
    Broken(#[source] hyper::Error),
}

/// Why no server can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The crypto provider supports no protocol version.
    #[error(transparent)]
    Protocols(#[from] rustls::Error),
    /// [`Roots::System`] finds no certificate.
    #[error("the system's certificate store is empty or unreadable")]
    EmptyStore,
    /// A certificate of [`Roots::Pem`] is not PEM.
    #[error("read the CA certificate")]
    Pem(#[source] pem::Error),
    /// A certificate of [`Roots::Pem`] is not a CA certificate.
    #[error("CA certificate")]
    Certificate(#[source] rustls::Error),
    /// [`Roots::Pem`] holds no certificate.
    #[error("no CA certificate found")]
    NoCertificate,
}

/// Trusted root certificates.
#[derive(Debug, Clone)]
pub enum Roots {
    /// The system's certificate store.
    System,
    /// These certificates alone, PEM.
    Pem(Vec<u8>),
}

/// Fetches documents. Cheap to clone.
#[derive(Clone)]
pub struct Fetcher {
    /// `None` for `http://` alone.
    tls: Option<Arc<ClientConfig>>,
    limit: Duration,
    max_bytes: usize,
}

impl Fetcher {
    /// `limit` is the time for a whole fetch, `max_bytes` the size of a document.
    ///
    /// # Errors
    /// [`RootsError`]: there is no usable certificate in `roots`.
    pub fn new(roots: &Roots, limit: Duration, max_bytes: usize) -> Result<Self, RootsError> {
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store(roots)?)
            .with_no_client_auth();
        Ok(Self { tls: Some(Arc::new(config)), limit, max_bytes })
    }

    /// As [`Self::new`], for `http://...` alone.
    pub fn plain(limit: Duration, max_bytes: usize) -> Self {
        Self { tls: None, limit, max_bytes }
    }

    /// As [`Self::new`], with this configuration.
    pub(crate) fn with_tls(tls: Arc<ClientConfig>, limit: Duration, max_bytes: usize) -> Self {
        Self { tls: Some(tls), limit, max_bytes }
    }

    /// Fetches `http://...` or `https://...`.
    ///
    /// # Errors
    /// [`FetchError`]: the address is invalid, the server is unreachable, not trusted or too slow,
    /// or the answer is not a 200 with a document of at most `max_bytes`.
    pub async fn get(&self, address: &str) -> Result<Bytes, FetchError> {
        let fetch = tokio::time::timeout(self.limit, self.fetch(address));
        fetch.await.map_err(|_| FetchError::Timeout)?
    }

    async fn fetch(&self, address: &str) -> Result<Bytes, FetchError> {
        let uri: Uri = address.parse().map_err(FetchError::Url)?;
        let host = uri.host().ok_or(FetchError::NoHost)?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((bare.as_str(), port)).await.map_err(FetchError::Connect)?;
        if secure {
            let name = ServerName::try_from(bare).map_err(FetchError::Host)?;
            let config = self.tls.clone().ok_or(FetchError::NoTls)?;
            let connector = TlsConnector::from(config);
            let stream = connector.connect(name, tcp).await.map_err(FetchError::Handshake)?;
            self.exchange(stream, &uri).await
        } else {
            self.exchange(tcp, &uri).await
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        uri: &Uri,
    ) -> Result<Bytes, FetchError> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map(|authority| {
            authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host)
        });
        let request = Request::get(path)
            .header(header::HOST, host.unwrap_or_default())
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(Body::empty())?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(FetchError::Send)?;
            if answer.status() != StatusCode::OK {
                return Err(FetchError::Status(answer.status()));
            }
            let body = axum::body::to_bytes(Body::new(answer.into_body()), self.max_bytes).await;
            body.map_err(FetchError::Body)
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            // The connection ends with `Connection: close`, perhaps before the answer is read.
            ended = connection => ended.map_err(FetchError::Broken)?,
        }
        answer.await
    }
}

pub(crate) fn store(roots: &Roots) -> Result<RootCertStore, RootsError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(RootsError::EmptyStore);
            }
        }
        Roots::Pem(text) => {
            for cert in CertificateDer::pem_slice_iter(text) {
                store.add(cert.map_err(RootsError::Pem)?).map_err(RootsError::Certificate)?;
            }
            if store.is_empty() {
                return Err(RootsError::NoCertificate);
            }
        }
    }
    Ok(store)
}
