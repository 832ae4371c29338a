//! Wiring: opens the store, starts the dispatcher, serves the ports.

pub(crate) mod child;
mod choice;
mod client_port;
mod error;
mod external;
mod found;
pub mod fuzzing;
mod left_behind;
mod open;
mod shared;
mod summary;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use runtime::{BoxError, ReadyGuard, Scope, clock, environment};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tonic::Status;
use transport::anchors::AnchorSource;
use transport::tls::{Alpn, ClientAuth};
use transport::{Keepalive, Limits, Server, Svid, svid};

use crate::api::{self, Api};
use crate::cluster::Cluster;
use crate::config::{Config, StoreConfig};
use crate::membership::fence::Fence;
use crate::membership::leadership::Leadership;
use crate::membership::{self, address};
use crate::metrics::{Metrics, StoreKind, StoreMetrics, register_store};
use crate::store::{State, Store};
use crate::streams::dispatcher::{Dispatcher, Parts};

use self::choice::Engine;
use self::open::Opened;

pub use error::RunError;
pub use external::ExternalError;

/// Open streams are ended at once; those that do not read the end are cut after this time, so that
/// the process ends within 5 seconds of a signal.
const DRAIN: Duration = Duration::from_secs(3);

/// Detection of dead sidecars. Source: Dapr 1.18.
const KEEPALIVE: Keepalive =
    Keepalive { interval: Duration::from_secs(3), timeout: Duration::from_secs(5) };

/// Calls and streams on one connection. A sidecar sends all its calls on one, and a workflow may
/// have hundreds in flight.
const STREAMS: u32 = 4_096;

/// From the headers of a call to the end of its answer. Sidecars wait 30 seconds; a list may have
/// hundreds of megabytes.
const CALL: Duration = Duration::from_mins(2);

/// Gets an identity, if mTLS is on, and serves; returns when the port is open.
///
/// # Errors
/// [`RunError`]: a port is taken, an address does not resolve, or the identity cannot be set up.
pub async fn run(config: Config, scope: Scope) -> Result<(), RunError> {
    let targets = Targets::register(&config, &scope);
    tracing::info!(target: "dapr.scheduler",
        "Starting Dapr Scheduler Service -- version {} -- commit unknown", runtime::VERSION);
    let mut cluster = None;
    let svid = match config.tls.clone() {
        Some(mut options) => {
            if options.mode == svid::Mode::Kubernetes {
                runtime::refuse_root()?;
                let connected =
                    Cluster::connect(&config, scope.ready("scheduler-controller")).await;
                let connected = connected.map_err(RunError::Cluster)?;
                read_anchors_early(&mut options, &connected);
                cluster = Some(connected);
            }
            Some(svid::start(options, &scope).await.map_err(RunError::Svid)?)
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

/// Serves with an existing identity, or in plain text; returns the addresses. For tests.
///
/// # Errors
/// As [`run`].
pub async fn serve(config: &Config, svid: Option<&Svid>, scope: &Scope) -> Result<Bound, RunError> {
    start(config, svid, None, Targets::register(config, scope), scope).await
}

/// The addresses that a scheduler listens on.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// The scheduler's own API.
    pub api: SocketAddr,
    /// The etcd API; `None` with an external etcd, which serves it itself.
    pub client: Option<SocketAddr>,
}

/// The health targets. Source of the names: Dapr 1.18.
struct Targets {
    server: ReadyGuard,
    store: ReadyGuard,
}

impl Targets {
    fn register(config: &Config, scope: &Scope) -> Self {
        let store = match config.store {
            StoreConfig::Own { .. } => "scheduler-etcd-embed",
            StoreConfig::External(_) => "scheduler-etcd-external",
        };
        Self { server: scope.ready("scheduler-server"), store: scope.ready(store) }
    }
}

/// The inputs of every engine.
struct Context<'a> {
    config: &'a Config,
    svid: Option<&'a Svid>,
    cluster: Option<Cluster>,
    targets: Targets,
    scope: &'a Scope,
}

async fn start(
    config: &Config,
    svid: Option<&Svid>,
    cluster: Option<Cluster>,
    targets: Targets,
    scope: &Scope,
) -> Result<Bound, RunError> {
    tracing::info!(target: "dapr.scheduler", "Dapr Scheduler is starting...");
    let context = Context { config, svid, cluster, targets, scope };
    match &config.store {
        StoreConfig::External(external) => shared::start_external(context, external).await,
        StoreConfig::Own { engine, child } => {
            let found = found::look(config, *engine, child, scope).await?;
            match choice::choose(*engine, child.peers.len(), &found) {
                Ok(Engine::Embedded) => start_embedded(context, &child.own.url).await,
                Ok(Engine::Etcd) => shared::start_child(context, child).await,
                Err(refusal) => refuse(&context, refusal.to_string()).await,
            }
        }
    }
}

/// Serves jobs that are stored in this process.
async fn start_embedded(context: Context<'_>, peer_url: &str) -> Result<Bound, RunError> {
    let Context { config, scope, .. } = context;
    register_store(scope.metrics(), StoreKind::Embedded).map_err(RunError::Metrics)?;
    let metrics = Metrics::register(scope.metrics()).map_err(RunError::Metrics)?;
    let store_metrics = StoreMetrics::register(scope.metrics(), config.quota_bytes);
    let store_metrics = store_metrics.map_err(RunError::Metrics)?;
    let (store, feed) = match open::open(config, &store_metrics, scope).await? {
        Opened::Store(store, feed) => (store, feed),
        Opened::Refused(sentence) => return refuse(&context, sentence).await,
    };
    let Context { svid, cluster, targets, .. } = context;
    // Not earlier: a process that waits for the directory leaves the ports to its owner.
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    let bound = listener.local_addr().map_err(RunError::Address)?;
    let client = client_port::listen(&config.client).await?;
    let client_address = client.address;
    let state =
        watch_state(store.state(), targets.store, metrics.clone(), Some(store_metrics), scope);
    scope.spawn("scheduler-etcd-embed", state);
    clean_up(cluster, store.clone(), scope);
    let address = own_address(config, bound.port());
    let changed = Arc::new(Notify::new());
    let uid = runtime::random::bits();
    let own = Leadership::new(store.clone(), &config.id, &address, uid, changed.clone());
    own.start(scope).await;
    let etcd_api = client_port::api(config, peer_url, store.clone(), client_address, scope)?;
    let fence = Arc::new(Fence::open(clock::monotonic()));
    let parts = Parts {
        store: store.clone(),
        feed,
        fence: fence.clone(),
        leadership: changed,
        metrics: metrics.clone(),
    };
    let dispatcher = Dispatcher::start(parts, scope).await;
    let dispatcher = dispatcher.map_err(|error| RunError::Store(error.into()))?;
    serve_summary(config, &dispatcher, scope);
    announce(config);
    let hosts = Arc::new(watch::Sender::new(vec![address]));
    let api = api(store, dispatcher, fence, hosts, metrics, svid, scope);
    targets.server.set_ready();
    client.serve(&etcd_api.router(), scope);
    serve_api(listener, api.router(), svid, scope)?;
    Ok(Bound { api: bound, client: Some(client_address) })
}

/// Answers every call with the reason why no job is fired. The process stays up, not ready.
async fn refuse(context: &Context<'_>, sentence: String) -> Result<Bound, RunError> {
    let Context { config, svid, scope, .. } = context;
    tracing::error!(target: "dapr.scheduler", "{sentence}");
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    let bound = listener.local_addr().map_err(RunError::Address)?;
    let client = match config.store {
        StoreConfig::Own { .. } => Some(client_port::listen(&config.client).await?),
        StoreConfig::External(_) => None,
    };
    let client_address = client.as_ref().map(|client| client.address);
    let refusing = refusing(sentence);
    if let Some(client) = client {
        client.serve(&refusing, scope);
    }
    serve_api(listener, refusing, *svid, scope)?;
    Ok(Bound { api: bound, client: client_address })
}

/// Serves counts of jobs on the health port, if that is switched on.
fn serve_summary(config: &Config, dispatcher: &Dispatcher, scope: &Scope) {
    if config.metadata_enabled {
        scope.serve_with_health(summary::router(dispatcher.clone()));
    }
}

/// Deletes the jobs of deleted Namespaces, in Kubernetes mode.
fn clean_up(cluster: Option<Cluster>, store: Arc<dyn Store>, scope: &Scope) {
    if let Some(cluster) = cluster {
        let stop = scope.token().clone();
        let clean_up = cluster.delete_jobs_of_deleted_namespaces(store, stop);
        scope.spawn("scheduler-controller", clean_up);
    }
}

fn api(
    store: Arc<dyn Store>,
    dispatcher: Dispatcher,
    fence: Arc<Fence>,
    hosts: Arc<watch::Sender<Vec<String>>>,
    metrics: Metrics,
    svid: Option<&Svid>,
    scope: &Scope,
) -> Api {
    Api {
        store,
        dispatcher,
        fence,
        metrics,
        tls: svid.is_some(),
        scope: scope.clone(),
        ending: scope.token().clone(),
        hosts,
        streams: Arc::new(AtomicU64::new(1)),
    }
}

/// Serves the port that sidecars connect to.
fn serve_api(
    listener: TcpListener,
    api: Router,
    svid: Option<&Svid>,
    scope: &Scope,
) -> Result<(), RunError> {
    let bound = listener.local_addr().map_err(RunError::Address)?;
    let limits = Limits {
        body_bytes: api::MAX_MESSAGE_BYTES,
        streaming_paths: &api::STREAMING,
        streaming_answers: &api::STREAMING_ANSWERS,
        ..Limits::default()
    };
    let mut server = server("scheduler", listener, api, limits);
    if let Some(svid) = svid {
        server = server.tls(transport::tls::server(svid, ClientAuth::Spiffe, Alpn::Grpc)?);
    }
    scope.spawn("scheduler-server", server.run(scope.clone()));
    tracing::info!(target: "dapr.scheduler.server", "Dapr Scheduler listening on: {bound}");
    Ok(())
}

/// The server of a port: both have the same limits except for the size of a request and for what
/// stays open.
fn server(name: &'static str, listener: TcpListener, router: Router, limits: Limits) -> Server {
    // The largest message leaves room for those of others.
    let unfinished_bytes = limits.unfinished_bytes.saturating_add(limits.body_bytes);
    let limits = Limits {
        connections: Limits::CONNECTIONS_OF_ALL_SIDECARS,
        unfinished_bytes,
        unfinished_bytes_per_address: unfinished_bytes,
        streams: STREAMS,
        streams_unauthenticated: STREAMS,
        request: CALL,
        ..limits
    };
    Server::new(name, listener, router).keepalive(KEEPALIVE).limits(limits).drain(DRAIN)
}

/// Two lines that tools match on: one in the log and one on standard error.
/// Source: Dapr 1.18.
fn announce(config: &Config) {
    tracing::info!(target: "dapr.scheduler", "Cron is ready");
    // A closed standard error is no reason to stop.
    let _ = write_workers(&mut std::io::stderr(), &config.id, config.workers);
}

/// In one write, so that no line of the log splits it where both share a file.
fn write_workers(out: &mut impl Write, id: &str, workers: u32) -> std::io::Result<()> {
    let mut line = format!(
        r#"{{"level":"info","logger":"cron","msg":"Starting queue with workers","id":{id:?},"count":{workers}}}"#
    );
    line.push('\n');
    out.write_all(line.as_bytes())
}

fn own_address(config: &Config, port: u16) -> String {
    let found = || address::host(environment::var(address::HOST_IP).as_deref());
    membership::broadcast(config.broadcast.as_deref(), &config.listen_address, port, found)
}

/// Readiness follows the store.
fn watch_state(
    mut state: watch::Receiver<State>,
    ready: ReadyGuard,
    metrics: Metrics,
    store_metrics: Option<StoreMetrics>,
    scope: &Scope,
) -> impl Future<Output = Result<(), BoxError>> + use<> {
    let token = scope.token().clone();
    async move {
        loop {
            let now = state.borrow_and_update().clone();
            let serves = !matches!(now, State::Reopening(_));
            metrics.store_serves(serves);
            if let Some(metrics) = &store_metrics {
                metrics.store_serves(serves);
            }
            if now == State::Serving {
                ready.set_ready();
            } else {
                ready.set_not_ready();
            }
            match token.run_until_cancelled(state.changed()).await {
                Some(Ok(())) => {}
                Some(Err(_)) if !token.is_cancelled() => return Err("the job store ended".into()),
                Some(Err(_)) | None => return Ok(()),
            }
        }
    }
}

/// Answers every call with the reason for not serving.
fn refusing(sentence: String) -> Router {
    Router::new().fallback(async move || Status::unavailable(sentence.clone()).into_http::<Body>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written, call by call.
    #[derive(Default)]
    struct Calls(Vec<Vec<u8>>);

    impl Write for Calls {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_line_with_the_number_of_workers_is_written_at_once() {
        let mut calls = Calls::default();
        write_workers(&mut calls, "dapr-scheduler-server-0", 2048).unwrap();
        let line = r#"{"level":"info","logger":"cron","msg":"Starting queue with workers","id":"dapr-scheduler-server-0","count":2048}"#;
        assert_eq!(calls.0, [format!("{line}\n").into_bytes()]);
    }

    /// The parts of a process that stops end in any order.
    #[tokio::test]
    async fn a_store_that_ends_with_the_process_is_no_failure() {
        let scope = Scope::for_test();
        let metrics = Metrics::register(scope.metrics()).unwrap();
        let (sender, state) = watch::channel(State::Serving);
        let watching = watch_state(state, scope.ready("store"), metrics, None, &scope);
        scope.token().cancel();
        drop(sender);
        assert!(watching.await.is_ok());
    }
}
