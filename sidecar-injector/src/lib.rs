//! The sidecar injector: a mutating webhook that adds daprd to annotated pods.
//!
//! ```text
//!   kube-apiserver ── AdmissionReview ──► admission ──► sidecar ──► pod
//!                                             │        (mutate)   (view, patch)
//!   kube-apiserver ◄── list, watch ── cluster ┘ snapshot
//!
//!   manifests ──► offline ──► sidecar            config: flags, environment
//! ```
//! Start reading at [`mutate`]. The rooms are layers: `pod` is the lowest, then `sidecar`,
//! `cluster`, `admission`; `config` and `offline` are above. A request never calls the API server:
//! it reads a snapshot that watches update.

mod admission;
mod cluster;
mod config;
mod error;
#[doc(hidden)]
pub mod fuzzing;
pub mod offline;
mod pod;
mod sidecar;

use std::path::Path;
use std::time::Duration;

use identity::KeyKind;
use kubernetes::Precedence;
use runtime::{Scope, environment};
use tokio::sync::{mpsc, oneshot, watch};
use transport::Limits;
use transport::anchors::AnchorSource;
use transport::svid::{self, Mode};
use transport::tls::{self, Alpn, ClientAuth};

pub use admission::{
    AdmissionDecision, AdmissionMetrics, AdmissionPolicy, AllowList, AllowedUsers, CallerProof,
    Outcome, Review, Webhook, router,
};
pub use cluster::{ClusterSnapshot, InjectionEvent};
pub use config::{Config, Flags, HostEnvironment};
pub use error::RunError;
pub use pod::{Defaults, NamespacePolicy, PodView, Warning};
pub use sidecar::{
    Actors, Change, ComponentContainer, ControlPlane, InjectError, InjectionContext, Mutation,
    NativeDefault, Platform, Rejection, Security, Settings, SkipReason, Toleration, Version,
    mutate,
};

use admission::MAX_BODY_BYTES;
use cluster::{CaBundleController, Cluster, ClusterMetrics};

/// Paths of the service account token for sentry. Source: Dapr 1.18, security module.
const TOKENS: [&str; 2] = [
    "/var/run/secrets/dapr.io/sentrytoken/token",
    "/var/run/secrets/kubernetes.io/serviceaccount/token",
];
/// Time for open requests to end after a stop signal. Together with the shutdown delay it is below
/// the grace period of 20 seconds.
const DRAIN: Duration = Duration::from_secs(10);
/// Time that start-up waits for the first list of Namespaces.
const FIRST_LIST: Duration = Duration::from_secs(10);
/// Events that wait to be written. Further ones are dropped, because no request waits for them.
const MAX_PENDING_EVENTS: usize = 256;

impl HostEnvironment {
    /// Reads the inputs of this host.
    pub fn detect() -> Self {
        let own_token = environment::var("DAPR_SENTRY_TOKEN_FILE");
        let tokens = TOKENS.into_iter().chain(own_token.as_deref());
        Self {
            resolv_conf: std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
            has_token: tokens.into_iter().any(|path| Path::new(path).is_file()),
        }
    }
}

/// Starts the injector in the scope and returns when it serves. Waits for sentry.
///
/// # Errors
/// [`RunError`]
pub async fn run(config: Config, scope: Scope) -> Result<(), RunError> {
    for warning in &config.warnings {
        tracing::warn!(target: "dapr.injector", "{warning}");
    }
    let metrics = AdmissionMetrics::register(scope.metrics())?;
    let cluster_metrics = ClusterMetrics::register(scope.metrics())?;
    let service_ready = scope.ready("injector-service");
    let webhook_ready = scope.ready("webhook-configuration");
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::InCluster).await?;
    let cluster = Cluster::new(client, &config.settings.namespace);
    let snapshot = ClusterSnapshot::default();
    let namespaces = spawn_watches(&cluster, &snapshot, &config, &scope);

    // The first pods get the same sidecars as later ones. A setting that cannot be read has its
    // default; the watches log the reason.
    let native = config.settings.native;
    let (svid, ..) = tokio::join!(
        svid::start(svid_options(&config, &cluster), &scope),
        cluster.read_configuration(&snapshot),
        cluster.read_platform(native, &snapshot),
        tokio::time::timeout(FIRST_LIST, namespaces),
    );
    let svid = svid.map_err(|error| RunError::Certificate(error.into()))?;

    let listener = runtime::listen(&config.listen_address, config.port)
        .await
        .map_err(|error| RunError::Listen(error.into()))?;
    tracing::info!(target: "dapr.injector.service",
        "Sidecar injector is listening on {}, patching Dapr-enabled pods", listener.local_addr().map_err(|error| RunError::Listen(error.into()))?);
    let tls = match &config.client_ca_file {
        None => tls::server(&svid, ClientAuth::None, Alpn::Https),
        Some(path) => {
            let ca = std::fs::read(path)
                .map_err(|source| RunError::ClientCa { path: path.clone(), source })?;
            tls::server_for_clients_of(&svid, &ca)
        }
    };
    let tls = tls.map_err(|error| RunError::Tls(error.into()))?;
    let events = config.events.then(|| {
        let (send, receive) = mpsc::channel(MAX_PENDING_EVENTS);
        scope.spawn_until_cancelled("events", cluster.clone().record_events(receive));
        send
    });
    let (called, first_call) = watch::channel(false);
    let reachability =
        cluster.clone().check_reachability(first_call, cluster_metrics.clone(), config.events);
    scope.spawn_until_cancelled("reachability", reachability);
    let controller = CaBundleController::new(cluster, svid.clone(), webhook_ready, cluster_metrics);
    let policy = config.admission_policy();
    let webhook = Webhook::new(policy, snapshot, svid.anchors(), metrics, called, events);
    let server = transport::Server::new("injector-service", listener, router(webhook))
        .tls(tls)
        .limits(Limits { body_bytes: MAX_BODY_BYTES, ..Limits::default() })
        .lame_duck(config.shutdown_delay)
        .drain(DRAIN);
    scope.spawn("injector-service", server.run(scope.clone()));
    service_ready.set_ready();
    scope.spawn_until_cancelled("webhook-configuration", controller.run());
    let token = scope.token().clone();
    scope.spawn_detached("readiness", async move {
        token.cancelled().await;
        service_ready.set_not_ready();
    });
    Ok(())
}

fn svid_options(config: &Config, cluster: &Cluster) -> svid::Options {
    let namespace = config.settings.namespace.clone();
    svid::Options {
        app_id: config.app_id.clone(),
        namespace: namespace.clone(),
        trust_domain: config.trust_domain.clone(),
        control_plane_namespace: namespace,
        sentry_address: config.sentry_address.clone(),
        anchors: AnchorSource::File {
            path: config.anchors_file.clone(),
            fallback: Some(cluster.trust_bundle()),
        },
        // Some managed API servers reject Ed25519 certificates of webhooks.
        key_kind: KeyKind::Rsa2048,
        mode: Mode::Kubernetes,
    }
}

/// Starts the watches and polls. The receiver resolves after the first list of Namespaces.
fn spawn_watches(
    cluster: &Cluster,
    snapshot: &ClusterSnapshot,
    config: &Config,
    scope: &Scope,
) -> oneshot::Receiver<()> {
    let accounts = config.allowed.exact_accounts();
    scope.spawn_until_cancelled(
        "configuration",
        cluster.clone().poll_configuration(snapshot.clone()),
    );
    scope.spawn_until_cancelled("components", cluster.clone().watch_components(snapshot.clone()));
    scope.spawn_until_cancelled(
        "service-accounts",
        cluster.clone().poll_accounts(accounts, snapshot.clone()),
    );
    let native = config.settings.native;
    scope
        .spawn_until_cancelled("platform", cluster.clone().poll_platform(native, snapshot.clone()));
    let (synced, namespaces) = oneshot::channel();
    scope.spawn_until_cancelled(
        "namespaces",
        cluster.clone().watch_namespaces(snapshot.clone(), synced),
    );
    namespaces
}
