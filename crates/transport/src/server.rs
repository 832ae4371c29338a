//! Servers for gRPC and HTTPS: `runtime`'s accept loop with the peers' certificates.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use identity::SpiffeId;
use runtime::server::{Accepted, Connection, Handshake, Keepalive, Limits};
use runtime::{BoxError, Scope};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::peer::Peer;
use crate::tls;

/// A server on one listener: TLS or plain text, HTTP/2 or HTTP/1.1, gRPC or anything axum routes.
///
/// For gRPC: `tonic::service::Routes::new(service).into_axum_router()`.
pub struct Server {
    name: &'static str,
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<rustls::ServerConfig>>,
    keepalive: Option<Keepalive>,
    limits: Limits,
    lame_duck: Duration,
    drain: Option<Duration>,
}

impl Server {
    /// A plain-text server with the default limits; `name` is for logs and metrics.
    pub fn new(name: &'static str, listener: TcpListener, router: Router) -> Self {
        Self {
            name,
            listener,
            router,
            tls: None,
            keepalive: None,
            limits: Limits::default(),
            lame_duck: Duration::ZERO,
            drain: None,
        }
    }

    /// Serves TLS; see [`tls::server`].
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Pings idle HTTP/2 peers; off by default.
    #[must_use]
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = Some(keepalive);
        self
    }

    /// How long connections are accepted after the stop, while load balancers remove the endpoint;
    /// zero by default.
    #[must_use]
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.lame_duck = time;
        self
    }

    /// How long open requests may take to end after accepting stopped; 5 seconds by default.
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = Some(time);
        self
    }

    /// Serves until the scope is cancelled, then drains. Requests carry a [`Peer`] extension.
    ///
    /// # Errors
    /// None today; the type is what `Scope::spawn` takes.
    pub async fn run(self, scope: Scope) -> Result<(), BoxError> {
        self.run_until(scope.token().clone(), scope).await
    }

    /// As [`Self::run`], but until `token` is cancelled: for a service that hands over work between
    /// the stop of the process and the end of its port.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_until(self, token: CancellationToken, scope: Scope) -> Result<(), BoxError> {
        match self.tls.clone() {
            Some(config) => self.serve(Tls(TlsAcceptor::from(config)), token, &scope).await,
            None => self.serve(PlainText, token, &scope).await,
        }
        Ok(())
    }

    async fn serve(self, handshake: impl Handshake, token: CancellationToken, scope: &Scope) {
        let mut server =
            runtime::server::Server::new(self.name, self.listener, self.router, handshake)
                .limits(self.limits)
                .keepalive(self.keepalive)
                .lame_duck(self.lame_duck);
        if let Some(drain) = self.drain {
            server = server.drain(drain);
        }
        server.run_until(token, scope).await;
    }
}

struct Tls(TlsAcceptor);

impl Handshake for Tls {
    type Io = TlsStream<TcpStream>;
    type Identity = SpiffeId;
    type Peer = Peer;

    async fn accept(&self, stream: TcpStream) -> io::Result<Accepted<Self>> {
        let io = self.0.accept(stream).await?;
        let session = io.get_ref().1;
        let authenticated = session.peer_certificates().is_some();
        let identity = tls::peer_id(session);
        Ok(Accepted { io, identity, authenticated })
    }

    fn peer(&self, id: Option<SpiffeId>, connection: Connection) -> Peer {
        Peer::new(id, connection)
    }
}

struct PlainText;

impl Handshake for PlainText {
    type Io = TcpStream;
    type Identity = SpiffeId;
    type Peer = Peer;

    async fn accept(&self, io: TcpStream) -> io::Result<Accepted<Self>> {
        Ok(Accepted { io, identity: None, authenticated: false })
    }

    fn peer(&self, id: Option<SpiffeId>, connection: Connection) -> Peer {
        Peer::new(id, connection)
    }
}
