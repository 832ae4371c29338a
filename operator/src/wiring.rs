//! Puts the parts together and decides nothing.
use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use identity::{KeyKind, TrustDomain};
use kube::runtime::watcher::Event;
use proto::operator::operator_server::OperatorServer;
use runtime::{
    ReadyGuard, Scope,
    kubernetes::{self, Precedence, api_text},
    lease::{self, LeaseOptions, Timing},
};
use tokio::{net::TcpListener, sync::watch};
use transport::{
    Keepalive, Server, Svid,
    anchors::AnchorSource,
    svid::{self, Mode},
    tls::{self, Alpn, ClientAuth},
};

use crate::{
    advisor,
    api::{Shared, Stores},
    cluster::Cluster,
    config::{Config, WatchInterval},
    follow::{Seen, follow},
    gauges,
    metrics::Metrics,
    outage::Outage,
    reconcile::Reconciler,
    report::Reports,
    secret_push,
    secrets::Served,
    server::OperatorApi,
    store::{Store, Sync},
    watchdog::Watchdog,
    webhook::{self, CrdKeeper},
};

/// Id of the operator in its certificate (Dapr 1.18).
const APP_ID: &str = "dapr-operator";
/// Name of the lease (Dapr 1.18); mixed replicas of the reference and this operator share it.
const LEASE: &str = "operator.dapr.io";
/// Pings that find dead sidecars.
pub const KEEPALIVE: Keepalive =
    Keepalive { interval: Duration::from_secs(30), timeout: Duration::from_secs(10) };
/// A kind that is not listed by then no longer holds readiness back: its calls wait one by one,
/// and Subscriptions may need this replica's own webhook, which is reached only when it is ready.
const LIST_GRACE: Duration = Duration::from_secs(15);

/// Starts every part of the operator in `scope` and returns.
///
/// # Errors
/// The API server cannot be used, the control plane's Configuration is missing or incomplete, or a
/// port is taken.
pub async fn run(config: Config, scope: Scope) -> anyhow::Result<()> {
    runtime::refuse_root()?;
    tracing::info!(target: "dapr.operator", "Starting Dapr Operator -- version {}", runtime::VERSION);
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let election = election(&config)?;
    let instance = runtime::environment::hostname();
    let cluster = Cluster::new(client, config.watch_namespace.clone(), instance);
    let metrics = Metrics::register(scope.metrics())?;
    let secured = scope.ready("operator-security");
    let svid = svid::start(security(&cluster, &config).await?, &scope).await?;
    secured.set_ready();

    let reports = Reports::new(cluster.clone(), scope.clone());
    let shared = Arc::new(Shared {
        stores: Stores::default(),
        cluster: cluster.clone(),
        reports: reports.clone(),
        metrics: metrics.clone(),
        outage: Outage::default(),
        token: scope.token().clone(),
    });
    gauges::register(scope.metrics(), &shared.stores)?;
    start_webhook(&config, &cluster, &metrics, &svid, &scope).await?;
    let watchdog = watchdog(&config, &shared);
    let pods = start_caches(&shared, watchdog.clone(), &scope);
    if config.push_secrets {
        secret_push::start(&shared, &scope);
    }
    start_api(&config, shared.clone(), &svid, &scope).await?;
    let leading = lead(&cluster, election, &metrics, &scope);
    let advice = advisor::run(shared, config.component_status, leading.clone(), scope.clone());
    scope.spawn("operator-advisor", advice);
    if !config.workloads.is_empty() {
        let reconciler = Reconciler::new(cluster, reports, metrics, config.workloads);
        let work = Arc::new(reconciler).run(leading.clone(), scope.clone());
        scope.spawn("operator-services", work);
    }
    if let Some(watchdog) = watchdog {
        scope.spawn("operator-watchdog", watchdog.run(leading, pods, scope.clone()));
    } else {
        tracing::info!(target: "dapr.operator.watchdog", "Dapr Watchdog is not enabled");
    }
    tracing::info!(target: "dapr.operator", "Dapr Operator started");
    Ok(())
}

/// Who we are, from the control plane's own Configuration.
pub(crate) async fn security(cluster: &Cluster, config: &Config) -> anyhow::Result<svid::Options> {
    let name = format!("{}/{}", config.namespace, config.configuration);
    let ask = || cluster.configuration(&config.namespace, &config.configuration);
    let found = kubernetes::appearing(ask)
        .await
        .map_err(|e| anyhow::anyhow!("read Configuration {name}: {}", api_text(&e)))?
        .with_context(|| format!("read Configuration {name}: not found"))?;
    let mtls = found.spec.mtls.with_context(|| format!("Configuration {name} has no spec.mtls"))?;
    let trust_domain = TrustDomain::parse(&mtls.control_plane_trust_domain)
        .with_context(|| format!("spec.mtls.controlPlaneTrustDomain of Configuration {name}"))?;
    let fallback = kubernetes::trust_bundle(cluster.client().clone(), &config.namespace);
    Ok(svid::Options {
        app_id: APP_ID.to_owned(),
        namespace: config.namespace.clone(),
        trust_domain,
        control_plane_namespace: config.namespace.clone(),
        sentry_address: mtls.sentry_address,
        anchors: AnchorSource::File {
            path: config.trust_anchors.clone(),
            fallback: Some(fallback),
        },
        // API servers refuse Ed25519; the same certificate serves the webhook.
        key_kind: KeyKind::Rsa2048,
        mode: Mode::Kubernetes,
    })
}

async fn start_api(
    config: &Config,
    shared: Arc<Shared>,
    svid: &Svid,
    scope: &Scope,
) -> anyhow::Result<()> {
    let ready = scope.ready("operator-api-server");
    let listener = runtime::listen(&config.api.0, config.api.1).await?;
    tracing::info!(target: "dapr.operator.api", "Starting gRPC server on {}", listener.local_addr()?);
    serve_api(listener, shared, svid, KEEPALIVE, scope)?;
    ready.set_ready();
    Ok(())
}

/// Serves the gRPC API on `listener`; [`KEEPALIVE`] is what the process pings sidecars with.
///
/// # Errors
/// The certificate cannot be used for TLS.
pub fn serve_api(
    listener: TcpListener,
    shared: Arc<Shared>,
    svid: &Svid,
    keepalive: Keepalive,
    scope: &Scope,
) -> anyhow::Result<()> {
    let service = OperatorServer::new(OperatorApi::new(shared));
    let router = tonic::service::Routes::new(service).into_axum_router();
    let server = Server::new("operator-api", listener, router)
        .tls(tls::server(svid, ClientAuth::Spiffe, Alpn::Grpc)?)
        .keepalive(keepalive);
    scope.spawn("operator-api-server", server.run(scope.clone()));
    Ok(())
}

async fn start_webhook(
    config: &Config,
    cluster: &Cluster,
    metrics: &Metrics,
    svid: &Svid,
    scope: &Scope,
) -> anyhow::Result<()> {
    let ready = scope.ready("operator-webhook");
    let Some((address, port)) = &config.webhook else {
        ready.set_ready();
        return Ok(());
    };
    let listener = runtime::listen(address, *port).await?;
    let server = Server::new("operator-webhook", listener, webhook::router()).tls(tls::server(
        svid,
        ClientAuth::None,
        Alpn::Https,
    )?);
    scope.spawn("operator-webhook", server.run(scope.clone()));
    let namespace = config.namespace.clone();
    let keeper = CrdKeeper { cluster: cluster.clone(), metrics: metrics.clone(), namespace };
    scope.spawn("operator-crd", keeper.run(svid.anchors(), ready, scope.clone()));
    Ok(())
}

/// The answer says whether all pods are known.
fn start_caches(
    shared: &Arc<Shared>,
    watchdog: Option<Arc<Watchdog>>,
    scope: &Scope,
) -> watch::Receiver<Sync> {
    let stores = &shared.stores;
    let pods = start_pods(shared, watchdog, scope);
    let all = vec![
        start_kind(&stores.components, shared, scope),
        start_kind(&stores.configurations, shared, scope),
        start_kind(&stores.subscriptions, shared, scope),
        start_kind(&stores.resiliencies, shared, scope),
        start_kind(&stores.http_endpoints, shared, scope),
        start_kind(&stores.mcp_servers, shared, scope),
        start_kind(&stores.workflow_access_policies, shared, scope),
        pods.clone(),
    ];
    let ready = scope.ready("operator-cache");
    let token = scope.token().clone();
    scope.spawn_detached("operator-cache", async move {
        token.run_until_cancelled(announce(all, ready)).await;
    });
    pods
}

/// Ready when every kind is known, or was given time enough.
async fn announce(kinds: Vec<watch::Receiver<Sync>>, ready: ReadyGuard) {
    let known = async {
        for mut kind in kinds {
            // An ended watch task ends the process, so an error needs no answer here.
            let _ = kind.wait_for(|sync| *sync != Sync::Starting).await;
        }
    };
    if tokio::time::timeout(LIST_GRACE, known).await.is_err() {
        tracing::warn!(target: "dapr.operator",
            "not every kind could be listed within {} s; calls about the others are served", LIST_GRACE.as_secs());
    }
    ready.set_ready();
}

fn start_kind<K: Served>(
    store: &Arc<Store<K>>,
    shared: &Arc<Shared>,
    scope: &Scope,
) -> watch::Receiver<Sync> {
    let sync = store.sync();
    let (store, shared, token) = (store.clone(), shared.clone(), scope.token().clone());
    scope.spawn("operator-watch", async move {
        let open = || shared.cluster.watch_kind::<K>();
        let take = |seen| match seen {
            Seen::NoSuchKind => store.no_crd(),
            Seen::Event(event) => {
                if let Err(bad) = store.apply(event) {
                    shared.undecodable(&bad);
                }
            }
        };
        token.run_until_cancelled(follow(K::KIND, &shared.metrics, open, take)).await;
        Ok(())
    });
    sync
}

fn start_pods(
    shared: &Arc<Shared>,
    watchdog: Option<Arc<Watchdog>>,
    scope: &Scope,
) -> watch::Receiver<Sync> {
    let (sync, answer) = watch::channel(Sync::Starting);
    let (shared, token) = (shared.clone(), scope.token().clone());
    scope.spawn("operator-watch", async move {
        let open = || shared.cluster.watch_pods();
        let take = |seen| {
            if let Seen::Event(event) = seen {
                let listed = matches!(event, Event::InitDone);
                if let Some(watchdog) = &watchdog {
                    watchdog.observe(&event);
                }
                shared.stores.assignments.apply(event);
                if listed {
                    sync.send_replace(Sync::Complete);
                }
            }
        };
        token.run_until_cancelled(follow("Pod", &shared.metrics, open, take)).await;
        Ok(())
    });
    answer
}

fn watchdog(config: &Config, shared: &Shared) -> Option<Arc<Watchdog>> {
    (config.watchdog.interval != WatchInterval::Off).then(|| {
        Arc::new(Watchdog::new(
            config.watchdog,
            shared.cluster.clone(),
            config.namespace.clone(),
            shared.reports.clone(),
            shared.metrics.clone(),
        ))
    })
}

/// Which lease to stand for; `None` to lead without one.
fn election(config: &Config) -> anyhow::Result<Option<LeaseOptions>> {
    let idle = config.workloads.is_empty() && config.watchdog.interval == WatchInterval::Off;
    if !config.elect || idle {
        return Ok(None);
    }
    let namespace = lease::pod_namespace()?;
    Ok(Some(LeaseOptions {
        namespace,
        name: LEASE.to_owned(),
        identity: lease::identity(),
        timing: Timing::PATIENT,
    }))
}

/// Whether this replica leads, now and later.
fn lead(
    cluster: &Cluster,
    election: Option<LeaseOptions>,
    metrics: &Metrics,
    scope: &Scope,
) -> watch::Receiver<bool> {
    let leading = match election {
        Some(options) => lease::elect(cluster.client().clone(), options, scope),
        None => watch::Sender::new(true).subscribe(),
    };
    let (mut changes, metrics, token) = (leading.clone(), metrics.clone(), scope.token().clone());
    scope.spawn_detached("operator-leader", async move {
        let follow = async {
            metrics.leading(*changes.borrow_and_update());
            while changes.changed().await.is_ok() {
                metrics.leading(*changes.borrow_and_update());
            }
        };
        token.run_until_cancelled(follow).await;
    });
    leading
}
