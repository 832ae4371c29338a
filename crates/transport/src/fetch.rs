//! Fetching a small document over HTTP(S), with the usual checks of the web's PKI: for key sets of
//! identity providers, which are no SPIFFE peers. No proxy is asked and no redirect followed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls;

/// Whom to trust.
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
    tls: Arc<ClientConfig>,
    limit: Duration,
    max_bytes: usize,
}

impl Fetcher {
    /// `limit` is for a whole fetch, `max_bytes` for a document.
    ///
    /// # Errors
    /// There is no usable certificate in `roots`.
    pub fn new(roots: &Roots, limit: Duration, max_bytes: usize) -> anyhow::Result<Self> {
        let config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store(roots)?)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(config), limit, max_bytes })
    }

    /// Fetches `http://...` or `https://...`.
    ///
    /// # Errors
    /// The address is none, the server is not there, not trusted or not in time, or answers
    /// anything but 200 with a document of bearable size.
    pub async fn get(&self, address: &str) -> anyhow::Result<Bytes> {
        let fetch = tokio::time::timeout(self.limit, self.fetch(address));
        fetch.await.context("no answer in time")?
    }

    async fn fetch(&self, address: &str) -> anyhow::Result<Bytes> {
        let uri: Uri = address.parse().context("not a URL")?;
        let host = uri.host().context("the URL names no host")?;
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tcp = TcpStream::connect((bare.as_str(), port)).await.context("connect")?;
        if secure {
            let name = ServerName::try_from(bare).context("the host is no name for TLS")?;
            let connector = TlsConnector::from(self.tls.clone());
            let stream = connector.connect(name, tcp).await.context("TLS handshake")?;
            self.exchange(stream, &uri).await
        } else {
            self.exchange(tcp, &uri).await
        }
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        uri: &Uri,
    ) -> anyhow::Result<Bytes> {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let host = uri.authority().map(|authority| {
            authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, host)| host)
        });
        let request = Request::get(path)
            .header(header::HOST, host.unwrap_or_default())
            .header(header::ACCEPT, "application/json")
            .header(header::CONNECTION, "close")
            .body(Body::empty())?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let answer = async {
            let answer = sender.send_request(request).await.context("send the request")?;
            ensure!(answer.status() == StatusCode::OK, "the server answered {}", answer.status());
            let body = axum::body::to_bytes(Body::new(answer.into_body()), self.max_bytes).await;
            body.context("read the document")
        };
        tokio::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            // The connection ends with `Connection: close`, perhaps before the answer is read.
            ended = connection => ended.context("the connection broke")?,
        }
        answer.await
    }
}

fn store(roots: &Roots) -> anyhow::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            ensure!(!store.is_empty(), "the system's certificate store is empty or unreadable");
        }
        Roots::Pem(text) => {
            for cert in CertificateDer::pem_slice_iter(text) {
                store.add(cert.context("read the CA certificate")?).context("CA certificate")?;
            }
            ensure!(!store.is_empty(), "no CA certificate found");
        }
    }
    Ok(store)
}
