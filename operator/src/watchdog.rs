//! Deletes pods that started without their sidecar, so that their controllers create new ones.
//!
//! ```text
//!  pods (metadata watch) ─► pod_tracker: candidates, at most one deletion per owner at a time
//!                              │ next
//!     rate_limiter (deletions per minute) ─► get pod ─► pod_state ─► verify injection ─► delete
//! ```
//! Start at [`Watchdog`]. A pod is deleted only after a probe pod, a dry run in the control plane's
//! namespace, received its sidecar, and only if its controller is of a kind that replaces it
//! ([`OwnerKinds`]): a Job, or an unknown controller, gets one Event instead. Never deleted are
//! pods without a controller, mirror pods, pods that are finished or terminating, pods that the
//! injector skipped intentionally, and pods that its webhook does not select. State is kept in
//! memory: after a change of leader up to three more pods of an owner are deleted before the
//! watchdog stops again.
pub(crate) mod cluster;
pub(crate) mod owner_kinds;
pub(crate) mod pod_state;
pub(crate) mod pod_tracker;
pub(crate) mod rate_limiter;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::{DynamicObject, ObjectMeta};
use kubernetes::WatchEvent;
use resources::injection::{self, Selection};
use runtime::clock;
use tokio::sync::{Notify, watch};

use self::cluster::{InjectionUnverified, PodClient};
pub(crate) use self::owner_kinds::{OwnerKinds, OwnerKindsError};
use self::pod_state::{PodState, classify};
use self::pod_tracker::{Candidate, NextStep, PodOwner, PodTracker};
use self::rate_limiter::RateLimiter;
use crate::cache::store::SyncState;
use crate::cluster::report::Reports;
use crate::cluster::{Cluster, leader};
use crate::metrics::{Metrics, Pass};

/// Delay before a failed pass is retried (Dapr 1.18).
const RETRY: Duration = Duration::from_secs(5);
/// How long a successful probe is trusted; the injector may fail during a long pass.
const VERIFIED_FOR: Duration = Duration::from_secs(10);

/// Reasons of the Events on the owners of pods.
const SIDECAR_MISSING: &str = "SidecarMissing";
const SIDECAR_STILL_MISSING: &str = "SidecarStillMissing";

/// When the watchdog checks for pods without sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchInterval {
    Off,
    /// Until one pass succeeds.
    Once,
    Every(Duration),
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) interval: WatchInterval,
    /// Pods deleted per minute; 0 or less means no limit.
    pub(crate) per_minute: i64,
    /// Whether pods that have a sidecar without the injector's label are labelled.
    pub(crate) may_label: bool,
    /// The controllers whose pods are deleted.
    pub(crate) owner_kinds: OwnerKinds,
}

/// The watchdog; it is active only while this replica is the leader.
pub(crate) struct Watchdog {
    options: Options,
    pod_client: PodClient,
    reports: Reports,
    metrics: Metrics,
    tracker: Mutex<PodTracker>,
    woken: Notify,
}

struct VerifiedInjection {
    at: Instant,
    selection: Selection,
}

impl Watchdog {
    /// `namespace` is the namespace of the probe pod.
    pub(crate) fn new(
        options: Options,
        cluster: &Cluster,
        namespace: String,
        reports: Reports,
        metrics: Metrics,
    ) -> Self {
        let pod_client = PodClient::new(cluster.client().clone(), namespace);
        let tracker = Mutex::new(PodTracker::new(options.owner_kinds.clone()));
        let woken = Notify::new();
        Self { options, pod_client, reports, metrics, tracker, woken }
    }

    /// Applies a watch event of a pod.
    pub(crate) fn observe(&self, event: &WatchEvent<ObjectMeta>) {
        self.tracker().apply(event, clock::monotonic());
        self.woken.notify_one();
    }

    /// Runs while `leading` is true. Starts after all pods have been listed. Cancel safe.
    pub(crate) async fn run(
        self: Arc<Self>,
        leading: watch::Receiver<bool>,
        mut pods: watch::Receiver<SyncState>,
    ) {
        // The watch of pods ends with the process.
        let _ = pods.wait_for(|sync| *sync != SyncState::Pending).await;
        leader::while_leading(leading, || self.run_term()).await;
    }

    async fn run_term(&self) {
        let mut limiter = RateLimiter::per_minute(self.options.per_minute);
        let mut last = None;
        loop {
            let outcome = self.pass(&mut limiter).await;
            self.metrics.watchdog_passed(Pass::of(outcome.is_ok()));
            let pause = match (&outcome, self.options.interval) {
                (Ok(()), WatchInterval::Every(interval)) => interval,
                (Err(_), WatchInterval::Every(interval)) => interval.min(RETRY),
                (Err(_), _) => RETRY,
                (Ok(()), _) => break,
            };
            let problem = outcome.err().map(|error| runtime::chain(&error));
            if let Some(text) = problem.as_ref().filter(|text| last.as_ref() != Some(*text)) {
                tracing::warn!(target: "dapr.operator.watchdog", "injection is not verified, deleting no pod: {text}");
            }
            last = problem;
            tokio::time::sleep(pause).await;
        }
        tracing::info!(target: "dapr.operator.watchdog", "completed the only pass");
        std::future::pending::<()>().await;
    }

    /// Checks every candidate once.
    async fn pass(&self, limiter: &mut RateLimiter) -> Result<(), InjectionUnverified> {
        self.tracker().begin_pass();
        let mut verified = None;
        loop {
            self.report_given_up().await;
            let now = clock::monotonic();
            let next = self.tracker().next(now);
            match next {
                NextStep::Done => return Ok(()),
                NextStep::Wait(until) => {
                    let pause = until.saturating_duration_since(now);
                    let _ = tokio::time::timeout(pause, self.woken.notified()).await;
                }
                NextStep::Check(pod) => {
                    tokio::time::sleep(limiter.pause(now)).await;
                    self.check_pod(&pod, limiter, &mut verified).await?;
                }
            }
        }
    }

    async fn check_pod(
        &self,
        pod: &Candidate,
        limiter: &mut RateLimiter,
        verified: &mut Option<VerifiedInjection>,
    ) -> Result<(), InjectionUnverified> {
        let fetched = match self.pod_client.pod(&pod.key).await {
            Ok(Some(fetched)) => fetched,
            Ok(None) => return self.skip_this_pass(pod, None),
            Err(error) => return self.skip_this_pass(pod, Some(&error)),
        };
        match classify(&fetched, &pod.uid) {
            PodState::Gone => self.skip_this_pass(pod, None),
            PodState::Finished => {
                self.tracker().cleared(pod);
                Ok(())
            }
            PodState::HasSidecar => {
                self.tracker().cleared(pod);
                if self.options.may_label
                    && let Err(error) = self.pod_client.label(&pod.key).await
                {
                    tracing::warn!(target: "dapr.operator.watchdog", namespace = pod.key.namespace,
                        pod = pod.key.name, "failed to label pod: {error}");
                }
                Ok(())
            }
            PodState::MissingSidecar => {
                let fresh = verified.take().filter(|verified| verified.at.elapsed() < VERIFIED_FOR);
                let current = match fresh {
                    Some(verified) => verified,
                    None => VerifiedInjection {
                        selection: self.pod_client.verify_injection().await?,
                        at: clock::monotonic(),
                    },
                };
                let covered = self.covered(&current.selection, &fetched).await;
                *verified = Some(current);
                match covered {
                    Ok(true) if pod.replaced => self.delete(pod, &fetched, limiter).await,
                    Ok(true) => {
                        self.leave(pod);
                        Ok(())
                    }
                    Ok(false) => self.skip_this_pass(pod, None),
                    Err(error) => self.skip_this_pass(pod, Some(&error)),
                }
            }
        }
    }

    /// Whether the injector's webhook selects a new pod like this one.
    async fn covered(&self, selection: &Selection, pod: &DynamicObject) -> Result<bool, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = if selection.needs_namespace() {
            self.pod_client.namespace_labels(namespace).await?
        } else {
            [(injection::NAMESPACE_NAME.to_owned(), namespace.to_owned())].into()
        };
        Ok(selection.covers(&labels, pod.metadata.labels.as_ref()))
    }

    async fn delete(
        &self,
        pod: &Candidate,
        fetched: &DynamicObject,
        limiter: &mut RateLimiter,
    ) -> Result<(), InjectionUnverified> {
        // Before the call: the replacement may be observed before the call returns.
        self.tracker().deleted(pod, clock::monotonic());
        if let Err(error) = self.pod_client.delete(fetched).await {
            self.tracker().not_deleted(pod);
            return self.skip_this_pass(pod, Some(&error));
        }
        limiter.acquire(clock::monotonic());
        self.metrics.watchdog_deleted();
        let (namespace, name) = (&pod.key.namespace, &pod.key.name);
        tracing::info!(target: "dapr.operator.watchdog", namespace, pod = name, "Deleted pod {namespace}/{name}");
        let note = format!(
            "deleted pod {name}, which started without its Dapr sidecar; its replacement will have one"
        );
        self.reports.warn(reference(&pod.owner), SIDECAR_MISSING, note);
        Ok(())
    }

    /// Records one Event on a controller that does not replace its pods.
    fn leave(&self, pod: &Candidate) {
        if !self.tracker().left_alone(pod) {
            return;
        }
        let (owner, name) = (&pod.owner.reference, &pod.key.name);
        let kind = OwnerKinds::name_of(owner);
        let note = format!(
            "pod {name} runs without its Dapr sidecar and is not deleted, because a {kind} may not \
             replace it without loss. Start its work again when it may be interrupted; if a {kind} \
             replaces its pods, add it to the chart value dapr_operator.watchdogOwnerKinds"
        );
        tracing::warn!(target: "dapr.operator.watchdog", namespace = pod.key.namespace,
            kind, name = owner.name, "{note}");
        self.reports.warn(reference(&pod.owner), SIDECAR_MISSING, note);
    }

    #[expect(clippy::unnecessary_wraps, reason = "callers return it")]
    fn skip_this_pass(
        &self,
        pod: &Candidate,
        why: Option<&str>,
    ) -> Result<(), InjectionUnverified> {
        if let Some(why) = why {
            tracing::warn!(target: "dapr.operator.watchdog", namespace = pod.key.namespace,
                pod = pod.key.name, "skipping pod without sidecar until the next pass: {why}");
        }
        self.tracker().skip_this_pass(pod);
        Ok(())
    }

    /// Records an Event on each owner whose pods are no longer deleted.
    async fn report_given_up(&self) {
        let (given_up, total, candidates) = {
            let mut tracker = self.tracker();
            (tracker.take_given_up(), tracker.given_up(), tracker.candidates())
        };
        self.metrics.watchdog_state(candidates, total);
        for owner in given_up {
            let note = "replacement pods started without their Dapr sidecar three times in a row although \
                injection works; the watchdog deletes no more pods of this owner. Check for another \
                webhook that removes the container and for warnings about dapr.io/* annotations";
            let owner = reference(&owner);
            tracing::error!(target: "dapr.operator.watchdog", namespace = owner.namespace,
                kind = owner.kind, name = owner.name, "{note}");
            self.reports.record_always(&owner, SIDECAR_STILL_MISSING, note.to_owned()).await;
        }
    }

    fn tracker(&self) -> MutexGuard<'_, PodTracker> {
        self.tracker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reference(owner: &PodOwner) -> ObjectReference {
    ObjectReference {
        api_version: Some(owner.reference.api_version.clone()),
        kind: Some(owner.reference.kind.clone()),
        name: Some(owner.reference.name.clone()),
        namespace: Some(owner.namespace.clone()),
        uid: Some(owner.reference.uid.clone()),
        ..ObjectReference::default()
    }
}
