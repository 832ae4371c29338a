//! Placement sends the sidecars of a namespace the table of hosts and their actor types. Sidecars
//! compute the ring of an actor type themselves (`actor-ring`); no actor call passes through this service.
//!
//! ```text
//!  sidecar ══stream══► server ──admit──► Stream task ──Event──► handle ──► Membership::step (pure)
//!     ▲                                                           │             one group per
//!     ╚═══════ Frames ◄── Outbox (latest wins) ◄── Mailbox ◄──────┘ Effects     namespace
//! ```
//! Start reading at [`rounds::membership`], then `rounds/group.rs`: all decisions are there.
//! `streams::handle` executes them and never waits for a stream; [`rounds::outbox`] bounds what a slow
//! peer has not read; `streams::wire` encodes a table once for all streams.
//!
//! Deliberately absent: anything on disk. Membership is the set of open streams, and sidecars
//! register again with the replica that leads, which `election` decides.

mod config;
mod election;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod metrics;
pub mod rounds;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use runtime::{BoxError, ReadyGuard, Scope};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use transport::anchors::AnchorSource;
use transport::tls::{Alpn, ClientAuth};
use transport::{Limits, Server, Svid, svid};

use election::Role;
use streams::handle::MembershipHandle;
use streams::{server, state};

pub use config::{Config, ConfigError, Flags, LeaderElection};
pub use election::{Cluster, ElectionError, Elector};
pub use error::RunError;

/// Open streams get their end at once; those whose peer does not read it are cut after this time,
/// so that the process ends within 5 seconds of a signal.
const DRAIN: Duration = Duration::from_secs(3);

/// Streams on one connection with mTLS. Each sidecar has one, on a connection of its own.
const STREAMS: u32 = 16;

/// Streams on one connection without mTLS. A proxy of a service mesh may join the streams of as many
/// sidecars as this service is built for.
#[expect(clippy::cast_possible_truncation, reason = "tens of thousands")]
const STREAMS_PLAIN_TEXT: u32 = Limits::CONNECTIONS_OF_ALL_SIDECARS as u32;

/// Gets an identity, if mTLS is on, and serves; returns when the port is open.
///
/// # Errors
/// [`RunError`]: a port is taken, an address does not resolve, or the identity cannot be set up.
pub async fn run(config: Config, scope: Scope) -> Result<(), RunError> {
    let targets = Targets::register(&scope);
    tracing::info!(target: "dapr.placement",
        "Starting Dapr Placement Service -- version {} -- commit unknown", runtime::VERSION);
    for flag in &config.deprecated {
        tracing::warn!(target: "dapr.placement", "Flag {flag} has been deprecated and has no effect");
    }
    let svid = match config.tls.clone() {
        Some(mut options) => {
            if options.mode == svid::Mode::Kubernetes {
                runtime::refuse_root()?;
                read_anchors_early(&mut options).await;
            }
            Some(svid::start(options, &scope).await.map_err(RunError::Svid)?)
        }
        None => None,
    };
    start(&config, svid.as_ref(), targets, &scope).await?;
    Ok(())
}

/// Serves with an existing identity, or in plain text; returns the bound address. For tests.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    config: &Config,
    svid: Option<&Svid>,
    scope: &Scope,
) -> Result<SocketAddr, RunError> {
    start(config, svid, Targets::register(scope), scope).await
}

/// Readiness targets. Leadership is none of them: its target only means that the election has
/// started.
struct Targets {
    server: ReadyGuard,
    election: ReadyGuard,
}

impl Targets {
    fn register(scope: &Scope) -> Self {
        Self {
            server: scope.ready("placement-grpc-server"),
            election: scope.ready("placement-raft-leadership"),
        }
    }
}

async fn start(
    config: &Config,
    svid: Option<&Svid>,
    targets: Targets,
    scope: &Scope,
) -> Result<SocketAddr, RunError> {
    tracing::info!(target: "dapr.placement.server", "Placement service is starting...");
    let metrics = metrics::Metrics::register(scope.metrics()).map_err(RunError::Metrics)?;
    // The port listens before a leader is known, and until leadership has been handed over.
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    let address = listener.local_addr().map_err(RunError::Address)?;
    let ending = CancellationToken::new();
    let roles =
        election::start(&config.cluster, svid, targets.election, ending.clone(), scope).await?;
    scope.spawn(
        "placement-roles",
        log_roles(config.cluster.id.clone(), roles.clone(), ending.clone()),
    );
    let membership =
        MembershipHandle::start(config.rules, metrics, roles.clone(), ending.clone(), scope);
    if config.metadata_enabled {
        scope.serve_with_health(state::router(membership.clone()));
    }
    let service = server::Service {
        membership,
        rules: config.rules,
        replication_factor: config.replication_factor,
        tls: svid.is_some(),
        scope: scope.clone(),
        ending: ending.clone(),
        id: config.cluster.id.as_str().into(),
        roles,
        streams: Arc::new(AtomicU64::new(0)),
    };
    let limits = Limits {
        connections: Limits::CONNECTIONS_OF_ALL_SIDECARS,
        streams: STREAMS,
        streams_unauthenticated: STREAMS_PLAIN_TEXT,
        streaming_paths: &[server::METHOD],
        ..Limits::default()
    };
    let mut server = Server::new("placement", listener, service.router())
        .keepalive(config.keepalive)
        .limits(limits)
        .drain(DRAIN);
    if let Some(svid) = svid {
        server = server.tls(transport::tls::server(svid, ClientAuth::Spiffe, Alpn::Grpc)?);
    }
    tracing::info!(target: "dapr.placement.server", "Running Placement gRPC server on {address}");
    let server_scope = scope.clone();
    scope.spawn("placement-grpc-server", async move {
        let outcome = server.run_until(ending, server_scope).await;
        tracing::info!(target: "dapr.placement.server", "Placement GRPC server stopped");
        outcome
    });
    tracing::info!(target: "dapr.placement.server", "Placement service started on port {}", address.port());
    targets.server.set_ready();
    Ok(address)
}

/// Logs changes of this replica's role.
async fn log_roles(
    id: String,
    mut roles: watch::Receiver<Role>,
    ending: CancellationToken,
) -> Result<(), BoxError> {
    let watch = async {
        let mut led = false;
        loop {
            let role = *roles.borrow_and_update();
            match role {
                Role::Leader { .. } => {
                    tracing::info!(target: "dapr.placement.server", "Node id={id} has acquired leadership");
                }
                Role::Unknown | Role::Follower if led => {
                    tracing::warn!(target: "dapr.placement.server", "Node id={id} has lost leadership");
                }
                Role::Unknown | Role::Follower => {}
            }
            led = matches!(role, Role::Leader { .. });
            if roles.changed().await.is_err() {
                return; // a single replica leads as long as it runs
            }
        }
    };
    ending.run_until_cancelled(watch).await;
    ending.cancelled().await;
    Ok(())
}

/// On a fresh install the file with the trust anchors may be a minute late; the API server has them
/// as soon as sentry has written them. Without credentials this waits for the file.
async fn read_anchors_early(options: &mut svid::Options) {
    let AnchorSource::File { fallback, .. } = &mut options.anchors else { return };
    match kubernetes::client(None, kubernetes::Precedence::InCluster).await {
        Ok(client) => {
            *fallback = Some(kubernetes::trust_bundle(client, &options.control_plane_namespace));
        }
        Err(e) => {
            let e = runtime::chain(&e);
            tracing::debug!(target: "dapr.placement", "no Kubernetes client: {e}");
        }
    }
}
