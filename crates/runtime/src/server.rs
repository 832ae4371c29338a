//! The accept loop of every port: TLS or plain text, HTTP/2 or HTTP/1.1, with [`Limits`].
//!
//! ```text
//!  accept ──► slots (per address, handshakes) ──► Handshake ──► slots (per identity) ──► requests
//!                                   │ activity: deadlines of first request, idleness, request
//! ```
//! Start reading at [`Server::run_until`], then `connection.rs`. This is the one place that
//! enforces the [limits](Limits) of connections and requests.

mod activity;
mod bodies;
mod connection;
mod limits;
mod refusal_limiter;
mod request;
mod slots;
mod stall;
mod status;

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::descriptors;
use crate::metrics::server::{Limit, Meter};
use crate::scope::Scope;

pub use connection::{Connection, Keepalive};
pub use limits::{GRPC_HEADER_BYTES, Limits};
pub use request::Outgoing;

use bodies::Bodies;
use connection::{New, Shared};
use refusal_limiter::RefusalLimiter;
use slots::{Full, Occupant, Slots};

/// Wait after a failed accept (out of descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long open requests may take to end after a stop, by default.
const DRAIN: Duration = Duration::from_secs(5);

/// How a listener turns a TCP connection into one with a known peer.
pub trait Handshake: Send + Sync + 'static {
    /// The stream after the handshake.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Identity that a certificate proves; connections are limited by it.
    type Identity: Ord + Clone + Display + Send + Sync + 'static;
    /// The extension of each request that describes the peer.
    type Peer: Clone + Send + Sync + 'static;

    /// Does the handshake. The caller limits its time.
    fn accept(&self, stream: TcpStream) -> impl Future<Output = io::Result<Accepted<Self>>> + Send
    where
        Self: Sized;

    /// The extension for the requests of a connection.
    fn peer(&self, identity: Option<Self::Identity>, connection: Connection) -> Self::Peer;
}

/// The result of a handshake.
#[derive(Debug)]
pub struct Accepted<H: Handshake> {
    /// The stream after the handshake.
    pub io: H::Io,
    /// The proven identity; `None` for a peer without one.
    pub identity: Option<H::Identity>,
    /// The peer has presented a certificate that this server accepts.
    pub authenticated: bool,
}

/// A server on one listener: gRPC or anything axum routes.
pub struct Server<H> {
    name: &'static str,
    listener: TcpListener,
    router: Router,
    handshake: H,
    limits: Limits,
    keepalive: Option<Keepalive>,
    lame_duck: Duration,
    drain: Duration,
}

impl<H: Handshake> Server<H> {
    /// A server with default limits; `name` is for logs and metrics.
    pub fn new(name: &'static str, listener: TcpListener, router: Router, handshake: H) -> Self {
        Self {
            name,
            listener,
            router,
            handshake,
            limits: Limits::default(),
            keepalive: None,
            lame_duck: Duration::ZERO,
            drain: DRAIN,
        }
    }

    /// Replaces the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Pings idle HTTP/2 peers; off by default.
    #[must_use]
    pub fn keepalive(mut self, keepalive: Option<Keepalive>) -> Self {
        self.keepalive = keepalive;
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
        self.drain = time;
        self
    }

    /// Serves until the token is cancelled, then lets open requests end. Requests carry
    /// [`Handshake::Peer`] as an extension.
    pub async fn run_until(self, token: CancellationToken, scope: &Scope) {
        let limits = self.limits.for_descriptors(descriptors::available());
        let meter = scope.server_metrics().of(self.name);
        let gate = Gate::new(limits, meter.clone());
        let shared = Arc::new(Shared {
            name: self.name,
            handshake: self.handshake,
            router: self.router,
            limits,
            meter: meter.clone(),
            identities: Slots::new(usize::MAX, limits.connections_per_identity),
            bodies: Bodies::new(limits.unfinished_bytes, limits.unfinished_bytes_per_address),
            refusals: Arc::new(RefusalLimiter::new(limits.refusals_per_second)),
            keepalive: self.keepalive,
        });
        let last = CancellationToken::new();
        let mut open = JoinSet::new();
        let lame_duck = self.lame_duck;
        let stop = async move {
            token.cancelled().await;
            tokio::time::sleep(lame_duck).await;
        };
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, addr)) => {
                        let Some(new) = gate.admit(stream, addr, last.child_token()) else { continue };
                        let shared = shared.clone();
                        open.spawn(async move { shared.serve(new).await });
                    }
                    Err(e) => {
                        meter.hit(Limit::Descriptors);
                        tracing::debug!(server = self.name, error = &e as &dyn std::error::Error, "accept failed");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = open.join_next() => {}
            }
        }
        drop(self.listener);
        drop(shared);
        last.cancel();
        drain(open, self.drain).await;
    }
}

/// All connections close after their open requests; those that do not in time are dropped.
async fn drain(mut open: JoinSet<()>, limit: Duration) {
    let finished = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(limit, finished).await.is_err() {
        tracing::debug!("connections were still open after the drain time and are dropped");
    }
    open.shutdown().await;
}

/// Decides which connections are served.
struct Gate {
    connections: Slots<IpAddr>,
    handshakes: Slots<IpAddr>,
    meter: Meter,
}

impl Gate {
    fn new(limits: Limits, meter: Meter) -> Self {
        Self {
            connections: Slots::new(limits.connections, limits.connections_per_address),
            handshakes: Slots::new(limits.handshakes, limits.handshakes_per_address),
            meter,
        }
    }

    /// Takes the slots of a connection; without them it is closed.
    fn admit(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
        last: CancellationToken,
    ) -> Option<New<IpAddr>> {
        let (ip, occupant) = (addr.ip().to_canonical(), Arc::new(Occupant::default()));
        let per_address = [Limit::Connections, Limit::ConnectionsPerAddress];
        let slot = self.counted(self.connections.take(ip, occupant.clone()), per_address)?;
        let per_address = [Limit::Handshakes, Limit::HandshakesPerAddress];
        let handshake_slot =
            self.counted(self.handshakes.take(ip, occupant.clone()), per_address)?;
        let counted = self.meter.connection();
        let accepted = Instant::now();
        Some(New { stream, addr, accepted, occupant, slot, handshake_slot, counted, last })
    }

    fn counted(
        &self,
        slot: Result<slots::Slot<IpAddr>, Full>,
        [total, per_address]: [Limit; 2],
    ) -> Option<slots::Slot<IpAddr>> {
        match &slot {
            Ok(slot) if slot.evicted => self.meter.hit(total),
            Ok(_) => {}
            Err(Full::Total) => self.meter.hit(total),
            Err(Full::Peer) => self.meter.hit(per_address),
        }
        slot.ok()
    }
}

/// Plain text, for ports without authentication.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlainText;

impl Handshake for PlainText {
    type Io = TcpStream;
    type Identity = Unproven;
    type Peer = ();

    async fn accept(&self, io: TcpStream) -> io::Result<Accepted<Self>> {
        Ok(Accepted { io, identity: None, authenticated: false })
    }

    fn peer(&self, _: Option<Unproven>, _: Connection) {}
}

/// No identity; has no values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unproven {}

impl Display for Unproven {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}
