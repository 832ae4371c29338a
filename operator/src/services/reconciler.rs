//! Reconciles the Services of apps while this replica is the leader.
//!
//! Watches fill the [`ServiceIndex`]. One loop pops the Services that are ready, plans and writes
//! them; a change and the resync timer take the same path.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ObjectReference, Service};
use kubernetes::{ObjectKey, WatchEvent, api_text};
use runtime::{clock, random};
use tokio::sync::{Notify, watch};

use crate::cluster::report::Reports;
use crate::cluster::watch::handle_events;
use crate::cluster::{Cluster, leader};
use crate::metrics::Metrics;
use crate::services::index::{Decision, ServiceIndex};
use crate::services::plan::Plan;
use crate::services::workload::{Workload, WorkloadKind};

/// Interval between reconciliations of all Services, independent of watch events.
const RESYNC: Duration = Duration::from_mins(5);
/// Concurrent writes.
const PARALLEL: usize = 16;
/// Status codes of the API server that only a change of the workload can resolve.
const REFUSED: [u16; 2] = [400, 422];

/// Reasons of the Events on workloads.
const INVALID_ANNOTATION: &str = "InvalidAnnotation";
const DUPLICATE_APP_ID: &str = "DuplicateAppId";
const SERVICE_CONFLICT: &str = "ServiceConflict";

/// Reconciles the Services of the configured kinds of workloads.
pub(crate) struct Reconciler {
    cluster: Cluster,
    reports: Reports,
    metrics: Metrics,
    kinds: Vec<WorkloadKind>,
    /// Whether sidecars use mTLS among each other.
    mtls: watch::Receiver<bool>,
    index: Mutex<ServiceIndex>,
    woken: Notify,
}

impl Reconciler {
    pub(crate) fn new(
        cluster: Cluster,
        reports: Reports,
        metrics: Metrics,
        kinds: Vec<WorkloadKind>,
        mtls: watch::Receiver<bool>,
    ) -> Self {
        Self {
            cluster,
            reports,
            metrics,
            kinds,
            mtls,
            index: Mutex::default(),
            woken: Notify::new(),
        }
    }

    /// Reconciles while `leading` is true. Each term starts with new lists. Dropping the future is
    /// safe.
    pub(crate) async fn run(self: Arc<Self>, leading: watch::Receiver<bool>) {
        leader::while_leading(leading, || self.run_term()).await;
    }

    async fn run_term(&self) {
        *self.index() = ServiceIndex::default();
        let kinds = self.kinds.clone();
        let services_listed = Notify::new();
        let workloads = async {
            services_listed.notified().await;
            join_all(kinds.into_iter().map(|kind| self.watch_workloads(kind))).await;
        };
        tokio::join!(workloads, self.watch_services(&services_listed), self.reconcile_forever());
    }

    async fn watch_workloads(&self, kind: WorkloadKind) {
        let (_, _, name, _) = kind.names();
        let events = self.cluster.watch_workloads(kind.names());
        handle_events(name, &self.metrics, events, |event| {
            let event =
                event.map(|object| (ObjectKey::of(&object.metadata), Workload::of(kind, &object)));
            self.index().apply_workload(kind, event, clock::monotonic());
            self.woken.notify_one();
        })
        .await;
    }

    async fn watch_services(&self, listed: &Notify) {
        let events = self.cluster.watch_services();
        handle_events("Service", &self.metrics, events, |event| {
            let complete = matches!(event, WatchEvent::InitDone);
            self.index().apply_service(event.map(strip), clock::monotonic());
            self.woken.notify_one();
            if complete {
                listed.notify_one();
            }
        })
        .await;
    }

    async fn reconcile_forever(&self) {
        let mut resync = tokio::time::interval(RESYNC);
        let mut mtls = self.mtls.clone();
        loop {
            let ready = {
                let mut index = self.index();
                if index.is_complete(&self.kinds) {
                    index.queue().pop_ready(clock::monotonic())
                } else {
                    Vec::new()
                }
            };
            stream::iter(ready).for_each_concurrent(PARALLEL, |key| self.reconcile(key)).await;
            let pause = self.pause();
            tokio::select! {
                () = self.woken.notified() => {}
                () = tokio::time::sleep(pause) => {}
                Ok(()) = mtls.changed() => self.index().resync(clock::monotonic()),
                _ = resync.tick() => self.index().resync(clock::monotonic()),
            }
        }
    }

    fn pause(&self) -> Duration {
        let mut index = self.index();
        let until = |at: Instant| at.saturating_duration_since(clock::monotonic());
        // Queued Services wait for incomplete lists, not for the clock.
        if !index.is_complete(&self.kinds) {
            return RESYNC;
        }
        index.queue().next_ready().map_or(RESYNC, until)
    }

    async fn reconcile(&self, key: ObjectKey) {
        let mtls = *self.mtls.borrow();
        let decision = self.index().decide(&key, mtls);
        self.report(&key, &decision);
        match self.apply(&key, &decision).await {
            Ok(()) => self.index().queue().reconciled(&key),
            Err(error) => self.failed(key, &decision, &error),
        }
    }

    /// Records Warning Events on the workloads that cause a problem.
    fn report(&self, key: &ObjectKey, decision: &Decision) {
        let service = &key.name;
        if let (Some(owner), Some(invalid)) = (&decision.owner, &decision.invalid) {
            tracing::error!(target: "dapr.operator.handlers", namespace = key.namespace,
                workload = owner.key.name, "Service cannot be created: {invalid}");
            self.reports.warn(reference(owner), INVALID_ANNOTATION, invalid.to_string());
        }
        for sharing in &decision.sharing {
            let owner = decision.owner.as_ref().map_or("", |owner| owner.key.name.as_str());
            let note = format!(
                "{owner} has the same app id: calls reach the pods of both through Service {service}. \
                 Give each application a dapr.io/app-id of its own, unless they are two releases of one"
            );
            self.reports.warn(reference(sharing), DUPLICATE_APP_ID, note);
        }
        if let (Plan::Foreign, Some(owner)) = (&decision.plan, &decision.owner) {
            let note =
                format!("Service {service} exists and was not created by Dapr; it is not modified");
            self.reports.warn(reference(owner), SERVICE_CONFLICT, note);
        }
    }

    async fn apply(&self, key: &ObjectKey, decision: &Decision) -> kube::Result<()> {
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
            service = key.name, "reconciled Service");
        Ok(())
    }

    fn failed(&self, key: ObjectKey, decision: &Decision, error: &kube::Error) {
        let text = api_text(error);
        tracing::warn!(target: "dapr.operator.handlers", namespace = key.namespace,
            service = key.name, "failed to write Service, retrying: {text}");
        let refused = matches!(error, kube::Error::Api(status) if REFUSED.contains(&status.code));
        if let (true, Some(owner)) = (refused, &decision.owner) {
            self.reports.warn(reference(owner), INVALID_ANNOTATION, text);
        }
        self.index().queue().failed(key, clock::monotonic(), random::fraction());
    }

    fn index(&self) -> MutexGuard<'_, ServiceIndex> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps only the members that plans compare.
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
