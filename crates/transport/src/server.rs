//! One accept loop for gRPC and HTTPS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use runtime::Scope;

use crate::{Peer, tls};

/// Open connections of one server. Above it new ones wait in the kernel's queue. Each sidecar holds
/// one, and one service is built for ten thousand sidecars.
const MAX_CONNECTIONS: usize = 16_384;
/// Streams that one peer may have open on a connection: sidecars hold a handful. A service whose
/// peers need more says so.
const MAX_STREAMS: u32 = 256;
/// Header bytes of one request; the peers send less than one KiB.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Limit of a TLS handshake, and of reading the headers of an HTTP/1.1 request.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection on which nothing was asked for this long after it was made is closed, where the
/// service says that its peers leave such connections behind.
const UNUSED: Duration = Duration::from_mins(1);
/// Wait after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long open requests may take to end after a stop.
const DRAIN: Duration = Duration::from_secs(5);

/// HTTP/2 pings that find dead peers.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Idle time before a ping.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// A server on one listener: TLS or plain text, HTTP/2 or HTTP/1.1, gRPC or anything axum routes.
///
/// For gRPC: `tonic::service::Routes::new(service).into_axum_router()`.
pub struct Server {
    name: &'static str,
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<rustls::ServerConfig>>,
    keepalive: Option<Keepalive>,
    max_streams: u32,
    closes_unused: bool,
    lame_duck: Duration,
    drain: Duration,
}

impl Server {
    /// A plain-text server; `name` is for logs.
    pub fn new(name: &'static str, listener: TcpListener, router: Router) -> Self {
        Self {
            name,
            listener,
            router,
            tls: None,
            keepalive: None,
            max_streams: MAX_STREAMS,
            closes_unused: false,
            lame_duck: Duration::ZERO,
            drain: DRAIN,
        }
    }

    /// Serves TLS; see [`tls::server`].
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Pings idle HTTP/2 peers.
    #[must_use]
    pub fn keepalive(mut self, keepalive: Keepalive) -> Self {
        self.keepalive = Some(keepalive);
        self
    }

    /// How many streams one peer may have open on a connection; 256 by default.
    #[must_use]
    pub fn max_streams(mut self, limit: u32) -> Self {
        self.max_streams = limit;
        self
    }

    /// Closes connections on which nothing was asked for a minute after they were made.
    #[must_use]
    pub fn close_unused(mut self) -> Self {
        self.closes_unused = true;
        self
    }

    /// Goes on accepting for this long after the stop, while load balancers learn of it.
    #[must_use]
    pub fn lame_duck(mut self, time: Duration) -> Self {
        self.lame_duck = time;
        self
    }

    /// How long open requests may take to end after accepting stopped; 5 seconds by default.
    #[must_use]
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time;
        self
    }

    /// Serves until the scope is cancelled, then drains. Requests carry a [`Peer`] extension.
    ///
    /// # Errors
    /// None today; the type is what `Scope::spawn` takes.
    pub async fn run(self, scope: Scope) -> anyhow::Result<()> {
        self.run_until(scope.token().clone()).await
    }

    /// As [`Self::run`], for a service that has something to do between the stop of the process
    /// and the end of its port.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_until(self, token: CancellationToken) -> anyhow::Result<()> {
        let connection = Arc::new(Connection {
            name: self.name,
            acceptor: self.tls.map(TlsAcceptor::from),
            http: http(self.keepalive, self.max_streams),
            router: self.router,
            closes_unused: self.closes_unused,
        });
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let last = CancellationToken::new();
        let mut open = JoinSet::new();
        let lame_duck = self.lame_duck;
        let stop = async move {
            token.cancelled().await;
            tokio::time::sleep(lame_duck).await;
        };
        tokio::pin!(stop);
        loop {
            let accept = async {
                let slot = slots.clone().acquire_owned().await.ok();
                (slot, self.listener.accept().await)
            };
            tokio::select! {
                () = &mut stop => break,
                (slot, accepted) = accept => match accepted {
                    Ok((stream, addr)) => {
                        let (connection, last) = (connection.clone(), last.child_token());
                        open.spawn(async move {
                            connection.serve(stream, addr, last).await;
                            drop(slot);
                        });
                    }
                    Err(e) => {
                        tracing::warn!(server = self.name, error = &e as &dyn std::error::Error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = open.join_next() => {}
            }
        }
        drop(self.listener);
        drop(connection);
        last.cancel();
        drain(open, self.drain).await;
        Ok(())
    }
}

/// Every connection was asked to finish; those that do not in time are dropped.
async fn drain(mut open: JoinSet<()>, limit: Duration) {
    let finished = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(limit, finished).await.is_err() {
        tracing::debug!("connections were still open after the drain time and are dropped");
    }
    open.shutdown().await;
}

fn http(keepalive: Option<Keepalive>, max_streams: u32) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    let mut http2 = http.http2();
    http2
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .max_header_list_size(MAX_HEADER_BYTES);
    if let Some(keepalive) = keepalive {
        http2.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
    }
    http
}

struct Connection {
    name: &'static str,
    acceptor: Option<TlsAcceptor>,
    http: auto::Builder<TokioExecutor>,
    router: Router,
    closes_unused: bool,
}

impl Connection {
    async fn serve(&self, stream: TcpStream, addr: SocketAddr, last: CancellationToken) {
        // Fails only on a socket that is gone already.
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = &self.acceptor else {
            return self.http(stream, Peer::new(None, addr, last)).await;
        };
        match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let id = tls::peer_id(stream.get_ref().1);
                self.http(stream, Peer::new(id, addr, last)).await;
            }
            Ok(Err(e)) => {
                tracing::debug!(server = self.name, %addr, error = &e as &dyn std::error::Error, "TLS handshake failed");
            }
            Err(_) => tracing::debug!(server = self.name, %addr, "TLS handshake timed out"),
        }
    }

    async fn http<IO>(&self, io: IO, peer: Peer)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (router, addr) = (self.router.clone(), peer.addr);
        let (cut, last) = (peer.connection.clone(), peer.last.clone());
        let used = CancellationToken::new();
        let asked = used.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            asked.cancel();
            request.extensions_mut().insert(peer.clone());
            router.clone().oneshot(request.map(Body::new))
        });
        let connection = self.http.serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let retire = async {
            let unused = async {
                let unused = tokio::time::timeout(UNUSED, used.cancelled()).await.is_err();
                if !(self.closes_unused && unused) {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! { () = last.cancelled() => {}, () = unused => {} }
        };
        let mut retire = std::pin::pin!(retire);
        let mut retired = false;
        let outcome = loop {
            tokio::select! {
                outcome = connection.as_mut() => break outcome,
                () = retire.as_mut(), if !retired => {
                    retired = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = cut.cancelled() => {
                    tracing::debug!(server = self.name, %addr, "connection was cut");
                    return;
                }
            }
        };
        if let Err(e) = outcome {
            tracing::debug!(server = self.name, %addr, error = e.to_string(), "connection ended");
        }
    }
}
