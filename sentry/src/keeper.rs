//! Keeps the CA in memory equal to the stored one: makes it when there is none, follows changes,
//! replaces it in time, and keeps the former one when the new one is unusable.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::{Stream, StreamExt as _};
use identity::stored::{self, BundleRefused, Plan, Published};
use identity::{Bundle, BundlePem, GenerateOptions, KeyKind, SpiffeId, TrustAnchors, TrustDomain};
use jiff::Timestamp;
use runtime::{clock, random};
use tokio_util::sync::CancellationToken;

use crate::authority::Authority;
use crate::bundle_objects::{ObjectsError, is_conflict};
use crate::bundle_record::Change;
use crate::config::Config;
use crate::events::{Events, Reason};
use crate::metrics::Metrics;
use crate::rotation::Followers;
use crate::store::Store;

/// The stored CA is read at least this often, because a watch may be forbidden or lose an event.
const SLOW_POLL: Duration = Duration::from_secs(30);
/// As long as something is wrong.
const RETRY: Duration = Duration::from_secs(2);
/// One change of several files or objects comes as several events.
const SETTLE: Duration = Duration::from_millis(200);
/// Replicas that start together write at the same time; each conflict means another one made it.
const MAX_CONFLICTS: u32 = 10;
/// An API server that says nothing for so long is asked again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How sentry makes and replaces a CA of its own.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The control plane's trust domain: the name of the root.
    pub trust_domain: TrustDomain,
    /// The control plane's namespace.
    pub namespace: String,
    /// The kind of the keys.
    pub key_kind: KeyKind,
    /// How long root and issuer live.
    pub lifetime: Duration,
    /// Percent of the CA's life at whose rest it is replaced; 0 means never.
    pub rotate_at: u8,
    /// How long the old root stays trusted at least after the new one signs.
    pub keep_retired: Duration,
}

impl From<&Config> for Policy {
    fn from(config: &Config) -> Self {
        Self {
            trust_domain: config.trust_domain.clone(),
            namespace: config.namespace.clone(),
            key_kind: config.ca_key_kind,
            lifetime: config.ca_lifetime,
            rotate_at: config.ca_rotate_at,
            keep_retired: config.ca_keep_retired,
        }
    }
}

/// The owner of the CA in memory.
pub struct Keeper {
    pub(crate) store: Store,
    pub(crate) authority: Authority,
    pub(crate) metrics: Metrics,
    pub(crate) events: Events,
    pub(crate) policy: Policy,
    /// The last count, and when it was made.
    pub(crate) counted: Option<(Timestamp, Followers)>,
    /// Whether the CA in memory is sentry's own work.
    ours: bool,
    /// What was said last of each kind, so that it is said once.
    told: BTreeMap<Reason, String>,
    /// The steps of expiry that issuer and root have reached.
    warned: [Option<u8>; 2],
}

impl Keeper {
    /// A keeper that has looked at nothing yet.
    pub(crate) fn new(
        store: Store,
        authority: Authority,
        metrics: Metrics,
        policy: Policy,
    ) -> Self {
        let events = store.events();
        let (told, warned) = (BTreeMap::new(), [None, None]);
        Self { store, authority, metrics, events, policy, counted: None, ours: false, told, warned }
    }

    /// Brings memory and store together once.
    ///
    /// # Errors
    /// The stored CA is unusable or the store cannot be reached; the CA in memory stays.
    pub async fn reconcile(&mut self) -> anyhow::Result<()> {
        for _ in 0..MAX_CONFLICTS {
            match self.attempt(clock::now()).await {
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

    /// One look at the store and one write at most; `false` asks for another look, after a write.
    pub(crate) async fn attempt(&mut self, now: Timestamp) -> anyhow::Result<bool> {
        let read = self.store.read().await?;
        match stored::plan(&read.stored, &read.published, now) {
            Ok(Plan::Use { bundle, publish }) => {
                self.ours = read.is_ours();
                let bundle = self.put(*bundle).await;
                if publish {
                    tracing::info!(target: "dapr.sentry.ca", "the ConfigMap does not hold the trust anchors of the Secret; writing them");
                    self.store.publish(read).await?;
                    return Ok(false);
                }
                self.advance(now, Some(&bundle), read).await
            }
            Ok(Plan::Generate) if self.authority.current().is_some() => {
                Err(BundleRefused::Vanished.into())
            }
            Ok(Plan::Generate) => {
                tracing::info!(target: "dapr.sentry.ca", "Root and issuer certs not found: generating self signed CA");
                let change = Change::at_rest(self.generate(now)?);
                self.store.write(read, &change).await?;
                self.metrics.ca_generated();
                self.events.record(Reason::Generated, "there was no CA; sentry made one").await;
                Ok(false)
            }
            Err(BundleRefused::SecretLost) if let Some(ca) = self.published_ca(&read.published) => {
                let change = Change { ours: self.ours, ..Change::at_rest(ca) };
                self.store.write(read, &change).await?;
                self.say(Reason::Updated, "the Secret was emptied; sentry wrote back the CA that it uses and that the ConfigMap publishes").await;
                Ok(false)
            }
            // An expired CA can still give way to the one that is stored beside it.
            Err(BundleRefused::Invalid(_)) if self.can_go_on(now, &read) => {
                self.advance(now, None, read).await
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The CA in memory, if its anchors are the published ones: somebody emptied the Secret alone.
    fn published_ca(&self, published: &Published) -> Option<BundlePem> {
        let Published::ConfigMap(Some(text)) = published else { return None };
        let current = self.authority.current()?;
        let anchors = TrustAnchors::parse_pem(text.as_bytes()).ok()?;
        (anchors == *current.anchors()).then(|| current.to_pem())
    }

    fn generate(&self, now: Timestamp) -> anyhow::Result<BundlePem> {
        let (_, pem) = Bundle::generate(&self.options()?, now).context("make a CA")?;
        Ok(pem)
    }

    /// How a CA of sentry's own is made.
    pub(crate) fn options(&self) -> anyhow::Result<GenerateOptions<'_>> {
        let Policy { trust_domain, namespace, key_kind, lifetime, .. } = &self.policy;
        let name =
            SpiffeId::new(trust_domain, namespace, "dapr-sentry").context("name the issuer")?;
        Ok(GenerateOptions {
            trust_domain,
            issuer_name: name.to_string(),
            clock_skew: self.authority.settings().clock_skew,
            key_kind: *key_kind,
            lifetime: *lifetime,
        })
    }

    /// Puts a CA in place if it is another one.
    async fn put(&mut self, bundle: Bundle) -> Arc<Bundle> {
        let former = self.authority.current();
        let same = |old: &&Arc<Bundle>| {
            old.anchors() == bundle.anchors() && old.issuer() == bundle.issuer()
        };
        if let Some(same) = former.as_ref().filter(same) {
            return same.clone();
        }
        tracing::info!(target: "dapr.sentry.ca", issuer_expires = %bundle.issuer().not_after(), ours = self.ours,
            "Root and issuer certs found: using credentials from store");
        self.metrics.ca_in_place(&bundle, clock::now(), former.is_some());
        let bundle = Arc::new(bundle);
        self.authority.replace(bundle.clone());
        if former.is_some() && !self.ours {
            let text =
                format!("another CA is in use; its issuer ends {}", bundle.issuer().not_after());
            self.events.record(Reason::Updated, &text).await;
        }
        bundle
    }

    /// Reconciles at every change and from time to time, until cancelled.
    ///
    /// # Errors
    /// The store cannot be watched.
    pub async fn run(mut self, token: CancellationToken) -> anyhow::Result<()> {
        let mut changes = pin!(self.store.changes()?);
        let work = async {
            loop {
                let outcome = tokio::time::timeout(PATIENCE, Box::pin(self.reconcile())).await;
                let pause = match outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer"))) {
                    Ok(()) => {
                        self.metrics.bundle_refused(false);
                        self.told.remove(&Reason::UpdateSkipped);
                        SLOW_POLL.min(self.authority.settings().ttl / 4).max(RETRY)
                    }
                    Err(e) => {
                        self.failed(&e).await;
                        random::jittered(RETRY, 0.2)
                    }
                };
                self.warn_of_expiry().await;
                wait(&mut changes, pause).await;
            }
        };
        token.run_until_cancelled(work).await;
        Ok(())
    }

    /// Says that the issuer or its root nears its end, once per step.
    async fn warn_of_expiry(&mut self) {
        let (Some(bundle), now) = (self.authority.current(), clock::now()) else { return };
        let issuer = (bundle.issuer().not_before(), bundle.issuer().not_after());
        for (at, (name, validity)) in
            [("issuer", Some(issuer)), ("root", bundle.root(now))].into_iter().enumerate()
        {
            // A root that ended leads nowhere; the issuer, which ends no later, speaks for it.
            let Some((start, end)) = validity else { continue };
            let due = identity::expiry_step(start, end, now);
            self.metrics.expiry_warning(name, due);
            let Some(warned) = self.warned.get_mut(at) else { continue };
            let before = std::mem::replace(warned, due);
            if let Some(percent) = due.filter(|_| due != before) {
                let text = format!(
                    "the {name} certificate has less than {percent} % of its life left and ends {end}; renew it before"
                );
                tracing::warn!(target: "dapr.sentry.ca", "{text}");
                self.events.record(Reason::Expiring, &text).await;
            }
        }
    }

    /// Says what is wrong, once per cause.
    async fn failed(&mut self, e: &anyhow::Error) {
        let missing = matches!(e.downcast_ref(), Some(ObjectsError::Missing(_)));
        let refused = missing || e.is::<BundleRefused>();
        self.metrics.bundle_refused(refused);
        let consequence = match self.authority.current() {
            Some(_) => "sentry goes on with the CA it has",
            None => "sentry is not ready",
        };
        let text = format!("{e:#}; {consequence}");
        if self.told.get(&Reason::UpdateSkipped) == Some(&text) {
            return;
        }
        tracing::error!(target: "dapr.sentry.ca", "{text}");
        if refused {
            self.events.record(Reason::UpdateSkipped, &text).await;
        }
        self.told.insert(Reason::UpdateSkipped, text);
    }

    /// Says something in log and Event, unless it was the last thing said of its kind.
    pub(crate) async fn say(&mut self, reason: Reason, text: &str) {
        if self.told.get(&reason).is_some_and(|told| told == text) {
            return;
        }
        if reason == Reason::RotationRefused {
            tracing::error!(target: "dapr.sentry.ca", "{text}");
        } else {
            tracing::info!(target: "dapr.sentry.ca", "{text}");
        }
        self.events.record(reason, text).await;
        self.told.insert(reason, text.to_owned());
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

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
