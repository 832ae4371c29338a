//! Wiring: opens the store, starts the dispatcher, serves the ports.

mod client_port;
mod open;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use runtime::{BoxError, ReadyGuard, Scope, environment};
use tokio::sync::{Notify, watch};
use tonic::Status;
use transport::anchors::AnchorSource;
use transport::tls::{Alpn, ClientAuth};
use transport::{Keepalive, Limits, Server, Svid, svid};

use crate::api::{self, Api};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::membership::leadership::Leadership;
use crate::membership::{self, address};
use crate::metrics::Metrics;
use crate::store::State;
use crate::streams::dispatcher::Dispatcher;

use self::open::Opened;

/// Open streams get their end at once; those that do not read it are cut after this time, so that
/// the process is gone within 5 seconds of a signal.
const DRAIN: Duration = Duration::from_secs(3);

/// How dead sidecars are found. Source: Dapr 1.18.
const KEEPALIVE: Keepalive =
    Keepalive { interval: Duration::from_secs(3), timeout: Duration::from_secs(5) };

/// Calls and streams on one connection. A sidecar sends all its calls on one, and a workflow may
/// have hundreds under way.
const STREAMS: u32 = 4_096;

/// From the headers of a call to the end of its answer. Sidecars wait 30 seconds; a list may have
/// hundreds of megabytes.
const CALL: Duration = Duration::from_mins(2);

/// Gets an identity, if mTLS is on, and serves; returns when the port is open.
///
/// # Errors
/// A port is taken, an address does not resolve, or the identity cannot be set up.
pub async fn run(config: Config, scope: Scope) -> anyhow::Result<()> {
    let targets = Targets::register(&scope);
    tracing::info!(target: "dapr.scheduler",
        "Starting Dapr Scheduler Service -- version {} -- commit unknown", runtime::VERSION);
    let mut cluster = None;
    let svid = match config.tls.clone() {
        Some(mut options) => {
            if options.mode == svid::Mode::Kubernetes {
                runtime::refuse_root()?;
                let connected =
                    Cluster::connect(&config, scope.ready("scheduler-controller")).await?;
                read_anchors_early(&mut options, &connected);
                cluster = Some(connected);
            }
            Some(svid::start(options, &scope).await.context("get an identity")?)
        }
        None => None,
    };
    start(&config, svid.as_ref(), cluster, targets, &scope).await?;
    Ok(())
}

/// On a fresh installation the file of the trust anchors may be a minute late; the API server has
/// them as soon as sentry wrote them.
fn read_anchors_early(options: &mut svid::Options, cluster: &Cluster) {
    if let AnchorSource::File { fallback, .. } = &mut options.anchors {
        *fallback = Some(cluster.trust_bundle(&options.control_plane_namespace));
    }
}

/// Serves with an identity that exists already, or in plain text; where. For tests.
///
/// # Errors
/// As [`run`].
pub async fn serve(config: &Config, svid: Option<&Svid>, scope: &Scope) -> anyhow::Result<Bound> {
    start(config, svid, None, Targets::register(scope), scope).await
}

/// Where a scheduler listens.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The scheduler's own API.
    pub api: SocketAddr,
    /// The etcd API.
    pub client: SocketAddr,
}

/// The health targets. Source of the names: Dapr 1.18.
struct Targets {
    server: ReadyGuard,
    store: ReadyGuard,
}

impl Targets {
    fn register(scope: &Scope) -> Self {
        Self { server: scope.ready("scheduler-server"), store: scope.ready("scheduler-etcd-embed") }
    }
}

async fn start(
    config: &Config,
    svid: Option<&Svid>,
    cluster: Option<Cluster>,
    targets: Targets,
    scope: &Scope,
) -> anyhow::Result<Bound> {
    tracing::info!(target: "dapr.scheduler", "Dapr Scheduler is starting...");
    let metrics = Metrics::register(scope.metrics()).context("register metrics")?;
    let opened = open::open(config, &metrics, scope).await?;
    // Not earlier: a process that waits for the directory leaves the ports to the one that has it.
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    let bound = listener.local_addr().context("read the listening address")?;
    let client = client_port::listen(&config.client).await?;
    let client_address = client.address;
    let (api, etcd_api) = match opened {
        Opened::Store(store, feed) => {
            scope.spawn(
                "scheduler-etcd-embed",
                watch_state(store.state(), targets.store, metrics.clone(), scope),
            );
            if let Some(cluster) = cluster {
                let stop = scope.token().clone();
                let clean_up = cluster.delete_jobs_of_deleted_namespaces(store.clone(), stop);
                scope.spawn("scheduler-controller", clean_up);
            }
            let address = own_address(config, bound.port())?;
            let changed = Arc::new(Notify::new());
            let uid = runtime::random::bits();
            let own = Leadership::new(store.clone(), &config.id, &address, uid, changed.clone());
            own.start(scope).await;
            let etcd_api = client_port::api(config, store.clone(), client_address, scope)?;
            let dispatcher =
                Dispatcher::start(store.clone(), feed, changed, metrics.clone(), scope).await?;
            announce(config);
            let api = Api {
                store,
                dispatcher,
                metrics,
                tls: svid.is_some(),
                scope: scope.clone(),
                ending: scope.token().clone(),
                hosts: Arc::new(watch::Sender::new(vec![address])),
                streams: Arc::new(AtomicU64::new(1)),
            };
            targets.server.set_ready();
            (api.router(), etcd_api.router())
        }
        Opened::Refused(sentence) => {
            tracing::error!(target: "dapr.scheduler", "{sentence}");
            (refusing(sentence.clone()), refusing(sentence))
        }
    };
    client.serve(&etcd_api, scope);
    let limits = Limits {
        body_bytes: api::MAX_MESSAGE_BYTES,
        streams: STREAMS,
        streams_unauthenticated: STREAMS,
        request: CALL,
        streaming_paths: &api::STREAMING,
        ..Limits::default()
    };
    let mut server =
        Server::new("scheduler", listener, api).keepalive(KEEPALIVE).limits(limits).drain(DRAIN);
    if let Some(svid) = svid {
        server = server.tls(transport::tls::server(svid, ClientAuth::Spiffe, Alpn::Grpc)?);
    }
    scope.spawn("scheduler-server", server.run(scope.clone()));
    tracing::info!(target: "dapr.scheduler.server", "Dapr Scheduler listening on: {bound}");
    Ok(Bound { api: bound, client: client_address })
}

/// What tools look for: one line on the log and one on standard error, whose form is fixed.
/// Source: Dapr 1.18.
fn announce(config: &Config) {
    tracing::info!(target: "dapr.scheduler", "Cron is ready");
    eprintln!(
        r#"{{"level":"info","logger":"cron","msg":"Starting queue with workers","id":{:?},"count":{}}}"#,
        config.id, config.workers
    );
}

fn own_address(config: &Config, port: u16) -> anyhow::Result<String> {
    let set = environment::var(address::HOST_IP);
    let found: IpAddr = address::host_ip(set.as_deref())?;
    let override_ = config.broadcast.as_deref();
    Ok(membership::broadcast(override_, &config.listen_address, port, || found))
}

/// Readiness follows the store.
fn watch_state(
    mut state: watch::Receiver<State>,
    ready: ReadyGuard,
    metrics: Metrics,
    scope: &Scope,
) -> impl Future<Output = Result<(), BoxError>> + use<> {
    let token = scope.token().clone();
    async move {
        loop {
            let now = state.borrow_and_update().clone();
            metrics.store_serves(!matches!(now, State::Reopening(_)));
            if now == State::Serving {
                ready.set_ready();
            } else {
                ready.set_not_ready();
            }
            match token.run_until_cancelled(state.changed()).await {
                None => return Ok(()),
                Some(changed) => changed.context("the job store ended")?,
            }
        }
    }
}

/// Answers every call with the reason why nothing is served.
fn refusing(sentence: String) -> Router {
    Router::new().fallback(async move || Status::unavailable(sentence.clone()).into_http::<Body>())
}
