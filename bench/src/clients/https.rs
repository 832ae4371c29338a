//! An HTTPS client with one persistent connection, as kube-apiserver has to a webhook and as a
//! client has to kube-apiserver.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use blackbox::admission;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// The address of a server and how to verify it.
#[derive(Clone, Debug)]
pub struct Server {
    address: String,
    name: String,
    tls: Arc<ClientConfig>,
}

/// A connection; closed when it is dropped.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
    driver: JoinHandle<()>,
}

impl Server {
    /// The server at `address` (`host:port`), whose certificate has that name and comes from these
    /// roots (PEM).
    ///
    /// # Errors
    /// When the roots are no certificates.
    pub fn new(address: &str, name: &str, roots: &str) -> Result<Self> {
        let tls = admission::tls(roots)?;
        Ok(Self { address: address.to_owned(), name: name.to_owned(), tls })
    }

    /// Connects.
    ///
    /// # Errors
    /// When nothing listens, or the certificate is not the expected one.
    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(&self.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(self.name.clone())?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = async move { drop(connection.await) };
        #[expect(clippy::disallowed_methods, reason = "a client of the benchmark has no scope")]
        let driver = tokio::spawn(driver);
        Ok(Connection { sender, host: self.name.clone(), driver })
    }
}

impl Connection {
    /// One request with a JSON body and its answer: status and body.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Bytes,
    ) -> Result<(u16, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        self.sender.ready().await?;
        let answer = self.sender.send_request(request.body(Full::new(body))?).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
