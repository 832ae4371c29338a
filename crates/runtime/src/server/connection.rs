//! One connection, from the accept to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use axum::Router;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Next};
use super::bodies::Bodies;
use super::limits::Limits;
use super::refusal_limiter::RefusalLimiter;
use super::request::Rules;
use super::slots::{Full, Occupant, Slot, Slots};
use super::stall::WriteStall;
use super::{Accepted, Handshake, request};
use crate::metrics::server::{Limit, Meter, OpenConnection};

/// Number of headers of an HTTP/1.1 request; API servers and scrapers send about ten.
const MAX_HEADERS: usize = 64;

/// HTTP/2 pings that find dead peers.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Idle time before a ping.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
}

/// Control over one connection. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Address of the peer.
    pub addr: SocketAddr,
    cut: CancellationToken,
    last: CancellationToken,
}

impl Connection {
    /// Takes no new request on this connection (GOAWAY) and closes it once the open ones are
    /// answered: for peers that dial again for each request and leave their connections open.
    pub fn retire(&self) {
        self.last.cancel();
    }

    /// Cuts the connection at once, with every request on it: for a peer that does not read.
    pub fn hang_up(&self) {
        self.cut.cancel();
    }
}

/// Runs the tasks of HTTP/2 streams and counts those that panic.
#[derive(Clone)]
struct Executor {
    meter: Meter,
    tokio: TokioExecutor,
}

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, work: F) {
        let watch = self.meter.watch_panic();
        self.tokio.execute(async move {
            let outcome = work.await;
            drop(watch);
            outcome
        });
    }
}

/// What all connections of one listener share.
pub(super) struct Shared<H: Handshake> {
    pub(super) name: &'static str,
    pub(super) handshake: H,
    pub(super) router: Router,
    pub(super) limits: Limits,
    pub(super) meter: Meter,
    pub(super) identities: Slots<H::Identity>,
    pub(super) bodies: Bodies,
    pub(super) refusals: Arc<RefusalLimiter>,
    pub(super) keepalive: Option<Keepalive>,
}

/// A connection that was accepted and holds its slots.
pub(super) struct New<A: Ord + Clone> {
    pub(super) stream: TcpStream,
    pub(super) addr: SocketAddr,
    pub(super) accepted: Instant,
    pub(super) occupant: Arc<Occupant>,
    pub(super) slot: Slot<A>,
    pub(super) handshake_slot: Slot<A>,
    pub(super) counted: OpenConnection,
    /// Closes the connection gracefully.
    pub(super) last: CancellationToken,
}

impl<H: Handshake> Shared<H> {
    /// Serves a connection until it ends, hits a limit or is cut.
    pub(super) async fn serve<A: Ord + Clone>(&self, new: New<A>) {
        let _watch = self.meter.watch_panic();
        let New { stream, addr, accepted, occupant, slot, handshake_slot, counted, last } = new;
        let cut = occupant.cut.clone();
        let work = async {
            // Fails only on a closed socket.
            let _ = stream.set_nodelay(true);
            let Some(peer) = self.shake_hands(stream, addr, accepted).await else { return };
            drop(handshake_slot);
            let Ok(identity_slot) = self.identify(&peer, &occupant, addr) else { return };
            let by_address = &slot.requests;
            let requests = identity_slot.as_ref().map_or(by_address, |slot| &slot.requests).clone();
            let connection = Connection { addr, cut: cut.clone(), last };
            self.http(peer, connection, accepted, occupant, requests).await;
        };
        if cut.run_until_cancelled(work).await.is_none() {
            tracing::debug!(server = self.name, %addr, "connection was cut");
        }
        drop((slot, counted));
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
        accepted: Instant,
    ) -> Option<Accepted<H>> {
        let deadline = accepted + self.limits.handshake;
        match tokio::time::timeout_at(deadline, self.handshake.accept(stream)).await {
            Ok(Ok(peer)) => Some(peer),
            Ok(Err(e)) => {
                tracing::debug!(server = self.name, %addr, error = &e as &dyn std::error::Error, "TLS handshake failed");
                None
            }
            Err(_) => {
                self.meter.hit(Limit::Handshake);
                tracing::debug!(server = self.name, %addr, "TLS handshake timed out");
                None
            }
        }
    }

    /// Counts the connection for its identity, if it has one.
    fn identify(
        &self,
        peer: &Accepted<H>,
        occupant: &Arc<Occupant>,
        addr: SocketAddr,
    ) -> Result<Option<Slot<H::Identity>>, Full> {
        let Some(identity) = peer.identity.clone() else { return Ok(None) };
        let slot = self.identities.take(identity.clone(), occupant.clone());
        if slot.is_err() {
            self.meter.hit(Limit::ConnectionsPerIdentity);
            tracing::debug!(server = self.name, %addr, %identity, "too many connections of this identity");
        }
        slot.map(Some)
    }

    async fn http(
        &self,
        peer: Accepted<H>,
        handle: Connection,
        accepted: Instant,
        occupant: Arc<Occupant>,
        requests: Arc<AtomicUsize>,
    ) {
        let Accepted { io, identity, authenticated } = peer;
        let (addr, last) = (handle.addr, handle.last.clone());
        let activity = Activity::new(self.limits, occupant, accepted);
        let extension = self.handshake.peer(identity, handle);
        let rules = Rules {
            address: addr.ip().to_canonical(),
            activity: activity.clone(),
            requests,
            bodies: self.bodies.clone(),
            refusals: self.refusals.clone(),
            limits: self.limits,
            streams: self.streams(authenticated) as usize,
            meter: self.meter.clone(),
        };
        let router = self.router.clone();
        let service = service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(extension.clone());
            request::serve(router.clone(), request, rules.clone())
        });
        let io = WriteStall::new(io, self.limits.write_stall, self.meter.clone());
        let builder = self.builder(authenticated);
        let connection = builder.serve_connection(TokioIo::new(io), service);
        let mut connection = std::pin::pin!(connection);
        let mut closing: Option<Instant> = None;
        let outcome = loop {
            let next = activity.next(closing);
            let due = async {
                match next {
                    Some((at, _)) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                outcome = connection.as_mut() => break outcome,
                () = activity.changed.notified() => continue,
                () = last.cancelled(), if closing.is_none() => {}
                () = due => match activity.next(closing).filter(|(at, _)| *at <= Instant::now()) {
                    Some((_, Next::Close(limit))) => self.meter.hit(limit),
                    Some((_, Next::Cut(limit))) => {
                        if let Some(limit) = limit {
                            self.meter.hit(limit);
                        }
                        tracing::debug!(server = self.name, %addr, "connection was cut at its deadline");
                        return;
                    }
                    None => continue, // requests began and ended meanwhile
                }
            }
            closing = Some(Instant::now());
            connection.as_mut().graceful_shutdown();
        };
        if let Err(e) = outcome {
            if e.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
                self.meter.hit(Limit::HeaderBytes);
            }
            tracing::debug!(server = self.name, %addr, error = e.to_string(), "connection ended");
        }
    }

    /// Requests that a peer may have open on one HTTP/2 connection.
    fn streams(&self, authenticated: bool) -> u32 {
        if authenticated { self.limits.streams } else { self.limits.streams_unauthenticated }
    }

    fn builder(&self, authenticated: bool) -> auto::Builder<Executor> {
        let limits = &self.limits;
        let executor = Executor { meter: self.meter.clone(), tokio: TokioExecutor::new() };
        let mut http = auto::Builder::new(executor);
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.handshake)
            .max_headers(MAX_HEADERS)
            .max_buf_size(limits.header_bytes as usize);
        let mut http2 = http.http2();
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(self.streams(authenticated))
            .initial_stream_window_size(limits.stream_window_bytes)
            .initial_connection_window_size(limits.connection_window_bytes)
            .max_send_buf_size(limits.send_buffer_bytes)
            .max_header_list_size(limits.header_bytes);
        if let Some(keepalive) = self.keepalive {
            http2.keep_alive_interval(keepalive.interval).keep_alive_timeout(keepalive.timeout);
        }
        http
    }
}
