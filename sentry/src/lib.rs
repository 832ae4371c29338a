//! Sentry: the SPIFFE certificate authority of a Dapr installation.
//!
//! ```text
//!  SignCertificate ─► server ─► request (rules) ─► identify ─► pod_identity (who is this pod?)
//!                       │                             ├─► cluster (token review, pods, configurations)
//!                       │                             └─► jwks_keys (keys of an identity provider)
//!                       ├─► dns_names, jwt_svid ◄─ jwt_keeper (key and key set) ─► oidc_server
//!                       └─► authority ─► identity::Bundle::issue
//!                              ▲
//!  Secret + ConfigMap, files ─►keeper ─► identity::stored (use, make, or leave), rotation (replace)
//!                              └─► own_svid ─► transport (the certificate that sentry serves with)
//! ```
//! Start reading at [`identity::stored::plan`] (what happens to a stored CA) and [`rotation::rotate`]
//! (when it is replaced), then `server.rs`.
//!
//! Invariants: a CA that sentry did not write is never replaced unasked, and while one exists
//! anywhere, whole or in part, no second one is made but by a rotation. Nothing but the public
//! key is taken from a signing request. No certificate outlives its issuer. Tokens and keys reach no
//! log. Deliberately absent: authentication of callers by TLS; they prove themselves by token.

pub mod authority;
pub mod bundle_files;
pub mod bundle_objects;
pub mod bundle_record;
pub mod cache;
pub mod census;
pub mod cluster;
pub mod config;
mod config_jwt;
pub mod dns_names;
pub mod error;
pub mod events;
pub mod identify;
pub mod jwks_keys;
pub mod jwt_keeper;
pub mod jwt_plan;
pub mod jwt_store;
pub mod jwt_svid;
pub mod keeper;
pub mod metrics;
pub mod oidc;
pub mod oidc_server;
pub mod own_svid;
pub mod pod_identity;
pub mod request;
mod rotating;
pub mod rotation;
pub mod server;
pub mod settings;
mod store;
#[cfg(test)]
mod store_memory;
pub mod token_reviews;
pub mod token_validators;
pub mod turns;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use identity::SpiffeId;
use proto::sentry::ca_server::CaServer;
use runtime::{Scope, environment};
use tokio::net::TcpListener;
use transport::tls::{Alpn, ClientAuth};

pub use config::{Config, Flags};
pub use error::SignError;

use authority::Authority;
use bundle_files::BundleFiles;
use cluster::Kubernetes;
use config::Mode;
use identify::{Identifier, JwksIdentifier, KubernetesIdentifier};
use jwt_store::JwtStore;
use keeper::{Keeper, Policy};
use metrics::Metrics;
use server::CaService;
use settings::Settings;
use store::Store;

/// Ready while the gRPC port is served.
const HEALTH_TARGET: &str = "sentry-server";

/// After a stop connections are still accepted for this long, while Endpoints learn of it.
const LAME_DUCK: Duration = Duration::from_millis(500);

/// Runs sentry until the scope is cancelled.
///
/// # Errors
/// The port is taken, the Configuration cannot be read, or in standalone mode the CA's files are
/// unusable. In Kubernetes an unusable CA is no error: sentry stays up, not ready, and says why.
pub async fn run(config: Config, scope: Scope) -> anyhow::Result<()> {
    // Before anything waits: the health port is open already.
    scope.ready(HEALTH_TARGET);
    let listener = runtime::listen(&config.listen_address, config.port).await?;
    run_on(listener, config, scope).await
}

/// As [`run`], on a listener of the caller's.
///
/// # Errors
/// As [`run`].
pub async fn run_on(listener: TcpListener, config: Config, scope: Scope) -> anyhow::Result<()> {
    let ready = scope.ready(HEALTH_TARGET);
    let metrics = Metrics::register(scope.metrics())?;
    let own_id = SpiffeId::new(&config.trust_domain, &config.namespace, "dapr-sentry")
        .context("name sentry's own identity")?;
    let Parts { identifier, store, authority, jwt_store } = connect(&config, &scope).await?;
    let mut keeper = Keeper::new(store, authority.clone(), metrics.clone(), Policy::from(&config));
    if matches!(config.mode, Mode::Standalone { .. }) {
        Box::pin(keeper.reconcile()).await?;
    }
    scope.spawn("ca-keeper", keeper.run(scope.token().clone()));

    let jwt = match (config.jwt.clone(), jwt_store) {
        (Some(jwt), Some(store)) => Some(jwt_keeper::start(jwt, store, &scope).await?),
        _ => None,
    };
    if let (Some(oidc), Some(keys)) = (&config.oidc, &jwt) {
        oidc_server::start(oidc, keys.clone(), &scope).await?;
    }
    let own = own_svid::start(authority.clone(), own_id, metrics.clone(), &scope).await?;
    let Some(svid) = own else { return Ok(()) };
    let suffixes = dns_suffixes(&config);
    let service = CaService::new(identifier, authority, jwt, metrics, config.namespace, suffixes);
    let router = tonic::service::Routes::new(CaServer::new(service)).into_axum_router();
    let tls = transport::tls::server(&svid, ClientAuth::None, Alpn::Grpc)?;
    let address = listener.local_addr().context("read the listening address")?;
    tracing::info!(target: "dapr.sentry.server", %address, "Running gRPC server");
    let server = transport::Server::new("sentry", listener, router).tls(tls).lame_duck(LAME_DUCK);
    let (inner, token) = (scope.clone(), scope.token().clone());
    scope.spawn("sentry-server", async move { server.run(inner).await });
    ready.set_ready();
    token.cancelled().await;
    ready.set_not_ready();
    Ok(())
}

/// What differs between the modes.
struct Parts {
    identifier: Identifier,
    store: Store,
    authority: Authority,
    /// Where the JWT key is, if JWT SVIDs are issued.
    jwt_store: Option<JwtStore>,
}

/// Who checks callers, where the CA is, and how certificates are made.
async fn connect(config: &Config, scope: &Scope) -> anyhow::Result<Parts> {
    match &config.mode {
        Mode::Standalone { configuration } => {
            let named = || format!("couldn't find config name \"{}\"", configuration.display());
            let text = std::fs::read_to_string(configuration).with_context(named)?;
            let mtls = settings::mtls_from_yaml(&text, environment::var).with_context(named)?;
            let settings = Settings::from_mtls(&mtls).with_context(named)?;
            let jwks = jwks(&mtls, config, scope).await.with_context(named)?;
            let identifier = jwks.map_or(Identifier::Insecure, Identifier::Jwks);
            if matches!(identifier, Identifier::Insecure) {
                tracing::warn!(
                    "standalone mode believes callers: whoever reaches the port gets any identity"
                );
            }
            let files = BundleFiles::new(config.bundle.clone());
            let (store, authority) = (Store::Files(files), Authority::new(settings));
            let jwt_store = config.jwt.as_ref().map(JwtStore::files);
            Ok(Parts { identifier, store, authority, jwt_store })
        }
        Mode::Kubernetes { configuration, kubeconfig } => {
            runtime::refuse_root()?;
            let named = || format!("couldn't find config name {configuration:?}");
            let kubernetes = Kubernetes::connect(kubeconfig.as_deref()).await?;
            let mtls =
                kubernetes.mtls(&config.namespace, configuration).await.with_context(named)?;
            let authority = Authority::new(Settings::from_mtls(&mtls).with_context(named)?);
            let jwks = jwks(&mtls, config, scope).await.with_context(named)?;
            kubernetes.follow(&config.namespace, scope);
            kubernetes.follow_settings(&config.namespace, configuration, &authority, scope);
            let objects = kubernetes.bundle_objects(&config.namespace, &config.bundle);
            let of_jwt = |jwt| kubernetes.jwt_store(&config.namespace, jwt);
            let jwt_store = config.jwt.as_ref().map(of_jwt);
            let identifier = KubernetesIdentifier::new(
                kubernetes,
                config.namespace.clone(),
                config.trust_domain.clone(),
            );
            let store = Store::Objects(Box::new(objects));
            let identifier = Identifier::Kubernetes(Arc::new(identifier), jwks);
            Ok(Parts { identifier, store, authority, jwt_store })
        }
    }
}

/// The validator of an identity provider's tokens, if one is configured.
async fn jwks(
    mtls: &resources::Mtls,
    config: &Config,
    scope: &Scope,
) -> anyhow::Result<Option<JwksIdentifier>> {
    let Some(options) = token_validators::jwks(mtls)? else { return Ok(None) };
    let keys = jwks_keys::start(&options, scope).await?;
    Ok(Some(JwksIdentifier::new(keys, &config.namespace, &config.trust_domain)))
}

/// The DNS domains that the scheduler may compute: the cluster's as its resolver knows it, and the
/// trust domain, which is what it falls back to. Source: Dapr 1.18, scheduler.
fn dns_suffixes(config: &Config) -> Vec<String> {
    let fallback = config.trust_domain.to_string();
    let known = match config.mode {
        Mode::Kubernetes { .. } => std::fs::read_to_string("/etc/resolv.conf")
            .ok()
            .and_then(|text| dns_names::cluster_domain(&text)),
        Mode::Standalone { .. } => None,
    };
    let mut suffixes: Vec<String> = known.into_iter().chain([fallback]).collect();
    suffixes.dedup();
    suffixes
}
