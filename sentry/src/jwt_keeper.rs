//! Keeps the JWT key in memory equal to the stored one: makes it when there is none, follows
//! changes, and keeps the former one when the new one is unusable.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwapOption;
use runtime::{ReadyGuard, Scope};
use transport::file_watch::FileWatch;

use crate::bundle_objects::is_conflict;
use crate::config::JwtConfig;
use crate::jwt_plan::{self, JwtAuthority, JwtPlan};
use crate::jwt_store::JwtStore;

/// What is stored is read at least this often.
const SLOW_POLL: Duration = Duration::from_secs(30);
/// As long as something is wrong.
const RETRY: Duration = Duration::from_secs(2);
/// Replicas that start together write at the same time; each conflict means another one made it.
const MAX_CONFLICTS: u32 = 10;

const TARGET: &str = "dapr.sentry.ca.jwt";

/// Who signs tokens at the moment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JwtKeys {
    /// How tokens are made.
    pub config: Arc<JwtConfig>,
    current: Arc<ArcSwapOption<JwtAuthority>>,
}

impl JwtKeys {
    /// The key of the moment, once there is one.
    pub fn current(&self) -> Option<Arc<JwtAuthority>> {
        self.current.load_full()
    }
}

/// Loads or makes the key and follows it for as long as the scope lives. Health target:
/// `sentry-jwt`.
///
/// # Errors
/// Key and key set are files and unusable. In a cluster that is no error: sentry stays up, not
/// ready, and says why.
pub async fn start(config: JwtConfig, store: JwtStore, scope: &Scope) -> anyhow::Result<JwtKeys> {
    let ready = scope.ready("sentry-jwt");
    let keys = JwtKeys { config: Arc::new(config), current: Arc::default() };
    let watch = store.watch()?;
    let keeper = Keeper { keys: keys.clone(), store, ready };
    if keeper.store.is_files() {
        keeper.reconcile().await?;
    }
    let token = scope.token().clone();
    scope.spawn("jwt-keeper", async move {
        token.run_until_cancelled(keeper.run(watch)).await;
        Ok(())
    });
    Ok(keys)
}

struct Keeper {
    keys: JwtKeys,
    store: JwtStore,
    ready: ReadyGuard,
}

impl Keeper {
    async fn run(self, mut watch: Option<FileWatch>) {
        let mut told = String::new();
        loop {
            let pause = match self.reconcile().await {
                Ok(()) => {
                    told.clear();
                    SLOW_POLL
                }
                Err(e) => {
                    let text = format!("{e:#}");
                    if text != told {
                        let rest = if self.keys.current().is_some() {
                            "the former JWT key stays in use"
                        } else {
                            "sentry is not ready"
                        };
                        tracing::error!(target: TARGET, "{text}; {rest}");
                        told = text;
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

    async fn reconcile(&self) -> anyhow::Result<()> {
        for _ in 0..MAX_CONFLICTS {
            match self.attempt().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) if is_conflict(&e) => {}
                Err(e) => return Err(e),
            }
        }
        bail!("the JWT key is changed by others faster than it can be read")
    }

    /// One look at the store; `false` asks for another one, after something was written.
    async fn attempt(&self) -> anyhow::Result<bool> {
        let snapshot = self.store.read().await?;
        match jwt_plan::plan(&snapshot.stored, &self.keys.config)? {
            JwtPlan::Use(authority) => {
                self.put(*authority);
                let jwks = snapshot.stored.jwks.unwrap_or_default();
                self.store.publish(&jwks).await?;
                Ok(true)
            }
            JwtPlan::Generate if self.keys.current().is_some() => {
                bail!("the stored JWT key vanished; restore it")
            }
            JwtPlan::Generate => {
                tracing::info!(target: TARGET, "JWT key not found: generating one");
                let config = self.keys.config.clone();
                let made = tokio::task::spawn_blocking(move || jwt_plan::generate(&config));
                let made = made.await.context("make a JWT key")?.context("make a JWT key")?;
                self.store.save(snapshot, &made).await?;
                Ok(false)
            }
        }
    }

    fn put(&self, authority: JwtAuthority) {
        let same = |old: &Arc<JwtAuthority>| {
            old.jwks == authority.jwks && old.signer.public() == authority.signer.public()
        };
        if self.keys.current().as_ref().is_some_and(same) {
            return;
        }
        tracing::info!(target: TARGET, kid = authority.signer.kid(),
            algorithm = authority.signer.algorithm().name(), "JWT key in use");
        self.keys.current.store(Some(Arc::new(authority)));
        self.ready.set_ready();
    }
}
