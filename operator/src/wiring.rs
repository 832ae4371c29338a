//! Starts the parts of the operator: [`run`] as a process, [`in_process`] some of them for tests,
//! [`fuzzing`] the parsers alone.
pub mod fuzzing;
pub(crate) mod in_process;

use std::sync::Arc;
use std::time::Duration;

use identity::{KeyKind, TrustDomain};
use kubernetes::lease::{self, LeaseError, LeaseOptions, Timing};
use kubernetes::{ObjectKey, Precedence, Recorder, WatchEvent, api_text};
use proto::operator::operator_server::OperatorServer;
use resources::Configuration;
use runtime::{LimitMeter, ReadyGuard, Scope};
use tokio::net::TcpListener;
use tokio::sync::watch;
use transport::anchors::AnchorSource;
use transport::svid::{self, Mode};
use transport::tls::{self, Alpn, ClientAuth, TlsError};
use transport::{GRPC_HEADER_BYTES, Keepalive, Limits, Server, Svid};

use crate::advice::advisor;
use crate::api::budget::Budget;
use crate::api::context::{Context, Stores};
use crate::api::gated_rules::GatedRules;
use crate::api::limits::ApiLimits;
use crate::api::missed_updates::MissedUpdates;
use crate::api::open_calls::OpenCalls;
use crate::api::server::OperatorApi;
use crate::api::{cache_gauges, secret_push};
use crate::cache::store::{Store, SyncState};
use crate::cluster::Cluster;
use crate::cluster::report::Reports;
use crate::cluster::watch::handle_events;
use crate::config::Config;
use crate::definitions::columns::EnabledColumns;
use crate::definitions::columns::controller::ColumnsController;
use crate::definitions::subscriptions::crd_controller::CrdController;
use crate::definitions::subscriptions::webhook;
use crate::error::{ConfigurationError, RunError};
use crate::metrics::Metrics;
use crate::secrets::resolution::ServedKind;
use crate::services::mtls;
use crate::services::reconciler::Reconciler;
use crate::watchdog::{WatchInterval, Watchdog};

/// App id in the operator's SPIFFE id (Dapr 1.18).
const APP_ID: &str = "dapr-operator";
/// Name of the gRPC server in metrics.
const API: &str = "operator-api";
/// Name of the lease (Dapr 1.18). Replicas of the reference and of this operator share it.
const LEASE: &str = "operator.dapr.io";
/// HTTP/2 pings that detect dead sidecars.
pub const KEEPALIVE: Keepalive =
    Keepalive { interval: Duration::from_secs(30), timeout: Duration::from_secs(10) };
/// Bytes of one request. A request names a namespace, a pod and an object, each of at most 253
/// bytes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Calls whose answers stay open for the lifetime of a sidecar.
const STREAMS: [&str; 7] = [
    "/dapr.proto.operator.v1.Operator/ComponentUpdate",
    "/dapr.proto.operator.v1.Operator/SubscriptionUpdate",
    "/dapr.proto.operator.v1.Operator/HTTPEndpointUpdate",
    "/dapr.proto.operator.v1.Operator/MCPServerUpdate",
    "/dapr.proto.operator.v1.Operator/ConfigurationUpdate",
    "/dapr.proto.operator.v1.Operator/ResiliencyUpdate",
    "/dapr.proto.operator.v1.Operator/WorkflowAccessPolicyUpdate",
];
/// Time after which a kind that is not listed no longer delays readiness. Calls for it wait
/// individually, and Subscriptions may need this replica's webhook, which is reachable only when the
/// replica is ready.
const LIST_GRACE: Duration = Duration::from_secs(15);

/// Starts all parts of the operator in `scope` and returns.
///
/// # Errors
/// [`RunError`]: there are no credentials for the API server, the control plane's Configuration does
/// not exist or is incomplete, or a port is in use.
pub async fn run(config: Config, scope: Scope) -> Result<(), RunError> {
    runtime::refuse_root()?;
    // Not ready before each part has a health target of its own.
    let starting = scope.ready("operator-start");
    tracing::info!(target: "dapr.operator", "Starting Dapr Operator -- version {}", runtime::VERSION);
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let election = election(&config)?;
    let instance = runtime::environment::hostname();
    let recorder = Recorder::new(client.clone(), APP_ID, instance);
    let cluster = Cluster::new(client, config.watch_namespace.clone(), config.namespace.clone());
    let metrics = Metrics::register(scope.metrics())?;
    let configuration = control_plane_configuration(&cluster, &config).await?;
    let svid = svid::start(security(&cluster, &config, &configuration)?, &scope).await?;

    let reports = Reports::new(recorder.clone(), scope.clone());
    let context = Arc::new(Context {
        stores: Stores::default(),
        cluster: cluster.clone(),
        reports: reports.clone(),
        metrics: metrics.clone(),
        missed_updates: MissedUpdates::default(),
        gated_rules: GatedRules::new(config.withhold_gated_rules, cluster.clone(), reports.clone()),
        budget: budget(ApiLimits::DEFAULT, &scope),
        requests: requests(ApiLimits::DEFAULT, &scope),
        streams: streams(ApiLimits::DEFAULT, &scope),
        too_large: too_large(&scope),
        token: scope.token().clone(),
    });
    cache_gauges::register(scope.metrics(), &context.stores)?;
    start_webhook(&config, &cluster, &metrics, &svid, &scope).await?;
    let watchdog = watchdog(&config, &context);
    let pods = start_caches(&context, watchdog.clone(), &scope);
    if config.push_secrets {
        secret_push::start(&context, &scope);
    }
    start_api(&config, context.clone(), &svid, &scope).await?;
    starting.set_ready();
    let leading = lead(&cluster, election, recorder, &metrics, &scope);
    let advice = advisor::run(context.clone(), config.component_status, leading.clone());
    scope.spawn_until_cancelled("operator-advisor", advice);
    start_columns(&config, &cluster, &metrics, leading.clone(), &scope);
    if !config.workloads.is_empty() {
        let mtls = watch_mtls(&configuration, &context, &config, &scope);
        let reconciler = Reconciler::new(cluster, reports, metrics, config.workloads, mtls);
        let work = Arc::new(reconciler).run(leading.clone());
        scope.spawn_until_cancelled("operator-services", work);
    }
    if let Some(watchdog) = watchdog {
        scope.spawn_until_cancelled("operator-watchdog", watchdog.run(leading, pods));
    } else {
        tracing::info!(target: "dapr.operator.watchdog", "Dapr Watchdog is not enabled");
    }
    tracing::info!(target: "dapr.operator", "Dapr Operator started");
    Ok(())
}

/// Reads the control plane's Configuration.
pub(crate) async fn control_plane_configuration(
    cluster: &Cluster,
    config: &Config,
) -> Result<Configuration, ConfigurationError> {
    let name = format!("{}/{}", config.namespace, config.configuration);
    let read = || cluster.configuration(&config.namespace, &config.configuration);
    match kubernetes::wait_until_found(read).await {
        Ok(Some(configuration)) => Ok(configuration),
        Ok(None) => Err(ConfigurationError::NotFound(name)),
        Err(error) => Err(ConfigurationError::Read { name, message: api_text(&error) }),
    }
}

/// The operator's identity, from the control plane's Configuration.
pub(crate) fn security(
    cluster: &Cluster,
    config: &Config,
    configuration: &Configuration,
) -> Result<svid::Options, ConfigurationError> {
    let name = format!("{}/{}", config.namespace, config.configuration);
    let Some(mtls) = configuration.spec.mtls.clone() else {
        return Err(ConfigurationError::NoMtls(name));
    };
    let trust_domain = TrustDomain::parse(&mtls.control_plane_trust_domain)
        .map_err(|cause| ConfigurationError::TrustDomain { name, cause })?;
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
        // API servers reject Ed25519 certificates; the same certificate serves the webhook.
        key_kind: KeyKind::Rsa2048,
        mode: Mode::Kubernetes,
    })
}

/// Whether sidecars use mTLS among each other, and changes of it.
fn watch_mtls(
    configuration: &Configuration,
    context: &Arc<Context>,
    config: &Config,
    scope: &Scope,
) -> watch::Receiver<bool> {
    let (enabled, receiver) = watch::channel(mtls::is_enabled(configuration));
    let configurations = context.stores.configurations.clone();
    let key = ObjectKey { namespace: config.namespace.clone(), name: config.configuration.clone() };
    let token = scope.token().clone();
    scope.spawn("operator-mtls", async move {
        let watch = mtls::watch_switch(&configurations, &key, &enabled);
        token.run_until_cancelled(watch).await;
        Ok(())
    });
    receiver
}

async fn start_api(
    config: &Config,
    context: Arc<Context>,
    svid: &Svid,
    scope: &Scope,
) -> Result<(), RunError> {
    let ready = scope.ready("operator-api-server");
    let listener = runtime::listen(&config.api.0, config.api.1).await?;
    let address = listener.local_addr().map_err(RunError::Address)?;
    tracing::info!(target: "dapr.operator.api", "Starting gRPC server on {address}");
    serve_api(listener, context, svid, KEEPALIVE, scope)?;
    ready.set_ready();
    Ok(())
}

/// Serves the gRPC API on `listener`.
///
/// # Errors
/// [`TlsError`]: the certificate cannot be used for TLS.
pub(crate) fn serve_api(
    listener: TcpListener,
    context: Arc<Context>,
    svid: &Svid,
    keepalive: Keepalive,
    scope: &Scope,
) -> Result<(), TlsError> {
    let service =
        OperatorServer::new(OperatorApi::new(context)).max_decoding_message_size(MAX_REQUEST_BYTES);
    let router = tonic::service::Routes::new(service).into_axum_router();
    let server = Server::new(API, listener, router)
        .tls(tls::server(svid, ClientAuth::Spiffe, Alpn::Grpc)?)
        .limits(api_limits())
        .keepalive(keepalive);
    scope.spawn("operator-api-server", server.run(scope.clone()));
    Ok(())
}

/// Memory for what sidecars have not read, and a task that disconnects those that do not read.
pub(crate) fn budget(limits: ApiLimits, scope: &Scope) -> Budget {
    let meter = |limit| scope.limit_meter(API, limit);
    let budget = Budget::new(limits, meter("unread_bytes"), meter("unread_deadline"));
    scope.spawn_until_cancelled("operator-budget", budget.clone().disconnect_stalled());
    budget
}

/// The open lists and gets of each app.
pub(crate) fn requests(limits: ApiLimits, scope: &Scope) -> OpenCalls {
    OpenCalls::new("requests", limits.app_requests, scope.limit_meter(API, "requests_per_app"))
}

/// The open update streams of each app.
pub(crate) fn streams(limits: ApiLimits, scope: &Scope) -> OpenCalls {
    let refused = scope.limit_meter(API, "streams_per_app");
    OpenCalls::new("update streams", limits.app_streams, refused)
}

/// Counts answers that are larger than a sidecar can read.
pub(crate) fn too_large(scope: &Scope) -> LimitMeter {
    scope.limit_meter(API, "message_bytes")
}

/// A sidecar holds seven update streams on its connection, and a list while it starts. What it does
/// not read costs memory for each open request.
fn api_limits() -> Limits {
    Limits {
        streams: 32,
        body_bytes: MAX_REQUEST_BYTES + GRPC_HEADER_BYTES,
        streaming_answers: &STREAMS,
        ..Limits::default()
    }
}

async fn start_webhook(
    config: &Config,
    cluster: &Cluster,
    metrics: &Metrics,
    svid: &Svid,
    scope: &Scope,
) -> Result<(), RunError> {
    let ready = scope.ready("operator-webhook");
    let Some((address, port)) = &config.webhook else {
        ready.set_ready();
        return Ok(());
    };
    let listener = runtime::listen(address, *port).await?;
    let limits = Limits { body_bytes: webhook::MAX_BODY_BYTES, ..Limits::default() };
    let server = Server::new("operator-webhook", listener, webhook::router())
        .tls(tls::server(svid, ClientAuth::None, Alpn::Https)?)
        .limits(limits);
    scope.spawn("operator-webhook", server.run(scope.clone()));
    let namespace = config.namespace.clone();
    let controller =
        CrdController { cluster: cluster.clone(), metrics: metrics.clone(), namespace };
    scope.spawn_until_cancelled("operator-crd", controller.run(svid.anchors(), ready));
    Ok(())
}

/// Returns the sync state of the pods.
fn start_caches(
    context: &Arc<Context>,
    watchdog: Option<Arc<Watchdog>>,
    scope: &Scope,
) -> watch::Receiver<SyncState> {
    let stores = &context.stores;
    let pods = start_pods(context, watchdog, scope);
    let all = vec![
        start_kind(&stores.components, context, scope),
        start_kind(&stores.configurations, context, scope),
        start_kind(&stores.subscriptions, context, scope),
        start_kind(&stores.resiliencies, context, scope),
        start_kind(&stores.http_endpoints, context, scope),
        start_kind(&stores.mcp_servers, context, scope),
        start_kind(&stores.workflow_access_policies, context, scope),
        pods.clone(),
    ];
    let ready = scope.ready("operator-cache");
    let token = scope.token().clone();
    scope.spawn_detached("operator-cache", async move {
        token.run_until_cancelled(set_ready_when_listed(all, ready)).await;
    });
    pods
}

/// Sets readiness when every kind is listed, at the latest after [`LIST_GRACE`].
async fn set_ready_when_listed(kinds: Vec<watch::Receiver<SyncState>>, ready: ReadyGuard) {
    let known = async {
        for mut kind in kinds {
            // A watch task that ends terminates the process, so an error needs no handling here.
            let _ = kind.wait_for(|sync| *sync != SyncState::Pending).await;
        }
    };
    if tokio::time::timeout(LIST_GRACE, known).await.is_err() {
        tracing::warn!(target: "dapr.operator",
            "not all kinds could be listed within {} s; serving the others", LIST_GRACE.as_secs());
    }
    ready.set_ready();
}

fn start_kind<K: ServedKind>(
    store: &Arc<Store<K>>,
    context: &Arc<Context>,
    scope: &Scope,
) -> watch::Receiver<SyncState> {
    let sync = store.sync();
    let (store, context) = (store.clone(), context.clone());
    scope.spawn_until_cancelled("operator-watch", async move {
        let events = context.cluster.watch_kind::<K>();
        handle_events(K::KIND, &context.metrics, events, |event| {
            if let Err(bad) = store.apply(event) {
                context.report_undecodable(&bad);
            }
        })
        .await;
    });
    sync
}

fn start_pods(
    context: &Arc<Context>,
    watchdog: Option<Arc<Watchdog>>,
    scope: &Scope,
) -> watch::Receiver<SyncState> {
    let (sync, answer) = watch::channel(SyncState::Pending);
    let context = context.clone();
    scope.spawn_until_cancelled("operator-watch", async move {
        let events = context.cluster.watch_pods();
        handle_events("Pod", &context.metrics, events, |event| {
            let listed = matches!(event, WatchEvent::InitDone);
            if let Some(watchdog) = &watchdog {
                watchdog.observe(&event);
            }
            context.stores.assignments.apply(event);
            if listed {
                sync.send_replace(SyncState::Synced);
            }
        })
        .await;
    });
    answer
}

fn watchdog(config: &Config, context: &Context) -> Option<Arc<Watchdog>> {
    (config.watchdog.interval != WatchInterval::Off).then(|| {
        Arc::new(Watchdog::new(
            config.watchdog.clone(),
            &context.cluster,
            config.namespace.clone(),
            context.reports.clone(),
            context.metrics.clone(),
        ))
    })
}

/// Adds the printer columns to the CRDs, if enabled.
fn start_columns(
    config: &Config,
    cluster: &Cluster,
    metrics: &Metrics,
    leading: watch::Receiver<bool>,
    scope: &Scope,
) {
    let enabled =
        EnabledColumns { every_kind: config.printer_columns, status: config.component_status };
    if enabled.crds().next().is_some() {
        let controller =
            ColumnsController { cluster: cluster.clone(), metrics: metrics.clone(), enabled };
        scope.spawn_until_cancelled("operator-columns", controller.run(leading));
    }
}

/// The options of the leader election; `None` when it is disabled or not needed.
fn election(config: &Config) -> Result<Option<LeaseOptions>, LeaseError> {
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

/// Whether this replica is the leader, and changes of it.
fn lead(
    cluster: &Cluster,
    election: Option<LeaseOptions>,
    recorder: Recorder,
    metrics: &Metrics,
    scope: &Scope,
) -> watch::Receiver<bool> {
    let leading = match election {
        Some(options) => {
            lease::run_leader_election(cluster.client().clone(), options, recorder, scope)
        }
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
