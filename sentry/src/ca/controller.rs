//! Reconciles the CA in memory with the stored one: creates it when there is none, applies changes,
//! rotates it in time, and keeps the previous CA when the stored one is invalid.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use identity::stored::{self, Plan, Published, StoredCaError};
use identity::{
    Bundle, BundleError, BundlePem, GenerateOptions, KeyKind, SpiffeError, SpiffeId, TrustAnchors,
    TrustDomain,
};
use jiff::{SignedDuration, Timestamp};
use runtime::{clock, random};
use tokio_util::sync::CancellationToken;

use super::authority::Authority;
use super::cluster::events::{Events, Reason};
use super::record::ANNOTATION_ROTATE;
use super::store::{CaStore, StoredState};
use super::store_error::StoreError;
use crate::metrics::{Metrics, RotationGauges};
use crate::rotation::{
    self, Action, NextCa, Progress, RotationError, SecretUpdate, Stage, StaleSidecars, State, Step,
    Timing,
};

/// The store is read at least this often: a watch may be forbidden or miss an event.
const POLL_INTERVAL: Duration = Duration::from_secs(30);
/// Delay before a retry after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// One update of several files or objects causes several events.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Replicas that start together write concurrently; each conflict means that another one succeeded.
const MAX_CONFLICTS: u32 = 10;
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);
/// Sidecars are counted at most this often, because it lists all pods.
const COUNT_INTERVAL: Duration = Duration::from_mins(5);

const LOG: &str = "dapr.sentry.ca";

/// How sentry creates and rotates a CA of its own.
#[derive(Debug, Clone)]
pub(crate) struct CaPolicy {
    /// Trust domain of the control plane: the name of the root.
    pub(crate) trust_domain: TrustDomain,
    /// Namespace of the control plane.
    pub(crate) namespace: String,
    /// Kind of both keys.
    pub(crate) key_kind: KeyKind,
    /// Lifetime of root and issuer.
    pub(crate) lifetime: Duration,
    /// Remaining share of the CA's lifetime, in percent, at which a rotation begins; 0 disables it.
    pub(crate) rotate_at: u8,
    /// Minimum time for which the old root stays trusted after the new issuer starts to sign.
    pub(crate) keep_retired: Duration,
}

/// Why the CA was not reconciled. The CA in memory stays in use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CaError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored CA is invalid.
    #[error(transparent)]
    Stored(#[from] StoredCaError),
    /// A new CA could not be created.
    #[error("create a CA")]
    Create(#[source] BundleError),
    /// The issuer's name is not a SPIFFE id.
    #[error("name the issuer")]
    Name(#[source] SpiffeError),
    /// A rotation step failed.
    #[error(transparent)]
    Rotation(#[from] RotationError),
    /// Other clients changed the objects at each attempt.
    #[error("the trust bundle is changed by other clients faster than it can be read")]
    Contended,
    /// The store did not answer in time.
    #[error("read or write the trust bundle: timed out after {} s", RECONCILE_TIMEOUT.as_secs())]
    Timeout,
}

impl CaError {
    /// Whether another client changed an object since it was read.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(StoreError::Conflict(_)))
    }

    /// Whether the stored CA is the reason, and not the store.
    pub(crate) fn is_rejected(&self) -> bool {
        matches!(
            self,
            Self::Stored(_) | Self::Store(StoreError::Missing(_) | StoreError::NotText(_))
        )
    }
}

/// The outcome of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Store and memory agree.
    Done,
    /// The store was written and must be read again.
    Again,
}

/// Owns the CA in memory.
pub(crate) struct CaController<S> {
    store: S,
    pub(super) authority: Authority,
    metrics: Metrics,
    events: Events,
    policy: CaPolicy,
    /// The last count of stale sidecars, and when it was taken.
    counted: Option<(Timestamp, StaleSidecars)>,
    /// Whether sentry made the CA in memory.
    ours: bool,
    /// The last message of each kind, so that it is reported once.
    reported: BTreeMap<Reason, String>,
    /// The expiry steps that issuer and root have reached.
    expiry_steps: [Option<u8>; 2],
}

impl<S: CaStore> CaController<S> {
    /// A controller that has not read the store yet.
    pub(crate) fn new(store: S, authority: Authority, metrics: Metrics, policy: CaPolicy) -> Self {
        Self {
            events: store.events(),
            store,
            authority,
            metrics,
            policy,
            counted: None,
            ours: false,
            reported: BTreeMap::new(),
            expiry_steps: [None, None],
        }
    }

    /// Reconciles once.
    ///
    /// # Errors
    /// [`CaError`]; the CA in memory stays in use.
    pub(crate) async fn reconcile(&mut self) -> Result<(), CaError> {
        for _ in 0..MAX_CONFLICTS {
            match self.attempt(clock::now()).await {
                Ok(Attempt::Done) => return Ok(()),
                Ok(Attempt::Again) => {}
                Err(e) if e.is_conflict() => {
                    tracing::debug!(target: LOG, "{}; retrying", runtime::chain(&e));
                }
                Err(e) => return Err(e),
            }
        }
        Err(CaError::Contended)
    }

    /// One read of the store and at most one write.
    pub(super) async fn attempt(&mut self, now: Timestamp) -> Result<Attempt, CaError> {
        let read = self.store.read().await?;
        match stored::plan(&read.stored, &read.published, now) {
            Ok(Plan::Use { bundle, publish }) => {
                self.ours = read.is_ours();
                let bundle = self.install(*bundle).await;
                if publish {
                    tracing::info!(target: LOG, "the ConfigMap does not match the trust anchors of the Secret; publishing them");
                    self.store.publish(read).await?;
                    return Ok(Attempt::Again);
                }
                self.advance(now, Some(&bundle), read).await
            }
            Ok(Plan::Generate) if self.authority.current().is_some() => {
                Err(StoredCaError::Vanished.into())
            }
            Ok(Plan::Generate) => {
                tracing::info!(target: LOG, "Root and issuer certs not found: generating self signed CA");
                let update = SecretUpdate::idle(self.generate(now)?);
                self.store.write(read, &update).await?;
                self.metrics.ca_generated();
                self.events.record(Reason::Generated, "no CA was stored; sentry created one").await;
                Ok(Attempt::Again)
            }
            Err(StoredCaError::SecretLost { .. })
                if let Some(ca) = self.published_ca(&read.published) =>
            {
                let update = SecretUpdate { ours: self.ours, ..SecretUpdate::idle(ca) };
                self.store.write(read, &update).await?;
                self.report(Reason::Updated, "the Secret was emptied; sentry restored the CA in use, which the ConfigMap publishes").await;
                Ok(Attempt::Again)
            }
            // An expired CA can still be replaced by the next one.
            Err(StoredCaError::Invalid { .. }) if self.can_switch(now, &read) => {
                self.advance(now, None, read).await
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The CA in memory, if the `ConfigMap` publishes its trust anchors: only the Secret was
    /// emptied.
    fn published_ca(&self, published: &Published) -> Option<BundlePem> {
        let Published::ConfigMap(Some(text)) = published else { return None };
        let current = self.authority.current()?;
        let anchors = TrustAnchors::parse_pem(text.as_bytes()).ok()?;
        (anchors == *current.anchors()).then(|| current.to_pem())
    }

    fn generate(&self, now: Timestamp) -> Result<BundlePem, CaError> {
        let (_, pem) = Bundle::generate(&self.options()?, now).map_err(CaError::Create)?;
        Ok(pem)
    }

    fn options(&self) -> Result<GenerateOptions<'_>, CaError> {
        let CaPolicy { trust_domain, namespace, key_kind, lifetime, .. } = &self.policy;
        let name = SpiffeId::new(trust_domain, namespace, "dapr-sentry").map_err(CaError::Name)?;
        Ok(GenerateOptions {
            trust_domain,
            issuer_name: name.to_string(),
            clock_skew: self.authority.settings().clock_skew,
            key_kind: *key_kind,
            lifetime: *lifetime,
        })
    }

    /// Uses a CA, unless it is the current one.
    async fn install(&mut self, bundle: Bundle) -> Arc<Bundle> {
        let previous = self.authority.current();
        let same = |old: &&Arc<Bundle>| {
            old.anchors() == bundle.anchors() && old.issuer() == bundle.issuer()
        };
        if let Some(same) = previous.as_ref().filter(same) {
            return same.clone();
        }
        tracing::info!(target: LOG, issuer_expires = %bundle.issuer().not_after(), ours = self.ours,
            "Root and issuer certs found: using credentials from store");
        self.metrics.ca_installed(&bundle, clock::now(), previous.is_some());
        let bundle = Arc::new(bundle);
        self.authority.replace(bundle.clone());
        if previous.is_some() && !self.ours {
            let text = format!(
                "sentry uses another CA; its issuer expires {}",
                bundle.issuer().not_after()
            );
            self.events.record(Reason::Updated, &text).await;
        }
        bundle
    }

    /// Takes the next rotation step if it is due.
    async fn advance(
        &mut self,
        now: Timestamp,
        bundle: Option<&Bundle>,
        read: StoredState,
    ) -> Result<Attempt, CaError> {
        let sidecars = self.count_stale(now, &read).await;
        self.metrics.rotation(gauges(read.annotations.progress, sidecars));
        let state = rotation_state(now, bundle, &read, sidecars);
        let step = rotation::plan::plan(now, &state, &self.timing());
        let options = self.options()?;
        match rotation::execute(step, &state, &read.next, &options, ANNOTATION_ROTATE, now)? {
            Action::None => Ok(Attempt::Done),
            Action::Reject(text) => {
                self.report(Reason::RotationRefused, &text).await;
                Ok(Attempt::Done)
            }
            Action::Write(update, text) => {
                self.store.write(read, &update).await?;
                self.metrics.rotation(gauges(update.progress, StaleSidecars::Unknown));
                self.counted = None;
                self.report(Reason::Rotation, text).await;
                Ok(Attempt::Again)
            }
        }
    }

    /// Whether a stored CA that cannot sign any more has a next one that can.
    fn can_switch(&self, now: Timestamp, read: &StoredState) -> bool {
        let state = rotation_state(now, None, read, StaleSidecars::Unknown);
        rotation::plan::plan(now, &state, &self.timing()) == Step::Switch
    }

    fn timing(&self) -> Timing {
        let settings = self.authority.settings();
        Timing {
            ttl: settings.ttl,
            clock_skew: settings.clock_skew,
            rotate_at: self.policy.rotate_at,
            keep_retired: self.policy.keep_retired,
        }
    }

    /// The sidecars that do not trust the new root, counted during a rotation only.
    async fn count_stale(&mut self, now: Timestamp, read: &StoredState) -> StaleSidecars {
        let Some(progress) = read.annotations.progress else { return StaleSidecars::Unknown };
        let interval = COUNT_INTERVAL.min(self.authority.settings().ttl / 4);
        let interval = SignedDuration::try_from(interval).unwrap_or(SignedDuration::MAX);
        if let Some((at, sidecars)) = self.counted
            && now.duration_since(at).abs() < interval
        {
            return sidecars;
        }
        // The new root is the first anchor of the next CA, and later of the CA that signs.
        let anchors = match progress.stage {
            Stage::Distribute => read.next.anchors(),
            Stage::Sign => read.stored.anchors(),
        };
        let anchors = anchors.and_then(|text| TrustAnchors::parse_pem(text).ok());
        let sidecars = match anchors.as_ref().and_then(|anchors| anchors.certs().first()) {
            Some(root) => self.store.count_stale(root).await,
            None => StaleSidecars::Unknown,
        };
        self.counted = Some((now, sidecars));
        sidecars
    }

    /// Reconciles at each change and at least every 30 seconds, until `token` is cancelled.
    ///
    /// # Errors
    /// [`StoreError::Watch`] if the store cannot be watched.
    pub(crate) async fn run(mut self, token: CancellationToken) -> Result<(), StoreError> {
        let mut changes = pin!(self.store.changes()?);
        let work = async {
            loop {
                let outcome =
                    tokio::time::timeout(RECONCILE_TIMEOUT, Box::pin(self.reconcile())).await;
                let pause = match outcome.unwrap_or(Err(CaError::Timeout)) {
                    Ok(()) => {
                        self.metrics.bundle_rejected(false);
                        self.reported.remove(&Reason::UpdateSkipped);
                        POLL_INTERVAL.min(self.authority.settings().ttl / 4).max(RETRY)
                    }
                    Err(e) => {
                        self.report_failure(&e).await;
                        random::jittered(RETRY, 0.2)
                    }
                };
                self.report_expiry().await;
                wait(&mut changes, pause).await;
            }
        };
        token.run_until_cancelled(work).await;
        Ok(())
    }

    /// Reports that the issuer or its root expires soon, once per step.
    async fn report_expiry(&mut self) {
        let (Some(bundle), now) = (self.authority.current(), clock::now()) else { return };
        let issuer = (bundle.issuer().not_before(), bundle.issuer().not_after());
        for (at, (name, validity)) in
            [("issuer", Some(issuer)), ("root", bundle.root(now))].into_iter().enumerate()
        {
            // No issuer leads to an expired root. The issuer, which expires no later, is reported.
            let Some((start, end)) = validity else { continue };
            let step = identity::expiry_step(start, end, now);
            self.metrics.expiry_warning(name, step);
            let Some(reached) = self.expiry_steps.get_mut(at) else { continue };
            let before = std::mem::replace(reached, step);
            if let Some(percent) = step.filter(|_| step != before) {
                let text = format!(
                    "the {name} certificate has less than {percent} % of its lifetime left and expires {end}; renew it before"
                );
                tracing::warn!(target: LOG, "{text}");
                self.events.record(Reason::Expiring, &text).await;
            }
        }
    }

    /// Reports a failure, once per cause.
    pub(crate) async fn report_failure(&mut self, e: &CaError) {
        self.metrics.bundle_rejected(e.is_rejected());
        let consequence = match self.authority.current() {
            Some(_) => "sentry continues with the current CA",
            None => "sentry is not ready",
        };
        let text = format!("{}; {consequence}", runtime::chain(e));
        if self.reported.get(&Reason::UpdateSkipped) == Some(&text) {
            return;
        }
        tracing::error!(target: LOG, "{text}");
        if e.is_rejected() {
            self.events.record(Reason::UpdateSkipped, &text).await;
        }
        self.reported.insert(Reason::UpdateSkipped, text);
    }

    /// Reports a message in log and Event, unless it is the last one of its kind.
    async fn report(&mut self, reason: Reason, text: &str) {
        if self.reported.get(&reason).is_some_and(|last| last == text) {
            return;
        }
        if reason == Reason::RotationRefused {
            tracing::error!(target: LOG, "{text}");
        } else {
            tracing::info!(target: LOG, "{text}");
        }
        self.events.record(reason, text).await;
        self.reported.insert(reason, text.to_owned());
    }
}

/// Waits for a change, at most `pause`, and debounces further ones.
async fn wait(changes: &mut (impl Stream<Item = ()> + Unpin), pause: Duration) {
    match tokio::time::timeout(pause, changes.next()).await {
        Ok(Some(())) => {
            let burst = async { while changes.next().await.is_some() {} };
            // Times out, unless the stream has ended.
            let _ = tokio::time::timeout(DEBOUNCE, burst).await;
        }
        Ok(None) => tokio::time::sleep(pause).await,
        Err(_) => {}
    }
}

fn rotation_state<'a>(
    now: Timestamp,
    bundle: Option<&'a Bundle>,
    read: &StoredState,
    sidecars: StaleSidecars,
) -> State<'a> {
    State {
        bundle,
        source: read.stored.source(),
        ours: read.is_ours(),
        progress: read.annotations.progress,
        next: next_ca(now, &read.next),
        requested: read.annotations.requested,
        stale: sidecars,
    }
}

fn next_ca(now: Timestamp, stored: &stored::Stored) -> NextCa {
    if stored.parse(now).is_ok() {
        return NextCa::Ready;
    }
    match stored.validity().map(|(start, _)| start) {
        Some(start) if now < start && stored.parse(start).is_ok() => NextCa::NotYetValid,
        _ => NextCa::Missing,
    }
}

fn gauges(progress: Option<Progress>, sidecars: StaleSidecars) -> RotationGauges {
    let stage = progress.map(|progress| progress.stage);
    RotationGauges {
        stage: match stage {
            None => 0,
            Some(Stage::Distribute) => 1,
            Some(Stage::Sign) => 2,
        },
        stale: match (stage, sidecars) {
            (None, _) => 0,
            (_, StaleSidecars::Unknown) => -1,
            (_, StaleSidecars::Count(count)) => i64::try_from(count).unwrap_or(i64::MAX),
        },
    }
}

#[cfg(test)]
mod memory_store;
#[cfg(test)]
mod tests;
