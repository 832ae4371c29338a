//! The sidecar injector: a mutating webhook that gives annotated pods their daprd.
//!
//! ```text
//!   kube-apiserver ── AdmissionReview ──► server ──► review::decide ──► mutate::mutate
//!                                           │              │                │
//!     cluster: watches ──► live ────────────┘         allow (who)     options (annotations, defaults)
//!     config: flags, environment                                      sidecar, arguments (container)
//!     keeper: the API server's trust in us                            app, components (the rest)
//!                                                                     patch (RFC 6902)
//! ```
//! Start reading at [`mutate::mutate`]. Nothing on the way of a request calls the API server: what
//! a pod depends on is watched, and each request takes a snapshot.

pub mod addresses;
pub mod allow;
pub mod app;
pub mod app_id;
pub mod arguments;
pub mod ca_bundle;
pub mod check;
pub mod cluster;
pub mod components;
pub mod config;
pub mod daprd_version;
pub mod defaults;
pub mod error;
pub mod events;
pub mod glob;
pub mod keeper;
pub mod live;
pub mod metrics;
pub mod mutate;
pub mod namespace;
pub mod offline;
pub mod options;
pub mod patch;
pub mod platform;
pub mod pod;
pub mod quantity;
pub mod reader;
pub mod review;
pub mod server;
pub mod settings;
pub mod sidecar;
pub mod spelling;
pub mod user_env;
pub mod warnings;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use identity::KeyKind;
use kubernetes::Precedence;
use runtime::{Scope, environment};
use tokio::sync::{mpsc, oneshot, watch};
use transport::Limits;
use transport::anchors::AnchorSource;
use transport::svid::{self, Mode};
use transport::tls::{self, Alpn, ClientAuth};

pub use config::{Config, Flags, Surroundings};

use cluster::Cluster;
use live::Live;

/// Where a process finds the token that proves its identity. Source: Dapr 1.18, security module.
const TOKENS: [&str; 2] = [
    "/var/run/secrets/dapr.io/sentrytoken/token",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
];
/// How long open requests may take to end once nothing new is accepted. With the delay before it
/// below the 20 seconds that the process has.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the first look at Namespaces may take before pods are served without it.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// Events that wait to be sent; more are dropped, because no request may wait for them.
const MAX_WAITING_REPORTS: usize = 256;

impl Surroundings {
    /// What this machine says.
    pub fn of_this_process() -> Self {
        let own_token = environment::var("DAPR_SENTRY_TOKEN_FILE");
        let tokens = TOKENS.into_iter().chain(own_token.as_deref());
        Self {
            resolv_conf: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            has_token: tokens.into_iter().any(|path| Path::new(path).is_file()),
        }
    }
}

/// Wires the injector into the scope; returns once it serves.
///
/// # Errors
/// There are no credentials for the API server, or the port is taken. A sentry that is away is
/// waited for.
pub async fn run(config: Config, scope: Scope) -> anyhow::Result<()> {
    for remark in &config.remarks {
        tracing::warn!(target: "dapr.injector", "{remark}");
    }
    let metrics = metrics::Metrics::register(scope.metrics()).context("register metrics")?;
    let service_ready = scope.ready("injector-service");
    let webhook_ready = scope.ready("webhook-configuration");
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::InCluster).await?;
    let namespace = config.settings.namespace.clone();
    let cluster = Cluster::new(client.clone(), &namespace);
    let live = Live::default();
    let namespaces = follow(&cluster, &live, &config, &scope);

    let fallback = kubernetes::trust_bundle(client, &namespace);
    let options = svid::Options {
        app_id: config.app_id.clone(),
        namespace: namespace.clone(),
        trust_domain: config.trust_domain.clone(),
        control_plane_namespace: namespace,
        sentry_address: config.sentry_address.clone(),
        anchors: AnchorSource::File { path: config.anchors_file.clone(), fallback: Some(fallback) },
        // Some managed API servers refuse Ed25519 certificates of webhooks.
        key_kind: KeyKind::Rsa2048,
        mode: Mode::Kubernetes,
    };
    // The first pods must not be treated otherwise than the later ones. What cannot be read has its
    // default, and the loops above say why.
    let native = config.settings.native;
    let (svid, ..) = tokio::join!(
        svid::start(options, &scope),
        cluster.read_configuration(&live),
        cluster.read_platform(native, &live),
        tokio::time::timeout(FIRST_LOOK, namespaces),
    );
    let svid = svid?;

    let listener = runtime::listen(&config.listen_address, config.port).await?;
    tracing::info!(target: "dapr.injector.service",
        "Sidecar injector is listening on {}, patching Dapr-enabled pods", listener.local_addr()?);
    let tls = match &config.client_ca_file {
        None => tls::server(&svid, ClientAuth::None, Alpn::Https)?,
        Some(path) => {
            let name = || {
                format!("read the CA of the API server's client certificate, {}", path.display())
            };
            tls::server_for_clients_of(&svid, &std::fs::read(path).with_context(name)?)?
        }
    };
    let delay = config.shutdown_delay;
    let reports = config.events.then(|| {
        let (send, receive) = mpsc::channel(MAX_WAITING_REPORTS);
        spawn(&scope, "events", cluster.clone().send_events(receive));
        send
    });
    let (called, first_call) = watch::channel(false);
    spawn(
        &scope,
        "reach",
        cluster.clone().watch_for_silence(first_call, metrics.clone(), config.events),
    );
    let keeper = keeper::Keeper::new(cluster, svid.clone(), webhook_ready, metrics.clone());
    let webhook = server::Webhook {
        config: Arc::new(config),
        live,
        anchors: svid.anchors(),
        metrics,
        called,
        reports,
    };
    let limits = Limits { body_bytes: server::MAX_BODY_BYTES, ..Limits::default() };
    let server = transport::Server::new("injector-service", listener, server::router(webhook))
        .tls(tls)
        .limits(limits)
        .lame_duck(delay)
        .drain(DRAIN);
    scope.spawn("injector-service", server.run(scope.clone()));
    service_ready.set_ready();
    spawn(&scope, "webhook-configuration", keeper.run());
    let token = scope.token().clone();
    scope.spawn_detached("readiness", async move {
        token.cancelled().await;
        service_ready.set_not_ready();
    });
    Ok(())
}

/// Starts all that keeps `live` fresh; what is returned resolves once Namespaces are known.
fn follow(cluster: &Cluster, live: &Live, config: &Config, scope: &Scope) -> oneshot::Receiver<()> {
    let accounts = config.allowed.exact_accounts();
    spawn(scope, "configuration", cluster.clone().follow_configuration(live.clone()));
    spawn(scope, "components", cluster.clone().follow_components(live.clone()));
    spawn(scope, "service-accounts", cluster.clone().follow_accounts(accounts, live.clone()));
    let native = config.settings.native;
    spawn(scope, "platform", cluster.clone().follow_platform(native, live.clone()));
    let (settled, known) = oneshot::channel();
    spawn(scope, "namespaces", cluster.clone().follow_namespaces(live.clone(), settled));
    known
}

fn spawn(scope: &Scope, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let token = scope.token().clone();
    scope.spawn(name, async move {
        token.run_until_cancelled(work).await;
        Ok(())
    });
}
