//! Wiring: opens the store, starts the dispatcher, serves the port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use kubernetes::Precedence;
use runtime::{BoxError, ReadyGuard, Scope, environment};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use transport::anchors::AnchorSource;
use transport::tls::{Alpn, ClientAuth};
use transport::{Keepalive, Limits, Server, Svid, svid};

use crate::api::{self, Api};
use crate::config::Config;
use crate::membership::{self, address};
use crate::metrics::Metrics;
use crate::namespaces;
use crate::store::disk::Disk;
use crate::store::format::{Directory, DirectoryError};
use crate::store::reserve::Reserve;
use crate::store::{Embedded, Feed, Options, State, Store};
use crate::streams::dispatcher::Dispatcher;

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

/// How often a directory is tried that another process holds.
const LOCK_RETRY: Duration = Duration::from_millis(200);

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
                let client = kubernetes_client(&config).await?;
                read_anchors_early(&mut options, client.clone());
                cluster = Some(Cluster { client, ready: scope.ready("scheduler-controller") });
            }
            Some(svid::start(options, &scope).await.context("get an identity")?)
        }
        None => None,
    };
    start(&config, svid.as_ref(), cluster, targets, &scope).await?;
    Ok(())
}

/// In Kubernetes mode.
struct Cluster {
    client: kube::Client,
    ready: ReadyGuard,
}

async fn kubernetes_client(config: &Config) -> anyhow::Result<kube::Client> {
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::Kubeconfig);
    client.await.context("connect to the API server")
}

/// On a fresh installation the file of the trust anchors may be a minute late; the API server has
/// them as soon as sentry wrote them.
fn read_anchors_early(options: &mut svid::Options, client: kube::Client) {
    if let AnchorSource::File { fallback, .. } = &mut options.anchors {
        *fallback = Some(kubernetes::trust_bundle(client, &options.control_plane_namespace));
    }
}

/// Serves with an identity that exists already, or in plain text; where. For tests.
///
/// # Errors
/// As [`run`].
pub async fn serve(
    config: &Config,
    svid: Option<&Svid>,
    scope: &Scope,
) -> anyhow::Result<SocketAddr> {
    start(config, svid, None, Targets::register(scope), scope).await
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
) -> anyhow::Result<SocketAddr> {
    tracing::info!(target: "dapr.scheduler", "Dapr Scheduler is starting...");
    let metrics = Metrics::register(scope.metrics()).context("register metrics")?;
    let opened = open(config, scope).await?;
    // Not earlier: a process that waits for the directory leaves the port to the one that has it.
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    let bound = listener.local_addr().context("read the listening address")?;
    let router = match opened {
        Opened::Directory(directory) => {
            let store = start_store(config, directory, &metrics, targets.store, scope)?;
            if let Some(Cluster { client, ready }) = cluster {
                let clean_up =
                    namespaces::run(client, store.0.clone(), ready, scope.token().clone());
                scope.spawn("scheduler-controller", clean_up);
            }
            let api =
                start_api(config, store, bound.port(), svid.is_some(), metrics, scope).await?;
            targets.server.set_ready();
            api.router()
        }
        Opened::Refused(sentence) => {
            tracing::error!(target: "dapr.scheduler", "{sentence}");
            refusing(sentence)
        }
    };
    let limits = Limits {
        body_bytes: api::MAX_MESSAGE_BYTES,
        streams: STREAMS,
        streams_unauthenticated: STREAMS,
        request: CALL,
        streaming_paths: &api::STREAMING,
        ..Limits::default()
    };
    let mut server =
        Server::new("scheduler", listener, router).keepalive(KEEPALIVE).limits(limits).drain(DRAIN);
    if let Some(svid) = svid {
        server = server.tls(transport::tls::server(svid, ClientAuth::Spiffe, Alpn::Grpc)?);
    }
    scope.spawn("scheduler-server", server.run(scope.clone()));
    tracing::info!(target: "dapr.scheduler.server", "Dapr Scheduler listening on: {bound}");
    Ok(bound)
}

enum Opened {
    Directory(Directory),
    /// What is on disk is not this engine's. The process stays up, not ready.
    Refused(String),
}

/// Takes the directory of the store, waiting while another process has it.
async fn open(config: &Config, scope: &Scope) -> anyhow::Result<Opened> {
    let foreign = config.reference_dir.join("member");
    if foreign.exists() {
        return Ok(Opened::Refused(format!(
            "{} holds jobs of an etcd, which this version does not read. Nothing is written. To \
             keep them, run the scheduler that wrote them (in Kubernetes: helm rollback, or the \
             chart value global.scheduler.external=true, see docs/upgrade.md), or export them \
             there (dapr scheduler export) and import them into a scheduler with an empty \
             --etcd-data-dir. To give them up, delete {0}",
            foreign.display()
        )));
    }
    let mut waits = false;
    loop {
        match Directory::take(&config.store_dir) {
            Ok(Some(directory)) => return Ok(Opened::Directory(directory)),
            Ok(None) => {}
            Err(error @ (DirectoryError::Foreign(_) | DirectoryError::Newer { .. })) => {
                return Ok(Opened::Refused(error.to_string()));
            }
            Err(error @ DirectoryError::Io(..)) => return Err(error.into()),
        }
        if !std::mem::replace(&mut waits, true) {
            tracing::warn!(target: "dapr.scheduler",
                "{} is in use by another process; waiting", config.store_dir.display());
        }
        let pause = tokio::time::sleep(LOCK_RETRY);
        scope.token().run_until_cancelled(pause).await.context("stopped while waiting")?;
    }
}

type Opening = (Arc<dyn Store>, mpsc::Receiver<Feed>);

/// Opens the store; readiness follows it from now on.
fn start_store(
    config: &Config,
    directory: Directory,
    metrics: &Metrics,
    ready: ReadyGuard,
    scope: &Scope,
) -> anyhow::Result<Opening> {
    let space = Arc::new(Reserve::new(directory.path()));
    // The directory is held as long as the store may be opened again.
    let open = move || Disk::open(&directory.data());
    let observer = Box::new(metrics.clone());
    let options = Options { quota_bytes: config.quota_bytes, observer, space };
    let (store, feed) = Embedded::start(open, options, scope)
        .with_context(|| format!("open the job store in {}", config.store_dir.display()))?;
    scope.spawn("scheduler-etcd-embed", follow(store.state(), ready, metrics.clone(), scope));
    Ok((Arc::new(store), feed))
}

/// Arms the stored jobs and makes the API.
async fn start_api(
    config: &Config,
    (store, feed): Opening,
    port: u16,
    tls: bool,
    metrics: Metrics,
    scope: &Scope,
) -> anyhow::Result<Api> {
    let dispatcher = Dispatcher::start(store.clone(), feed, metrics.clone(), scope).await?;
    announce(config);
    Ok(Api {
        store,
        dispatcher,
        metrics,
        tls,
        scope: scope.clone(),
        ending: scope.token().clone(),
        hosts: Arc::new(watch::Sender::new(vec![own_address(config, port)?])),
        streams: Arc::new(AtomicU64::new(1)),
    })
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
fn follow(
    mut state: watch::Receiver<State>,
    ready: ReadyGuard,
    metrics: Metrics,
    scope: &Scope,
) -> impl Future<Output = Result<(), BoxError>> + use<> {
    let token = scope.token().clone();
    async move {
        loop {
            let serves = *state.borrow_and_update() == State::Serving;
            metrics.store_serves(serves);
            if serves {
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
