//! Deletes pods that came up without their sidecar, so that their owners make them anew.
//!
//! ```text
//!  pods (metadata watch) ─► book: who may lack a sidecar, and of whom one more may be deleted
//!                             │ next
//!            pace (a minute's budget) ─► fetch ─► verdict ─► prove ─► delete
//! ```
//! Before anything is deleted it is proven that a new pod gets its sidecar: the API server is
//! offered a probe pod that is never stored. Never touched are pods without controller, mirror
//! pods, pods that have ended or are about to, pods that the injector left alone on purpose, and
//! pods that its webhook is not called for. State is kept in memory: a new leader starts afresh and
//! may delete three more pods of an owner that was given up.
pub mod book;
pub mod cluster;
pub mod pace;
pub mod verdict;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{core::DynamicObject, core::ObjectMeta, runtime::watcher::Event};
use resources::injection::{self, Selection};
use runtime::{Scope, clock, kubernetes};
use tokio::sync::{Notify, watch};

use self::{
    book::{Book, Next, Owner, Suspect},
    cluster::{Hands, Unproven},
    pace::Pace,
    verdict::{Verdict, verdict},
};
use crate::{
    cluster::Cluster,
    config::WatchInterval,
    leader,
    metrics::{Metrics, Pass},
    report::{Reason, Reports},
};

/// A pass that failed is made again after this time (Dapr 1.18).
const RETRY: Duration = Duration::from_secs(5);
/// A proof that injection works is good for so long; an injector may die in a long pass.
const PROOF: Duration = Duration::from_secs(10);

/// How the watchdog works.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// When it looks.
    pub interval: WatchInterval,
    /// Pods that it may delete a minute; 0 and less means any number.
    pub per_minute: i64,
    /// Whether it labels pods that have a sidecar without the injector's label.
    pub may_label: bool,
}

/// The watchdog of this replica; only the leader's works.
pub struct Watchdog {
    options: Options,
    hands: Hands,
    cluster: Cluster,
    reports: Reports,
    metrics: Metrics,
    book: Mutex<Book>,
    woken: Notify,
}

struct Proof {
    at: Instant,
    selection: Selection,
}

impl Watchdog {
    /// A watchdog that offers its probe pods in `namespace`.
    pub fn new(
        options: Options,
        cluster: Cluster,
        namespace: String,
        reports: Reports,
        metrics: Metrics,
    ) -> Self {
        let hands = Hands::new(cluster.client().clone(), namespace);
        let (book, woken) = (Mutex::default(), Notify::new());
        Self { options, hands, cluster, reports, metrics, book, woken }
    }

    /// Takes in what the watch of pods saw.
    pub fn observe(&self, event: &Event<ObjectMeta>) {
        self.book().apply(event, clock::monotonic());
        self.woken.notify_one();
    }

    /// Works whenever `leading` is true, until the scope ends. `pods` turns true when all pods are
    /// known.
    ///
    /// # Errors
    /// None today; the type is what [`Scope::spawn`] takes.
    pub async fn run(
        self: Arc<Self>,
        leading: watch::Receiver<bool>,
        mut pods: watch::Receiver<crate::store::Sync>,
        scope: Scope,
    ) -> anyhow::Result<()> {
        let work = async {
            // The watch of pods ends with the process only.
            let _ = pods.wait_for(|sync| *sync != crate::store::Sync::Starting).await;
            leader::while_leading(leading, || self.work()).await;
        };
        scope.token().run_until_cancelled(work).await;
        Ok(())
    }

    async fn work(&self) {
        let mut pace = Pace::per_minute(self.options.per_minute);
        let mut last = None;
        loop {
            let outcome = self.pass(&mut pace).await;
            self.metrics.watchdog_passed(Pass::of(outcome.is_ok()));
            let pause = match (&outcome, self.options.interval) {
                (Ok(()), WatchInterval::Every(interval)) => interval,
                (Err(_), WatchInterval::Every(interval)) => interval.min(RETRY),
                (Err(_), _) => RETRY,
                (Ok(()), _) => break,
            };
            let trouble = outcome.err().map(|error| runtime::chain(&error));
            if let Some(text) = trouble.as_ref().filter(|text| last.as_ref() != Some(*text)) {
                tracing::warn!(target: "dapr.operator.watchdog", "no pod is deleted: {text}");
            }
            last = trouble;
            tokio::time::sleep(pause).await;
        }
        tracing::info!(target: "dapr.operator.watchdog", "the one pass is done");
        std::future::pending::<()>().await;
    }

    /// Looks at every pod that may lack its sidecar.
    async fn pass(&self, pace: &mut Pace) -> Result<(), Unproven> {
        self.book().begin_pass();
        let mut proof = None;
        loop {
            self.tell_given_up().await;
            let now = clock::monotonic();
            let next = self.book().next(now);
            match next {
                Next::Nothing => return Ok(()),
                Next::Wait(until) => {
                    let pause = until.saturating_duration_since(now);
                    let _ = tokio::time::timeout(pause, self.woken.notified()).await;
                }
                Next::Look(pod) => {
                    tokio::time::sleep(pace.pause(now)).await;
                    self.look_at(&pod, pace, &mut proof).await?;
                }
            }
        }
    }

    async fn look_at(
        &self,
        pod: &Suspect,
        pace: &mut Pace,
        proof: &mut Option<Proof>,
    ) -> Result<(), Unproven> {
        let fetched = match self.hands.pod(&pod.key).await {
            Ok(Some(fetched)) => fetched,
            Ok(None) => return self.put_off(pod, None),
            Err(said) => return self.put_off(pod, Some(&said)),
        };
        match verdict(&fetched, &pod.uid) {
            Verdict::Gone => self.put_off(pod, None),
            Verdict::Finished => {
                self.book().cleared(pod);
                Ok(())
            }
            Verdict::HasSidecar => {
                self.book().cleared(pod);
                if self.options.may_label
                    && let Err(said) = self.hands.label(&pod.key).await
                {
                    tracing::warn!(target: "dapr.operator.watchdog", namespace = pod.key.namespace,
                        pod = pod.key.name, "pod was not labelled: {said}");
                }
                Ok(())
            }
            Verdict::Naked => {
                let fresh = proof.take().filter(|proof| proof.at.elapsed() < PROOF);
                let current = match fresh {
                    Some(proof) => proof,
                    None => Proof { selection: self.hands.prove().await?, at: clock::monotonic() },
                };
                let covered = self.covered(&current.selection, &fetched).await;
                *proof = Some(current);
                match covered {
                    Ok(true) => self.delete(pod, &fetched, pace).await,
                    Ok(false) => self.put_off(pod, None),
                    Err(said) => self.put_off(pod, Some(&said)),
                }
            }
        }
    }

    /// Whether the injector is called for a new pod like this one.
    async fn covered(&self, selection: &Selection, pod: &DynamicObject) -> Result<bool, String> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let labels = if selection.needs_namespace() {
            self.hands.namespace_labels(namespace).await?
        } else {
            [(injection::NAMESPACE_NAME.to_owned(), namespace.to_owned())].into()
        };
        Ok(selection.covers(&labels, pod.metadata.labels.as_ref()))
    }

    async fn delete(
        &self,
        pod: &Suspect,
        fetched: &DynamicObject,
        pace: &mut Pace,
    ) -> Result<(), Unproven> {
        // Before the call: the replacement may be seen before the call returns.
        self.book().deleted(pod, clock::monotonic());
        if let Err(said) = self.hands.delete(fetched).await {
            self.book().not_deleted(pod);
            return self.put_off(pod, Some(&said));
        }
        pace.spend(clock::monotonic());
        self.metrics.watchdog_deleted();
        let (namespace, name) = (&pod.key.namespace, &pod.key.name);
        tracing::info!(target: "dapr.operator.watchdog", namespace, pod = name, "Deleted pod {namespace}/{name}");
        let note = format!(
            "pod {name} came up without its Dapr sidecar and was deleted, so that a new one gets it"
        );
        self.reports.warn(reference(&pod.owner), Reason::SidecarMissing, note);
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the answer of its callers")]
    fn put_off(&self, pod: &Suspect, why: Option<&str>) -> Result<(), Unproven> {
        if let Some(why) = why {
            tracing::warn!(target: "dapr.operator.watchdog", namespace = pod.key.namespace,
                pod = pod.key.name, "pod without sidecar is left for the next pass: {why}");
        }
        self.book().put_off(pod);
        Ok(())
    }

    /// Says on the owner that nothing more is done about its pods.
    async fn tell_given_up(&self) {
        let (given_up, total, suspects) = {
            let mut book = self.book();
            (book.take_given_up(), book.given_up(), book.suspects())
        };
        self.metrics.watchdog_sees(suspects, total);
        for owner in given_up {
            let note = "its pods came up without their Dapr sidecar three times in a row although the \
                injector works; they are left as they are. Look for another webhook that removes the \
                container, or for warnings about annotations dapr.io/*";
            let owner = reference(&owner);
            tracing::error!(target: "dapr.operator.watchdog", namespace = owner.namespace,
                kind = owner.kind, name = owner.name, "{note}");
            if let Err(error) =
                self.cluster.warn(&owner, Reason::SidecarStillMissing.text(), note).await
            {
                let error = kubernetes::api_text(&error);
                tracing::debug!(target: "dapr.operator.watchdog", "event was not recorded: {error}");
            }
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reference(owner: &Owner) -> ObjectReference {
    ObjectReference {
        api_version: Some(owner.reference.api_version.clone()),
        kind: Some(owner.reference.kind.clone()),
        name: Some(owner.reference.name.clone()),
        namespace: Some(owner.namespace.clone()),
        uid: Some(owner.reference.uid.clone()),
        ..ObjectReference::default()
    }
}
