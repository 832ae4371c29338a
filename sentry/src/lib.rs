//! Sentry: the SPIFFE certificate authority of a Dapr installation.
//!
//! ```text
//!  SignCertificate ─► server ─► authn (which identity does the token prove?)
//!                       ├─► queue (admission, fair to peers and namespaces)
//!                       └─► ca::authority ─► identity::Bundle::issue
//!                              ▲        └─► jwt ─► oidc (publishes the key set)
//!  Secret + ConfigMap, files ─► ca::controller ─► identity::stored (use, create, or reject)
//!                              │                └─► rotation (when to rotate)
//!                              └─► ca::own_certificate ─► transport (sentry's serving certificate)
//! ```
//! Start reading at [`identity::stored::plan`] (whether a stored CA is used) and
//! `rotation::plan::plan` (when it is rotated), then `server.rs`. Dependencies point down: `server`
//! uses `authn`, `ca`, `jwt` and `queue`; `oidc` uses `jwt`, `jwt` uses `ca`, `ca` uses `rotation`.
//!
//! Invariants: a CA that sentry did not create is never replaced without a request, and while a CA
//! exists anywhere, whole or in part, only a rotation creates a second one. Of a signing request
//! only the public key is used. No certificate outlives its issuer. Tokens and keys are never
//! logged. Deliberately absent: authentication of callers by TLS; they prove their identity by a
//! token.

mod authn;
mod ca;
mod config;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod jwt;
mod metrics;
mod oidc;
mod queue;
mod rotation;
mod run_error;
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use identity::SpiffeId;
use kubernetes::Precedence;
use runtime::{Scope, environment};
use tokio::net::TcpListener;
use transport::tls::{Alpn, ClientAuth};

pub use authn::cluster::ImageExtension;
pub use ca::BundleNames;
pub use config::{Config, ConfigError, Flags, JwtConfigError, Mode};
pub use jwt::JwtConfig;
pub use oidc::OidcConfig;
pub use run_error::RunError;

use authn::cluster::Kubernetes;
use authn::dns_names::cluster_domain;
use authn::jwks_keys::JwksSourceError;
use authn::jwks_options::JwksOptionsError;
use authn::{Authenticator, JwksAuthenticator, KubernetesAuthenticator, jwks_keys, jwks_options};
use ca::cluster::CaCluster;
use ca::controller::CaError;
use ca::files::BundleFiles;
use ca::settings::{Settings, mtls_from_yaml};
use ca::store::Store;
use ca::{Authority, CaController, CaPolicy, own_certificate};
use jwt::JwtStore;
use jwt::cluster::JwtObjects;
use metrics::Metrics;
use server::CaService;

/// Ready while the gRPC port is served.
const HEALTH_TARGET: &str = "sentry-server";

/// After a stop sentry accepts connections for this long, until Endpoints no longer list it.
const LAME_DUCK: Duration = Duration::from_millis(500);

/// Runs sentry until the scope is cancelled.
///
/// # Errors
/// [`RunError`]: the port is in use, the Configuration cannot be read, or in standalone mode the CA's files cannot
/// be read or written. An invalid CA is not an error: sentry stays up, not ready, and logs why.
pub async fn run(config: Config, scope: Scope) -> Result<(), RunError> {
    // Register the target before the first await: the health port is already open.
    scope.ready(HEALTH_TARGET);
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    run_on(listener, config, scope).await
}

/// As [`run`], on a given listener.
///
/// # Errors
/// As [`run`].
pub async fn run_on(listener: TcpListener, config: Config, scope: Scope) -> Result<(), RunError> {
    let ready = scope.ready(HEALTH_TARGET);
    let metrics = Metrics::register(scope.metrics())?;
    let own_id = SpiffeId::new(&config.trust_domain, &config.namespace, "dapr-sentry")
        .map_err(RunError::OwnId)?;
    let Parts { authenticator, store, authority, jwt_store } = connect(&config, &scope).await?;
    let policy = CaPolicy::from(&config);
    let controller = CaController::new(store, authority.clone(), metrics.clone(), policy);
    start_controller(controller, &config.mode, &scope)
        .await
        .map_err(|error| RunError::Ca(error.into()))?;

    let jwt = match (config.jwt.clone(), jwt_store) {
        (Some(jwt), Some(store)) => {
            let keys = jwt::controller::start(jwt, store, &scope).await;
            Some(keys.map_err(|error| RunError::JwtKey(error.into()))?)
        }
        _ => None,
    };
    if let (Some(oidc), Some(keys)) = (&config.oidc, &jwt) {
        oidc::server::start(oidc, keys.clone(), &scope).await?;
    }
    let own = own_certificate::start(authority.clone(), own_id, metrics.clone(), &scope).await;
    let Some(svid) = own else { return Ok(()) };
    let suffixes = dns_suffixes(&config);
    let namespace = config.namespace;
    let service = CaService::new(authenticator, authority, jwt, metrics, namespace, suffixes);
    let tls = transport::tls::server(&svid, ClientAuth::None, Alpn::Grpc)?;
    let address = listener.local_addr().map_err(RunError::Address)?;
    tracing::info!(target: "dapr.sentry.server", %address, "Running gRPC server");
    let server = transport::Server::new("sentry", listener, server::router(service))
        .tls(tls)
        .limits(server::limits())
        .lame_duck(LAME_DUCK);
    let (inner, token) = (scope.clone(), scope.token().clone());
    scope.spawn("sentry-server", async move { server.run(inner).await });
    ready.set_ready();
    token.cancelled().await;
    ready.set_not_ready();
    Ok(())
}

/// Reconciles once in standalone mode, so that files that cannot be read or written end the process,
/// then runs the controller.
async fn start_controller(
    mut controller: CaController<Store>,
    mode: &Mode,
    scope: &Scope,
) -> Result<(), CaError> {
    if matches!(mode, Mode::Standalone { .. }) {
        match Box::pin(controller.reconcile()).await {
            // The controller retries and reports it.
            Ok(()) | Err(CaError::Stored(_)) => {}
            Err(e) => return Err(e),
        }
    }
    let token = scope.token().clone();
    scope.spawn("ca-controller", async move { Ok(controller.run(token).await?) });
    Ok(())
}

/// The parts that differ between the modes.
struct Parts {
    authenticator: Authenticator,
    store: Store,
    authority: Authority,
    /// `None` if JWT SVIDs are disabled.
    jwt_store: Option<JwtStore>,
}

async fn connect(config: &Config, scope: &Scope) -> Result<Parts, RunError> {
    match &config.mode {
        Mode::Standalone { configuration } => standalone(configuration, config, scope).await,
        Mode::Kubernetes { configuration, kubeconfig } => {
            runtime::refuse_root()?;
            in_cluster(configuration, kubeconfig.as_deref(), config, scope).await
        }
    }
}

async fn standalone(
    configuration: &Path,
    config: &Config,
    scope: &Scope,
) -> Result<Parts, RunError> {
    let name = format!("\"{}\"", configuration.display());
    let text = std::fs::read_to_string(configuration).map_err(RunError::configuration(&name))?;
    let mtls = mtls_from_yaml(&text, environment::var).map_err(RunError::configuration(&name))?;
    let settings = Settings::from_mtls(&mtls).map_err(RunError::configuration(&name))?;
    let jwks = jwks(&mtls, config, scope).await.map_err(RunError::configuration(&name))?;
    let authenticator = jwks.map_or(Authenticator::Insecure, Authenticator::Jwks);
    if matches!(authenticator, Authenticator::Insecure) {
        tracing::warn!(
            "standalone mode without a token validator: every client that reaches the port gets any identity"
        );
    }
    Ok(Parts {
        authenticator,
        store: Store::Files(BundleFiles::new(config.bundle.clone())),
        authority: Authority::new(settings),
        jwt_store: config.jwt.as_ref().map(JwtStore::files),
    })
}

async fn in_cluster(
    configuration: &str,
    kubeconfig: Option<&Path>,
    config: &Config,
    scope: &Scope,
) -> Result<Parts, RunError> {
    let name = format!("{configuration:?}");
    // One connection per call: sentry sends a TokenReview for each certificate.
    let client = kubernetes::client_for_short_calls(kubeconfig, Precedence::InCluster).await?;
    let cluster = CaCluster::new(client.clone(), &config.namespace);
    let mtls = cluster.mtls(configuration).await.map_err(RunError::configuration(&name))?;
    let authority =
        Authority::new(Settings::from_mtls(&mtls).map_err(RunError::configuration(&name))?);
    let jwks = jwks(&mtls, config, scope).await.map_err(RunError::configuration(&name))?;
    let kubernetes = Kubernetes::new(client, config.image_extension, scope);
    kubernetes.start_watches(&config.namespace, scope);
    cluster.watch_settings(configuration, &authority, scope);
    let jwt_store = |jwt| {
        let objects = JwtObjects::new(cluster.secrets(), cluster.config_maps(), jwt);
        JwtStore::Objects(Box::new(objects))
    };
    let (namespace, trust_domain) = (config.namespace.clone(), config.trust_domain.clone());
    let by_review = KubernetesAuthenticator::new(kubernetes, namespace, trust_domain);
    Ok(Parts {
        authenticator: Authenticator::Kubernetes(Arc::new(by_review), jwks),
        store: Store::Objects(Box::new(cluster.bundle_objects(&config.bundle))),
        authority,
        jwt_store: config.jwt.as_ref().map(jwt_store),
    })
}

/// Why an identity provider's tokens cannot be validated.
#[derive(Debug, thiserror::Error)]
enum JwksError {
    #[error(transparent)]
    Options(#[from] JwksOptionsError),
    #[error("load the key set of the token validator 'jwks'")]
    Keys(#[source] JwksSourceError),
}

/// The validator of an identity provider's tokens; `None` if it is not configured.
async fn jwks(
    mtls: &resources::Mtls,
    config: &Config,
    scope: &Scope,
) -> Result<Option<JwksAuthenticator>, JwksError> {
    let Some(options) = jwks_options::jwks(mtls)? else { return Ok(None) };
    let keys = jwks_keys::start(&options, scope).await;
    let keys = keys.map_err(JwksError::Keys)?;
    Ok(Some(JwksAuthenticator::new(keys, &config.namespace, &config.trust_domain)))
}

/// The DNS domains that the scheduler may compute: the cluster's domain as its resolver states it,
/// and its fallback, the trust domain. Source: Dapr 1.18, scheduler.
fn dns_suffixes(config: &Config) -> Vec<String> {
    let fallback = config.trust_domain.to_string();
    let known = match config.mode {
        Mode::Kubernetes { .. } => {
            std::fs::read_to_string("/etc/resolv.conf").ok().and_then(|text| cluster_domain(&text))
        }
        Mode::Standalone { .. } => None,
    };
    let mut suffixes: Vec<String> = known.into_iter().chain([fallback]).collect();
    suffixes.dedup();
    suffixes
}
