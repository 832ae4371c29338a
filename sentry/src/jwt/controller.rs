//! Reconciles the JWT key in memory with the stored one: generates it when there is none, applies
//! changes, and keeps the previous key when the stored one is invalid.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use identity::KeyError;
use runtime::{ReadyGuard, Scope};
use transport::file_watch::FileWatch;

use super::plan::{self, JwtAuthority, JwtPlan, StoredKeyError};
use super::store::JwtStore;
use super::svid::JwtConfig;
use crate::ca::store_error::StoreError;

/// The store is read at least this often.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// Delay before a retry after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Replicas that start together write concurrently; each conflict means that another one succeeded.
const MAX_CONFLICTS: u32 = 10;

const LOG: &str = "dapr.sentry.ca.jwt";

/// Why the JWT key was not reconciled. The key in memory stays in use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwtKeyError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored key or key set is invalid.
    #[error(transparent)]
    Stored(#[from] StoredKeyError),
    /// The stored key was removed while it is in use.
    #[error("the stored JWT key vanished; restore it")]
    Vanished,
    /// A key could not be generated.
    #[error("generate a JWT key")]
    Generate(#[source] KeyError),
    /// The task that generates a key was cancelled.
    #[error("generate a JWT key: the task was cancelled")]
    Cancelled,
    /// Other clients changed the objects at each attempt.
    #[error("the JWT key is changed by other clients faster than it can be read")]
    Contended,
}

/// The key that signs tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct JwtKeys {
    /// How tokens are issued.
    pub(crate) config: Arc<JwtConfig>,
    current: Arc<ArcSwapOption<JwtAuthority>>,
}

impl JwtKeys {
    /// The current key, `None` until one is loaded.
    pub(crate) fn current(&self) -> Option<Arc<JwtAuthority>> {
        self.current.load_full()
    }
}

/// Loads or generates the key and reconciles it until the scope is cancelled. Health target:
/// `sentry-jwt`.
///
/// # Errors
/// [`JwtKeyError`] if key and key set are files and invalid. In a cluster sentry stays up, not ready,
/// and logs the reason.
pub(crate) async fn start(
    config: JwtConfig,
    store: JwtStore,
    scope: &Scope,
) -> Result<JwtKeys, JwtKeyError> {
    let ready = scope.ready("sentry-jwt");
    let keys = JwtKeys { config: Arc::new(config), current: Arc::default() };
    let watch = store.watch()?;
    let controller = JwtKeyController { keys: keys.clone(), store, ready };
    if controller.store.is_files() {
        controller.reconcile().await?;
    }
    let token = scope.token().clone();
    scope.spawn("jwt-key-controller", async move {
        token.run_until_cancelled(controller.run(watch)).await;
        Ok(())
    });
    Ok(keys)
}

struct JwtKeyController {
    keys: JwtKeys,
    store: JwtStore,
    ready: ReadyGuard,
}

impl JwtKeyController {
    async fn run(self, mut watch: Option<FileWatch>) {
        let mut reported = String::new();
        loop {
            let pause = match self.reconcile().await {
                Ok(()) => {
                    reported.clear();
                    POLL_INTERVAL
                }
                Err(e) => {
                    let text = runtime::chain(&e);
                    if text != reported {
                        let consequence = if self.keys.current().is_some() {
                            "the previous JWT key stays in use"
                        } else {
                            "sentry is not ready"
                        };
                        tracing::error!(target: LOG, "{text}; {consequence}");
                        reported = text;
                    }
                    RETRY
                }
            };
            match &mut watch {
                Some(watch) => watch.changed(pause).await,
                None => tokio::time::sleep(pause).await,
            }
        }
    }

    async fn reconcile(&self) -> Result<(), JwtKeyError> {
        for _ in 0..MAX_CONFLICTS {
            match self.attempt().await {
                Ok(true) => return Ok(()),
                Ok(false) | Err(JwtKeyError::Store(StoreError::Conflict(_))) => {}
                Err(e) => return Err(e),
            }
        }
        Err(JwtKeyError::Contended)
    }

    /// One read of the store and at most one write; `false` after a write that must be read back.
    async fn attempt(&self) -> Result<bool, JwtKeyError> {
        let snapshot = self.store.read().await?;
        match plan::plan(&snapshot.stored, &self.keys.config)? {
            JwtPlan::Use(authority) => {
                self.install(*authority);
                let jwks = snapshot.stored.jwks.unwrap_or_default();
                self.store.publish(&jwks).await?;
                Ok(true)
            }
            JwtPlan::Generate if self.keys.current().is_some() => Err(JwtKeyError::Vanished),
            JwtPlan::Generate => {
                tracing::info!(target: LOG, "JWT key not found: generating one");
                let config = self.keys.config.clone();
                let made = tokio::task::spawn_blocking(move || plan::generate(&config));
                let made = made.await.map_err(|_| JwtKeyError::Cancelled)?;
                let made = made.map_err(JwtKeyError::Generate)?;
                self.store.write(snapshot, &made).await?;
                Ok(false)
            }
        }
    }

    fn install(&self, authority: JwtAuthority) {
        let same = |old: &Arc<JwtAuthority>| {
            old.jwks == authority.jwks && old.signer.public() == authority.signer.public()
        };
        if self.keys.current().as_ref().is_some_and(same) {
            return;
        }
        tracing::info!(target: LOG, kid = authority.signer.kid(),
            algorithm = authority.signer.algorithm().name(), "JWT key in use");
        self.keys.current.store(Some(Arc::new(authority)));
        self.ready.set_ready();
    }
}
