//! Placement: tells every sidecar of a namespace which hosts serve which actor types. The ring of
//! an actor type is computed by the sidecars themselves; no actor call goes through here.
//!
//! ```text
//!  sidecar ══stream══► server ──admit──► Stream task ──Event──► owner ──► Membership::step (pure)
//!     ▲                                                          │              one group per
//!     ╚═══════ Frames ◄── Outbox (latest wins) ◄── Mailbox ◄─────┘ Effects      namespace
//! ```
//! Start reading at [`membership`], then `group.rs` beside it: all decisions are there. The owner
//! carries them out and waits for nobody; [`outbox`] keeps what a slow peer has not read yet small
//! and in order; [`wire`] encodes a table once for all streams.
//!
//! Deliberately absent: anything on disk. Membership is the set of open streams, and sidecars
//! register again with whoever serves. Election between replicas is not built yet.

pub mod admit;
pub mod config;
pub mod error;
mod group;
mod mailbox;
pub mod membership;
pub mod message;
pub mod metrics;
pub mod outbox;
mod owner;
mod peers;
pub mod ring;
mod server;
mod state;
pub mod table;
pub mod wire;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use runtime::Scope;
use transport::tls::{Alpn, ClientAuth};
use transport::{Server, svid};

pub use config::{Config, Flags};

/// Open streams get their end at once; those that do not read it are cut after this time, so that
/// the process is gone within 5 seconds of a signal.
const DRAIN: Duration = Duration::from_secs(3);

/// Starts placement in the scope and returns when it serves.
///
/// # Errors
/// A port is taken, an address does not resolve, or the identity cannot be set up.
pub async fn run(config: Config, scope: Scope) -> anyhow::Result<()> {
    let serving = scope.ready("placement-grpc-server");
    let leadership = scope.ready("placement-raft-leadership");
    tracing::info!(target: "dapr.placement",
        "Starting Dapr Placement Service -- version {} -- commit unknown", runtime::VERSION);
    for flag in &config.deprecated {
        tracing::warn!(target: "dapr.placement", "Flag {flag} has been deprecated and has no effect");
    }
    let metrics = metrics::Metrics::register(scope.metrics()).context("register metrics")?;
    let owner = owner::Owner::start(config.rules, metrics.clone(), &scope);
    if config.metadata_enabled {
        scope.serve_with_health(state::router(owner.clone()));
    }
    let tls = config.tls.is_some();
    let server_tls = match config.tls {
        Some(options) => {
            if options.mode == svid::Mode::Kubernetes {
                runtime::refuse_root()?;
            }
            let svid = svid::start(options, &scope).await.context("get an identity")?;
            Some(transport::tls::server(&svid, ClientAuth::Spiffe, Alpn::Grpc)?)
        }
        None => None,
    };

    tracing::info!(target: "dapr.placement.server", "Placement service is starting...");
    let (host, port) = host_and_port(&config.election_address)?;
    let election = runtime::listen(host, port).await.context("open the election port")?;
    scope.spawn("placement-peers", peers::answer(election, scope.clone()));
    leadership.set_ready();

    let listener = runtime::listen(&config.listen_address, config.port).await?;
    let address = listener.local_addr().context("read the listening address")?;
    let service = server::Service {
        owner,
        rules: config.rules,
        replication_factor: config.replication_factor,
        tls,
        scope: scope.clone(),
        streams: Arc::new(AtomicU64::new(0)),
    };
    let mut server = Server::new("placement", listener, service.router())
        .keepalive(config.keepalive)
        .drain(DRAIN);
    if let Some(tls) = server_tls {
        server = server.tls(tls);
    }
    metrics.leads(true);
    tracing::info!(target: "dapr.placement.server", "Node id={} has acquired leadership", config.id);
    tracing::info!(target: "dapr.placement.server", "Running Placement gRPC server on {address}");
    let stopped = scope.clone();
    scope.spawn("placement-grpc-server", async move {
        let outcome = server.run(stopped).await;
        metrics.leads(false);
        tracing::info!(target: "dapr.placement.server", "Placement GRPC server stopped");
        outcome
    });
    tracing::info!(target: "dapr.placement.server", "Placement service started on port {}", address.port());
    serving.set_ready();
    Ok(())
}

fn host_and_port(address: &str) -> anyhow::Result<(&str, u16)> {
    let (host, port) = address
        .rsplit_once(':')
        .with_context(|| format!("election address {address:?} is not host:port"))?;
    let port = port.parse().with_context(|| format!("port of election address {address:?}"))?;
    Ok((host, port))
}
