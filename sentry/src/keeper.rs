//! Keeps the CA in memory equal to the stored one: makes it when there is none, follows changes,
//! and keeps the former one when the new one is unusable.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{Stream, StreamExt as _};
use identity::{Bundle, BundlePem, GenerateOptions, KeyKind, SpiffeId, TrustDomain};
use runtime::clock;
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::bundle_files::BundleFiles;
use crate::bundle_objects::{BundleObjects, ObjectsError, Snapshot};
use crate::bundle_plan::{self, BundleRefused, Plan, Published, Stored};
use crate::expiry;
use crate::metrics::Metrics;

/// The stored CA is read at least this often, because a watch may be forbidden or lose an event.
const SLOW_POLL: Duration = Duration::from_secs(30);
/// As long as something is wrong.
const RETRY: Duration = Duration::from_secs(2);
/// One change of several files or objects comes as several events.
const SETTLE: Duration = Duration::from_millis(200);
/// Replicas that start together write at the same time; each conflict means another one made it.
const MAX_CONFLICTS: u32 = 10;

/// Where the CA is stored.
pub enum Store {
    /// In files.
    Files(BundleFiles),
    /// In a Secret, its anchors in a `ConfigMap` too.
    Objects(Box<BundleObjects>),
}

/// What was read from the store; `None` for files, which carry no version.
type Read = (Stored, Published, Option<Snapshot>);

impl Store {
    async fn read(&self) -> anyhow::Result<Read> {
        match self {
            Self::Files(files) => Ok((files.read()?, Published::Nowhere, None)),
            Self::Objects(objects) => {
                let snapshot = objects.read().await?;
                let published = objects.published(&snapshot);
                Ok((objects.stored(&snapshot), published, Some(snapshot)))
            }
        }
    }

    async fn save(&self, snapshot: Option<Snapshot>, pem: &BundlePem) -> anyhow::Result<()> {
        match (self, snapshot) {
            (Self::Objects(objects), Some(snapshot)) => Ok(objects.save(snapshot, pem).await?),
            (Self::Files(files), _) => files.save(pem),
            (Self::Objects(_), None) => bail!("the Secret was not read"),
        }
    }

    async fn publish(&self, snapshot: Option<Snapshot>, stored: &Stored) -> anyhow::Result<()> {
        if let (Self::Objects(objects), Some(snapshot), Some(anchors)) =
            (self, snapshot, stored.anchors())
        {
            let text = str::from_utf8(anchors).context("read the trust anchors as text")?;
            objects.publish(snapshot, text).await?;
        }
        Ok(())
    }

    fn changes(&self) -> anyhow::Result<futures::stream::BoxStream<'static, ()>> {
        Ok(match self {
            Self::Files(files) => files.changes()?.boxed(),
            Self::Objects(objects) => objects.changes().boxed(),
        })
    }
}

/// The owner of the CA in memory.
pub struct Keeper {
    /// Where the CA is stored.
    pub store: Store,
    /// Who signs with it.
    pub authority: Authority,
    /// What is counted.
    pub metrics: Metrics,
    /// The control plane's trust domain, the name of a CA made here.
    pub trust_domain: TrustDomain,
    /// The control plane's namespace.
    pub namespace: String,
    /// The keys of a CA made here.
    pub key_kind: KeyKind,
}

impl Keeper {
    /// Brings memory and store together once.
    ///
    /// # Errors
    /// The stored CA is unusable or the store cannot be reached; the CA in memory stays.
    pub async fn reconcile(&self) -> anyhow::Result<()> {
        for _ in 0..MAX_CONFLICTS {
            match self.attempt().await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) if is_conflict(&e) => {
                    tracing::debug!(target: "dapr.sentry.ca", "{e:#}; reading again");
                }
                Err(e) => return Err(e),
            }
        }
        bail!("the trust bundle is changed by others faster than it can be read")
    }

    /// One look at the store; `false` asks for another one, after something was written.
    async fn attempt(&self) -> anyhow::Result<bool> {
        let (stored, published, snapshot) = self.store.read().await?;
        match bundle_plan::plan(&stored, &published, clock::now())? {
            Plan::Use { bundle, publish } => {
                self.put(*bundle, "Root and issuer certs found: using credentials from store");
                if publish {
                    tracing::warn!(target: "dapr.sentry.ca", "the ConfigMap does not hold the trust anchors of the Secret; writing them");
                    self.store.publish(snapshot, &stored).await?;
                }
                Ok(true)
            }
            Plan::Generate if self.authority.current().is_some() => {
                bail!("the stored CA vanished; the CA in memory stays in use until it is restored")
            }
            Plan::Generate => {
                tracing::info!(target: "dapr.sentry.ca", "Root and issuer certs not found: generating self signed CA");
                self.store.save(snapshot, &self.generate()?).await?;
                self.metrics.ca_generated();
                Ok(false)
            }
        }
    }

    fn generate(&self) -> anyhow::Result<BundlePem> {
        let name = SpiffeId::new(&self.trust_domain, &self.namespace, "dapr-sentry")
            .context("name the issuer")?;
        let options = GenerateOptions {
            trust_domain: &self.trust_domain,
            issuer_name: name.to_string(),
            clock_skew: self.authority.settings().clock_skew,
            key_kind: self.key_kind,
            lifetime: identity::SELF_SIGNED_LIFETIME,
        };
        let (_, pem) = Bundle::generate(&options, clock::now()).context("make a CA")?;
        Ok(pem)
    }

    fn put(&self, bundle: Bundle, found: &str) {
        let current = self.authority.current();
        let same = |old: &Arc<Bundle>| {
            old.anchors() == bundle.anchors() && old.issuer() == bundle.issuer()
        };
        if current.as_ref().is_some_and(same) {
            return;
        }
        tracing::info!(target: "dapr.sentry.ca", issuer_expires = %bundle.issuer().not_after(), "{found}");
        self.metrics.ca_in_place(&bundle, current.is_some());
        self.authority.replace(Arc::new(bundle));
    }

    /// Reconciles at every change and from time to time, until cancelled.
    ///
    /// # Errors
    /// The store cannot be watched.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        let mut changes = pin!(self.store.changes()?);
        let mut told = String::new();
        let mut warned = [None, None];
        let work = async {
            loop {
                let pause = match self.reconcile().await {
                    Ok(()) => {
                        self.metrics.bundle_refused(false);
                        told.clear();
                        SLOW_POLL
                    }
                    Err(e) => {
                        self.failed(&e, &mut told);
                        RETRY
                    }
                };
                self.warn_of_expiry(&mut warned);
                wait(&mut changes, pause).await;
            }
        };
        token.run_until_cancelled(work).await;
        Ok(())
    }

    /// Says that the issuer or a root nears its end, once per step.
    fn warn_of_expiry(&self, warned: &mut [Option<u8>; 2]) {
        let Some(bundle) = self.authority.current() else { return };
        let issuer = bundle.issuer();
        let validities = [
            ("issuer certificate", Some((issuer.not_before(), issuer.not_after()))),
            ("root certificate", bundle.anchors().first_to_end()),
        ];
        for ((name, validity), warned) in validities.into_iter().zip(warned) {
            let Some((start, end)) = validity else { continue };
            let due = expiry::step(start, end, clock::now());
            if let Some(percent) = due.filter(|_| due != *warned) {
                tracing::warn!(target: "dapr.sentry.ca", expires = %end,
                    "the {name} has less than {percent} % of its life left; renew it before it ends");
            }
            *warned = due;
        }
    }

    /// Says what is wrong, once per cause.
    fn failed(&self, e: &anyhow::Error, told: &mut String) {
        self.metrics.bundle_refused(e.is::<BundleRefused>());
        let text = format!("{e:#}");
        if text != *told {
            if self.authority.current().is_some() {
                tracing::error!(target: "dapr.sentry.ca", "{text}; sentry goes on with the CA it has");
            } else {
                tracing::error!(target: "dapr.sentry.ca", "{text}; sentry is not ready");
            }
            *told = text;
        }
    }
}

/// Waits for a change, at most `pause`, and lets a burst of changes settle.
async fn wait(changes: &mut (impl Stream<Item = ()> + Unpin), pause: Duration) {
    match tokio::time::timeout(pause, changes.next()).await {
        Ok(Some(())) => {
            let burst = async { while changes.next().await.is_some() {} };
            // It always times out, or the stream is at its end.
            let _ = tokio::time::timeout(SETTLE, burst).await;
        }
        Ok(None) => tokio::time::sleep(pause).await,
        Err(_) => {}
    }
}

fn is_conflict(e: &anyhow::Error) -> bool {
    matches!(e.downcast_ref(), Some(ObjectsError::Conflict(_)))
}
