//! Index of the workloads and Services, and the decision for each Service.
//!
//! Pure. A watch event queues the Services that it may affect; the decision depends on the current
//! state only, never on the event.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use k8s_openapi::api::core::v1::Service;
use kubernetes::{ListChange, ListDiff, ObjectKey, WatchEvent};

use crate::services::plan::{Invalid, Plan, owned_by, plan, service_name};
use crate::services::work_queue::WorkQueue;
use crate::services::workload::{Workload, WorkloadKey, WorkloadKind};

/// The workloads and Services as last observed, and the Services to reconcile.
#[derive(Default)]
pub(crate) struct ServiceIndex {
    workloads: BTreeMap<WorkloadKey, Workload>,
    services: BTreeMap<ObjectKey, Service>,
    workload_lists: BTreeMap<WorkloadKind, ListDiff<ObjectKey>>,
    service_list: ListDiff<ObjectKey>,
    queue: WorkQueue,
}

/// What to do with one Service.
pub(crate) struct Decision {
    pub(crate) plan: Plan,
    /// The workload that the Service belongs to.
    pub(crate) owner: Option<Workload>,
    /// Other workloads with pods and the same app id, if the owner has pods.
    pub(crate) sharing: Vec<Workload>,
    /// Why `owner` cannot have a Service.
    pub(crate) invalid: Option<Invalid>,
}

impl ServiceIndex {
    /// Whether Services and these kinds of workloads have been listed; before that no Service may
    /// be reconciled.
    pub(crate) fn is_complete(&self, kinds: &[WorkloadKind]) -> bool {
        let synced = |kind| self.workload_lists.get(kind).is_some_and(ListDiff::is_synced);
        self.service_list.is_synced() && kinds.iter().all(synced)
    }

    /// Applies a watch event of a workload; `None` is a workload that is being deleted. A workload
    /// without sidecars is kept only while it owns a Service, so Services must be listed first.
    pub(crate) fn apply_workload(
        &mut self,
        kind: WorkloadKind,
        event: WatchEvent<(ObjectKey, Option<Workload>)>,
        now: Instant,
    ) {
        let of_kind = self.workloads.keys().filter(|key| key.kind == kind);
        let known = of_kind
            .map(|key| ObjectKey { namespace: key.namespace.clone(), name: key.name.clone() });
        match self.workload_lists.entry(kind).or_default().apply(event, known) {
            ListChange::Unchanged => {}
            ListChange::Apply(key, workload) => self.put_workload(kind, key, workload, now),
            ListChange::Remove(keys) => {
                for key in keys {
                    self.put_workload(kind, key, None, now);
                }
            }
        }
    }

    /// Applies a watch event of a Service.
    pub(crate) fn apply_service(&mut self, event: WatchEvent<Service>, now: Instant) {
        let event = event.map(|service| (ObjectKey::of(&service.metadata), service));
        match self.service_list.apply(event, self.services.keys().cloned()) {
            ListChange::Unchanged => {}
            ListChange::Apply(key, service) => self.put_service(key, Some(service), now),
            ListChange::Remove(keys) => {
                for key in keys {
                    self.put_service(key, None, now);
                }
            }
        }
    }

    /// Queues every Service.
    pub(crate) fn resync(&mut self, now: Instant) {
        let enabled = self.workloads.values().filter(|workload| workload.enabled);
        let keys: Vec<_> = enabled.map(service_key).collect();
        let keys = keys.into_iter().chain(self.services.keys().cloned());
        for key in keys.collect::<Vec<_>>() {
            self.queue.push_resync(key, now);
        }
    }

    /// The Services to reconcile.
    pub(crate) fn queue(&mut self) -> &mut WorkQueue {
        &mut self.queue
    }

    /// Decides what to do with a Service.
    pub(crate) fn decide(&self, key: &ObjectKey, mtls: bool) -> Decision {
        let wants = |workload: &&Workload| workload.enabled && service_key(workload) == *key;
        let mut candidates: Vec<&Workload> =
            self.in_namespace(&key.namespace).filter(wants).collect();
        // The current owner keeps the Service when another workload gets the same app id, until it is
        // scaled to zero; without an owner the oldest workload gets it.
        let current = self.services.get(key);
        let owns =
            |workload: &Workload| current.is_some_and(|service| owned_by(service, &workload.uid));
        candidates.sort_by_key(|workload| {
            (!workload.has_pods, !owns(workload), workload.created, &workload.key)
        });
        let owner = candidates.first().copied();
        let sharing = candidates.get(1..).unwrap_or_default();
        let owners = self.in_namespace(&key.namespace);
        let planned = plan(owner, sharing, mtls, self.services.get(key), owners);
        let (plan, invalid) = match planned {
            Ok(plan) => (plan, None),
            Err(invalid) => (Plan::Keep, Some(invalid)),
        };
        Decision {
            plan,
            owner: owner.cloned(),
            sharing: candidates.iter().skip(1).copied().filter(|w| w.has_pods).cloned().collect(),
            invalid,
        }
    }

    fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Workload> {
        self.workloads.values().filter(move |workload| workload.key.namespace == namespace)
    }

    /// The Services that a workload controls.
    fn services_of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a ObjectKey> {
        let namespace = &workload.key.namespace;
        let first = ObjectKey { namespace: namespace.clone(), name: String::new() };
        let all = self.services.range(first..).take_while(|(key, _)| key.namespace == *namespace);
        all.filter(|(_, service)| owned_by(service, &workload.uid)).map(|(key, _)| key)
    }

    fn put_workload(
        &mut self,
        kind: WorkloadKind,
        key: ObjectKey,
        workload: Option<Workload>,
        now: Instant,
    ) {
        let key = WorkloadKey { kind, namespace: key.namespace, name: key.name };
        let workload = workload.filter(|w| w.enabled || self.services_of(w).next().is_some());
        let old = self.workloads.get(&key);
        if old == workload.as_ref() {
            return; // most changes concern the status only
        }
        let wanting = old.into_iter().chain(&workload).filter(|workload| workload.enabled);
        // A finished rollout may release the Service of the previous app id.
        let owned = workload.iter().flat_map(|workload| self.services_of(workload).cloned());
        let affected: BTreeSet<_> = wanting.map(service_key).chain(owned).collect();
        match workload {
            Some(workload) => self.workloads.insert(key, workload),
            None => self.workloads.remove(&key),
        };
        for key in affected {
            self.queue.push(key, now);
        }
    }

    fn put_service(&mut self, key: ObjectKey, service: Option<Service>, now: Instant) {
        let ours = service.filter(|_| key.name.ends_with("-dapr"));
        let old = match ours {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(&key),
        };
        if old.as_ref() != self.services.get(&key) {
            self.queue.push(key, now);
        }
    }
}

fn service_key(workload: &Workload) -> ObjectKey {
    ObjectKey { namespace: workload.key.namespace.clone(), name: service_name(workload.app_id()) }
}

#[cfg(test)]
mod tests {
    use runtime::clock;
    use serde_json::json;

    use super::*;

    const KIND: WorkloadKind = WorkloadKind::Deployment;

    fn observed(name: &str, app_id: &str, created: &str) -> (ObjectKey, Option<Workload>) {
        let object = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": created},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata":
                {"annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": app_id}}}}
        }))
        .unwrap();
        let key = ObjectKey { namespace: "n".to_owned(), name: name.to_owned() };
        (key, Workload::of(KIND, &object))
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "n".to_owned(), name: name.to_owned() }
    }

    /// As [`observed`], without the sidecar annotation in the template.
    fn without_sidecar(
        name: &str,
        app_id: &str,
        rolled_out: bool,
    ) -> (ObjectKey, Option<Workload>) {
        let (key, workload) = observed(name, app_id, "2026-01-01T00:00:00Z");
        (key, workload.map(|w| Workload { enabled: false, rolled_out, ..w }))
    }

    #[test]
    fn service_is_deleted_when_no_pod_has_a_sidecar() {
        let mut index = ServiceIndex::default();
        let now = clock::monotonic();
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("w", "a", "2026-01-01T00:00:00Z")),
            now,
        );
        let Plan::Create(mut service) = index.decide(&key("a-dapr"), true).plan else {
            panic!("no plan")
        };
        service.metadata.uid = Some("u".to_owned());
        index.apply_service(WatchEvent::Apply((*service).clone()), now);
        index.queue().pop_ready(now);
        index.apply_workload(KIND, WatchEvent::Apply(without_sidecar("w", "a", false)), now);
        assert_eq!(index.queue().pop_ready(now), [key("a-dapr")]);
        assert!(
            matches!(index.decide(&key("a-dapr"), true).plan, Plan::Keep),
            "pods of the previous template still run"
        );
        index.apply_workload(KIND, WatchEvent::Apply(without_sidecar("w", "a", true)), now);
        assert_eq!(index.queue().pop_ready(now), [key("a-dapr")]);
        assert_eq!(index.decide(&key("a-dapr"), true).plan, Plan::Delete("u".to_owned()));
        index.apply_service(WatchEvent::Delete((*service).clone()), now);
        assert!(
            matches!(index.decide(&key("a-dapr"), true).plan, Plan::Keep),
            "it is not created again"
        );

        // The same for a new leader, which lists Services first.
        let mut index = ServiceIndex::default();
        index.apply_service(WatchEvent::Apply(*service), now);
        index.apply_workload(KIND, WatchEvent::Apply(without_sidecar("w", "a", true)), now);
        assert_eq!(index.decide(&key("a-dapr"), true).plan, Plan::Delete("u".to_owned()));
        index.apply_workload(KIND, WatchEvent::Apply(without_sidecar("other", "b", true)), now);
        assert_eq!(index.workloads.len(), 1, "a workload without sidecar and Service is not kept");
    }

    #[test]
    fn oldest_workload_gets_the_service() {
        let mut index = ServiceIndex::default();
        let now = clock::monotonic();
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("young", "a", "2026-02-01T00:00:00Z")),
            now,
        );
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("old", "a", "2026-01-01T00:00:00Z")),
            now,
        );
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("old", "a", "2026-01-01T00:00:00Z")),
            now,
        );
        let decision = index.decide(&key("a-dapr"), true);
        assert_eq!(decision.owner.unwrap().key.name, "old");
        assert_eq!(decision.sharing[0].key.name, "young");
        assert!(matches!(decision.plan, Plan::Create(_)));
    }

    #[test]
    fn current_owner_keeps_the_service() {
        let mut index = ServiceIndex::default();
        let now = clock::monotonic();
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("young", "a", "2026-02-01T00:00:00Z")),
            now,
        );
        let Plan::Create(service) = index.decide(&key("a-dapr"), true).plan else {
            panic!("no plan")
        };
        index.apply_service(WatchEvent::Apply(*service), now);
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("old", "a", "2026-01-01T00:00:00Z")),
            now,
        );
        let decision = index.decide(&key("a-dapr"), true);
        assert_eq!(decision.owner.unwrap().key.name, "young");
        let Plan::Update(service) = decision.plan else { panic!("not shared") };
        index.apply_service(WatchEvent::Apply(*service), now);
        assert!(matches!(index.decide(&key("a-dapr"), true).plan, Plan::Keep));
        index.apply_workload(
            KIND,
            WatchEvent::Delete(observed("young", "a", "2026-02-01T00:00:00Z")),
            now,
        );
        let decision = index.decide(&key("a-dapr"), true);
        assert_eq!(decision.owner.unwrap().key.name, "old");
        assert!(matches!(decision.plan, Plan::Update(_)));
    }

    /// Case 03: Flagger's first promotion and the steps after it.
    #[test]
    fn scaled_down_owner_hands_the_service_over_and_does_not_take_it_back() {
        let mut index = ServiceIndex::default();
        let now = clock::monotonic();
        let put = |index: &mut ServiceIndex, name: &str, has_pods: bool| {
            let (key, workload) = observed(name, "kiosk", "2026-01-01T00:00:00Z");
            let event = WatchEvent::Apply((key, workload.map(|w| Workload { has_pods, ..w })));
            index.apply_workload(KIND, event, now);
        };
        let reconcile = |index: &mut ServiceIndex| {
            let decision = index.decide(&key("kiosk-dapr"), true);
            let (Plan::Create(service) | Plan::Update(service)) = decision.plan else {
                return (String::new(), decision.sharing.len(), String::new());
            };
            let selector = service.spec.as_ref().unwrap().selector.as_ref().unwrap();
            let selector = selector.keys().cloned().collect();
            index.apply_service(WatchEvent::Apply(*service), now);
            (decision.owner.unwrap().key.name, decision.sharing.len(), selector)
        };
        let written = |owner: &str, sharing: usize, selector: &str| {
            (owner.to_owned(), sharing, selector.to_owned())
        };
        put(&mut index, "kiosk", true);
        assert_eq!(reconcile(&mut index), written("kiosk", 0, "app"));
        put(&mut index, "kiosk-primary", true);
        assert_eq!(reconcile(&mut index), written("kiosk", 1, "dapr.io/app-id"));
        put(&mut index, "kiosk", false);
        assert_eq!(reconcile(&mut index), written("kiosk-primary", 0, "dapr.io/app-id"));
        for has_pods in [true, false, true] {
            put(&mut index, "kiosk", has_pods); // an analysis: nothing is written
            assert_eq!(reconcile(&mut index), written("", usize::from(has_pods), ""));
        }
        index.apply_workload(
            KIND,
            WatchEvent::Delete(observed("kiosk", "kiosk", "2026-01-01T00:00:00Z")),
            now,
        );
        assert_eq!(reconcile(&mut index), written("kiosk-primary", 0, "app"));
    }

    #[test]
    fn change_of_a_workload_queues_its_services() {
        let mut index = ServiceIndex::default();
        let now = clock::monotonic();
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("w", "a", "2026-01-01T00:00:00Z")),
            now,
        );
        assert_eq!(index.queue().pop_ready(now), [key("a-dapr")]);
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("w", "a", "2026-01-01T00:00:00Z")),
            now,
        );
        assert!(index.queue().pop_ready(now).is_empty(), "no relevant change");
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("w", "b", "2026-01-01T00:00:00Z")),
            now,
        );
        assert_eq!(index.queue().pop_ready(now), [key("a-dapr"), key("b-dapr")]);
        index.apply_workload(
            KIND,
            WatchEvent::Delete(observed("w", "b", "2026-01-01T00:00:00Z")),
            now,
        );
        assert_eq!(index.queue().pop_ready(now), [key("b-dapr")]);
    }

    #[test]
    fn relist_removes_objects_that_it_does_not_contain() {
        let mut index = ServiceIndex::default();
        let now = clock::monotonic();
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("w", "a", "2026-01-01T00:00:00Z")),
            now,
        );
        index.queue().pop_ready(now);
        index.apply_workload(KIND, WatchEvent::Init, now);
        index.apply_workload(KIND, WatchEvent::InitDone, now);
        assert_eq!(index.queue().pop_ready(now), [key("a-dapr")]);
        assert!(index.decide(&key("a-dapr"), true).owner.is_none());
        assert!(!index.is_complete(&[KIND]), "Services are not listed");
        index.apply_service(WatchEvent::Init, now);
        index.apply_service(WatchEvent::InitDone, now);
        assert!(index.is_complete(&[KIND]));
    }

    #[test]
    fn edited_and_deleted_services_are_queued() {
        let mut index = ServiceIndex::default();
        let now = clock::monotonic();
        index.apply_workload(
            KIND,
            WatchEvent::Apply(observed("w", "a", "2026-01-01T00:00:00Z")),
            now,
        );
        let Plan::Create(service) = index.decide(&key("a-dapr"), true).plan else {
            panic!("no plan")
        };
        index.queue().pop_ready(now);
        index.apply_service(WatchEvent::Apply((*service).clone()), now);
        assert_eq!(index.queue().pop_ready(now), [key("a-dapr")]);
        assert!(matches!(index.decide(&key("a-dapr"), true).plan, Plan::Keep));
        index.apply_service(WatchEvent::Delete(*service), now);
        assert_eq!(index.queue().pop_ready(now), [key("a-dapr")]);
        assert!(matches!(index.decide(&key("a-dapr"), true).plan, Plan::Create(_)));
    }
}
