//! Keeps the Services of apps, while this replica leads.
//!
//! One loop: watches fill the [`Desk`], the loop takes what is due, plans, and writes. It is woken
//! by changes and by a timer, and does the same for both.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt as _, future::join_all, stream};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kube::{core::DynamicObject, runtime::watcher::Event};
use runtime::{Scope, clock, kubernetes::api_text, random};
use tokio::sync::{Notify, watch};

use crate::{
    cache::Key,
    cluster::Cluster,
    desk::{Decision, Desk},
    follow::{Seen, follow},
    leader,
    metrics::Metrics,
    report::{Reason, Reports},
    service::Plan,
    workload::{Workload, WorkloadKind},
};

/// All Services are looked at once in this time, whatever the watches said.
const RESYNC: Duration = Duration::from_mins(5);
/// Writes under way at once.
const PARALLEL: usize = 16;
/// Codes of the API server after which only a change of the workload helps.
const REFUSED: [u16; 2] = [400, 422];

/// The Service reconciler.
pub struct Reconciler {
    cluster: Cluster,
    reports: Reports,
    metrics: Metrics,
    kinds: Vec<WorkloadKind>,
    desk: Mutex<Desk>,
    woken: Notify,
}

impl Reconciler {
    /// A reconciler for these kinds of workloads.
    pub fn new(
        cluster: Cluster,
        reports: Reports,
        metrics: Metrics,
        kinds: Vec<WorkloadKind>,
    ) -> Self {
        Self { cluster, reports, metrics, kinds, desk: Mutex::default(), woken: Notify::new() }
    }

    /// The cluster it works on.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Works whenever `leading` is true, until the scope ends. Between two terms everything is
    /// forgotten and listed anew.
    ///
    /// # Errors
    /// None today; the type is what [`Scope::spawn`] takes.
    pub async fn run(
        self: Arc<Self>,
        leading: watch::Receiver<bool>,
        scope: Scope,
    ) -> anyhow::Result<()> {
        let terms = leader::while_leading(leading, || self.work());
        scope.token().run_until_cancelled(terms).await;
        Ok(())
    }

    async fn work(&self) {
        *self.desk() = Desk::default();
        let kinds = self.kinds.clone();
        let services_listed = Notify::new();
        let workloads = async {
            services_listed.notified().await;
            join_all(kinds.into_iter().map(|kind| self.follow_workloads(kind))).await;
        };
        tokio::join!(workloads, self.follow_services(&services_listed), self.keep());
    }

    async fn follow_workloads(&self, kind: WorkloadKind) {
        let reduce =
            move |object: DynamicObject| (Key::of(&object.metadata), Workload::of(kind, &object));
        let open = || self.cluster.watch_workloads(kind, reduce);
        let (_, _, name, _) = kind.names();
        follow(name, &self.metrics, open, |seen| {
            self.take(seen, |desk, event, now| desk.workload(kind, event, now));
        })
        .await;
    }

    async fn follow_services(&self, listed: &Notify) {
        let open = || self.cluster.watch_reduced(strip);
        follow("Service", &self.metrics, open, |seen| {
            let complete = matches!(seen, Seen::Event(Event::InitDone));
            self.take(seen, Desk::service);
            if complete {
                listed.notify_one();
            }
        })
        .await;
    }

    fn take<T>(&self, seen: Seen<T>, put: impl Fn(&mut Desk, Event<T>, Instant)) {
        let now = clock::monotonic();
        let mut desk = self.desk();
        match seen {
            Seen::Event(event) => put(&mut desk, event, now),
            // Rollouts are a custom resource; while it is not installed there are none.
            Seen::NoSuchKind => {
                put(&mut desk, Event::Init, now);
                put(&mut desk, Event::InitDone, now);
            }
        }
        drop(desk);
        self.woken.notify_one();
    }

    async fn keep(&self) {
        let mut resync = tokio::time::interval(RESYNC);
        loop {
            let due = {
                let mut desk = self.desk();
                if desk.is_complete(&self.kinds) {
                    desk.take_due(clock::monotonic())
                } else {
                    Vec::new()
                }
            };
            stream::iter(due).for_each_concurrent(PARALLEL, |key| self.look_at(key)).await;
            let pause = self.pause();
            tokio::select! {
                () = self.woken.notified() => {}
                () = tokio::time::sleep(pause) => {}
                _ = resync.tick() => self.desk().all_due(clock::monotonic()),
            }
        }
    }

    fn pause(&self) -> Duration {
        let desk = self.desk();
        let until = |at: Instant| at.saturating_duration_since(clock::monotonic());
        // While lists are incomplete, what is due waits for them and not for the clock.
        if desk.is_complete(&self.kinds) { desk.next_due().map_or(RESYNC, until) } else { RESYNC }
    }

    async fn look_at(&self, key: Key) {
        let decision = self.desk().decide(&key);
        self.tell(&key, &decision);
        match self.carry_out(&key, &decision).await {
            Ok(()) => self.desk().done(&key),
            Err(error) => self.failed(key, &decision, &error),
        }
    }

    /// Says what is wrong on the objects that cause it.
    fn tell(&self, key: &Key, decision: &Decision) {
        let service = &key.name;
        if let (Some(winner), Some(invalid)) = (&decision.winner, &decision.invalid) {
            tracing::error!(target: "dapr.operator.handlers", namespace = key.namespace,
                workload = winner.key.name, "no Service: {invalid}");
            self.reports.warn(reference(winner), Reason::InvalidAnnotation, invalid.to_string());
        }
        for loser in &decision.losers {
            let winner = decision.winner.as_ref().map_or("", |winner| winner.key.name.as_str());
            let note = format!("Service {service} belongs to {winner}, which has the same app id");
            self.reports.warn(reference(loser), Reason::DuplicateAppId, note);
        }
        if let (Plan::Foreign, Some(winner)) = (&decision.plan, &decision.winner) {
            let note =
                format!("Service {service} exists and was not made by Dapr; it is left alone");
            self.reports.warn(reference(winner), Reason::ServiceConflict, note);
        }
    }

    async fn carry_out(&self, key: &Key, decision: &Decision) -> kube::Result<()> {
        let app_id = key.name.strip_suffix("-dapr").unwrap_or(&key.name);
        match &decision.plan {
            Plan::Keep | Plan::Foreign => return Ok(()),
            Plan::Create(service) => {
                self.cluster.create_service(service).await?;
                self.metrics.service_created(app_id);
            }
            Plan::Update(service) => {
                self.cluster.replace_service(service).await?;
                self.metrics.service_updated(app_id);
            }
            Plan::Delete(uid) => {
                self.cluster.delete_service(key, uid).await?;
                self.metrics.service_deleted(app_id);
            }
        }
        tracing::info!(target: "dapr.operator.handlers", namespace = key.namespace,
            service = key.name, "Service is as planned");
        Ok(())
    }

    fn failed(&self, key: Key, decision: &Decision, error: &kube::Error) {
        let text = api_text(error);
        tracing::warn!(target: "dapr.operator.handlers", namespace = key.namespace,
            service = key.name, "Service was not written, trying again: {text}");
        let refused = matches!(error, kube::Error::Api(status) if REFUSED.contains(&status.code));
        if let (true, Some(winner)) = (refused, &decision.winner) {
            self.reports.warn(reference(winner), Reason::InvalidAnnotation, text);
        }
        self.desk().failed(key, clock::monotonic(), random::fraction());
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Only what plans look at is kept.
fn strip(mut service: Service) -> Service {
    service.metadata.managed_fields = None;
    service.status = None;
    service
}

fn reference(workload: &Workload) -> ObjectReference {
    let (group, version, kind, _) = workload.key.kind.names();
    ObjectReference {
        api_version: Some(format!("{group}/{version}")),
        kind: Some(kind.to_owned()),
        name: Some(workload.key.name.clone()),
        namespace: Some(workload.key.namespace.clone()),
        uid: Some(workload.uid.clone()),
        ..ObjectReference::default()
    }
}
