//! What the Service reconciler knows, which Services it has to look at, and when.
//!
//! Pure. A Service is looked at because something about it changed, or because its time came; what
//! is done depends on the state as it is then, never on what changed.
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher::Event;

use crate::{
    cache::Key,
    service::{Invalid, Plan, owned_by, plan, service_name},
    workload::{Workload, WorkloadKey, WorkloadKind},
};

/// First wait after a failed write.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait after failed writes.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// The state of the reconciler.
#[derive(Default)]
pub struct Desk {
    workloads: BTreeMap<WorkloadKey, Workload>,
    services: BTreeMap<Key, Service>,
    /// What lists under way have shown, per kind; `None` stands for Services.
    listed: BTreeMap<Option<WorkloadKind>, BTreeSet<Key>>,
    complete: BTreeSet<Option<WorkloadKind>>,
    due: BTreeMap<Key, Instant>,
    failures: BTreeMap<Key, u32>,
}

/// What to do about one Service, and what is wrong.
pub struct Decision {
    /// What to do.
    pub plan: Plan,
    /// The workload that the Service belongs to.
    pub winner: Option<Workload>,
    /// Younger workloads with the same app id.
    pub losers: Vec<Workload>,
    /// The annotations of `winner` make no Service.
    pub invalid: Option<Invalid>,
}

impl Desk {
    /// Whether everything has been listed; before that nothing may be concluded.
    pub fn is_complete(&self, kinds: &[WorkloadKind]) -> bool {
        self.complete.contains(&None)
            && kinds.iter().all(|kind| self.complete.contains(&Some(*kind)))
    }

    /// Takes in what a watch of workloads saw; `None` stands for one that is as good as gone. Of those
    /// without sidecars only they are kept whose Service is known by then: Services are listed first.
    pub fn workload(
        &mut self,
        kind: WorkloadKind,
        event: Event<(Key, Option<Workload>)>,
        now: Instant,
    ) {
        match event {
            Event::Init => self.begin(Some(kind)),
            Event::InitApply((key, workload)) => {
                self.see(Some(kind), &key);
                self.put_workload(kind, key, workload, now);
            }
            Event::Apply((key, workload)) => self.put_workload(kind, key, workload, now),
            Event::Delete((key, _)) => self.put_workload(kind, key, None, now),
            Event::InitDone => {
                let seen = self.end(Some(kind));
                let gone = |key: &&WorkloadKey| {
                    let plain = Key { namespace: key.namespace.clone(), name: key.name.clone() };
                    key.kind == kind && !seen.contains(&plain)
                };
                let gone: Vec<_> = self.workloads.keys().filter(gone).cloned().collect();
                for key in gone {
                    let plain = Key { namespace: key.namespace, name: key.name };
                    self.put_workload(kind, plain, None, now);
                }
            }
        }
    }

    /// Takes in what a watch of Services saw.
    pub fn service(&mut self, event: Event<Service>, now: Instant) {
        let of = |service: &Service| Key::of(&service.metadata);
        match event {
            Event::Init => self.begin(None),
            Event::InitApply(service) => {
                self.see(None, &of(&service));
                self.put_service(of(&service), Some(service), now);
            }
            Event::Apply(service) => self.put_service(of(&service), Some(service), now),
            Event::Delete(service) => self.put_service(of(&service), None, now),
            Event::InitDone => {
                let seen = self.end(None);
                let gone: Vec<_> =
                    self.services.keys().filter(|key| !seen.contains(key)).cloned().collect();
                for key in gone {
                    self.put_service(key, None, now);
                }
            }
        }
    }

    /// All Services have to be looked at, as once in a while.
    pub fn all_due(&mut self, now: Instant) {
        let enabled = self.workloads.values().filter(|workload| workload.enabled);
        let keys: Vec<_> = enabled.map(service_key).collect();
        let keys = keys.into_iter().chain(self.services.keys().cloned());
        for key in keys.collect::<Vec<_>>() {
            self.due.entry(key).or_insert(now);
        }
    }

    /// The Services whose time has come; they are no longer due.
    pub fn take_due(&mut self, now: Instant) -> Vec<Key> {
        let ready: Vec<_> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in &ready {
            self.due.remove(key);
        }
        ready
    }

    /// When the next Service is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// The write succeeded, or nothing had to be written.
    pub fn done(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// The write failed: look again later; `draw` is a random number in `[0, 1)`.
    pub fn failed(&mut self, key: Key, now: Instant, draw: f64) {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = FIRST_WAIT.saturating_mul(1 << (*failures).min(16)).min(LONGEST_WAIT);
        *failures += 1;
        self.due.insert(key, now + wait.mul_f64(1.0 + draw));
    }

    /// What to do about a Service, from the state as it is.
    pub fn decide(&self, key: &Key) -> Decision {
        let wants = |workload: &&Workload| workload.enabled && service_key(workload) == *key;
        let mut candidates: Vec<&Workload> =
            self.in_namespace(&key.namespace).filter(wants).collect();
        // Who has the Service keeps it, so that it does not change hands when another workload
        // takes the same app id; else the oldest gets it.
        let current = self.services.get(key);
        let owns =
            |workload: &Workload| current.is_some_and(|service| owned_by(service, &workload.uid));
        candidates.sort_by_key(|workload| (!owns(workload), workload.created, &workload.key));
        let winner = candidates.first().copied();
        let planned = plan(winner, self.services.get(key), self.in_namespace(&key.namespace));
        let (plan, invalid) = match planned {
            Ok(plan) => (plan, None),
            Err(invalid) => (Plan::Keep, Some(invalid)),
        };
        Decision {
            plan,
            winner: winner.cloned(),
            losers: candidates.into_iter().skip(1).cloned().collect(),
            invalid,
        }
    }

    fn in_namespace<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Workload> {
        self.workloads.values().filter(move |workload| workload.key.namespace == namespace)
    }

    /// The Services that a workload controls.
    fn services_of<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = &'a Key> {
        let namespace = &workload.key.namespace;
        let first = Key { namespace: namespace.clone(), name: String::new() };
        let all = self.services.range(first..).take_while(|(key, _)| key.namespace == *namespace);
        all.filter(|(_, service)| owned_by(service, &workload.uid)).map(|(key, _)| key)
    }

    fn put_workload(
        &mut self,
        kind: WorkloadKind,
        key: Key,
        workload: Option<Workload>,
        now: Instant,
    ) {
        let key = WorkloadKey { kind, namespace: key.namespace, name: key.name };
        let workload = workload.filter(|w| w.enabled || self.services_of(w).next().is_some());
        let old = self.workloads.get(&key);
        if old == workload.as_ref() {
            return; // most changes are of the status
        }
        let wanting = old.into_iter().chain(&workload).filter(|workload| workload.enabled);
        // A finished rollout may free the Service of the former app id.
        let owned = workload.iter().flat_map(|workload| self.services_of(workload).cloned());
        let touched: BTreeSet<_> = wanting.map(service_key).chain(owned).collect();
        match workload {
            Some(workload) => self.workloads.insert(key, workload),
            None => self.workloads.remove(&key),
        };
        for key in touched {
            self.touch(key, now);
        }
    }

    fn put_service(&mut self, key: Key, service: Option<Service>, now: Instant) {
        let ours = service.filter(|_| key.name.ends_with("-dapr"));
        let old = match ours {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(&key),
        };
        if old.as_ref() != self.services.get(&key) {
            self.touch(key, now);
        }
    }

    /// A change is looked at at once, failures before it notwithstanding.
    fn touch(&mut self, key: Key, now: Instant) {
        self.failures.remove(&key);
        self.due.insert(key, now);
    }

    fn begin(&mut self, kind: Option<WorkloadKind>) {
        self.listed.insert(kind, BTreeSet::new());
    }

    fn see(&mut self, kind: Option<WorkloadKind>, key: &Key) {
        self.listed.entry(kind).or_default().insert(key.clone());
    }

    fn end(&mut self, kind: Option<WorkloadKind>) -> BTreeSet<Key> {
        self.complete.insert(kind);
        self.listed.remove(&kind).unwrap_or_default()
    }
}

fn service_key(workload: &Workload) -> Key {
    Key { namespace: workload.key.namespace.clone(), name: service_name(workload.app_id()) }
}

#[cfg(test)]
mod tests {
    use runtime::clock;
    use serde_json::json;

    use super::*;

    const KIND: WorkloadKind = WorkloadKind::Deployment;

    fn seen(name: &str, app_id: &str, created: &str) -> (Key, Option<Workload>) {
        let object = serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name, "creationTimestamp": created},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata":
                {"annotations": {"dapr.io/enabled": "true", "dapr.io/app-id": app_id}}}}
        }))
        .unwrap();
        let key = Key { namespace: "n".to_owned(), name: name.to_owned() };
        (key, Workload::of(KIND, &object))
    }

    fn key(name: &str) -> Key {
        Key { namespace: "n".to_owned(), name: name.to_owned() }
    }

    /// As [`seen`], after somebody took the sidecar out of the template.
    fn without_sidecar(name: &str, app_id: &str, rolled_out: bool) -> (Key, Option<Workload>) {
        let (key, workload) = seen(name, app_id, "2026-01-01T00:00:00Z");
        (key, workload.map(|w| Workload { enabled: false, rolled_out, ..w }))
    }

    #[test]
    fn service_goes_when_no_pod_has_a_sidecar_any_more() {
        let mut desk = Desk::default();
        let now = clock::monotonic();
        desk.workload(KIND, Event::Apply(seen("w", "a", "2026-01-01T00:00:00Z")), now);
        let Plan::Create(mut service) = desk.decide(&key("a-dapr")).plan else { panic!("no plan") };
        service.metadata.uid = Some("u".to_owned());
        desk.service(Event::Apply((*service).clone()), now);
        desk.take_due(now);
        desk.workload(KIND, Event::Apply(without_sidecar("w", "a", false)), now);
        assert_eq!(desk.take_due(now), [key("a-dapr")]);
        assert!(matches!(desk.decide(&key("a-dapr")).plan, Plan::Keep), "old pods have theirs");
        desk.workload(KIND, Event::Apply(without_sidecar("w", "a", true)), now);
        assert_eq!(desk.take_due(now), [key("a-dapr")]);
        assert_eq!(desk.decide(&key("a-dapr")).plan, Plan::Delete("u".to_owned()));
        desk.service(Event::Delete((*service).clone()), now);
        assert!(matches!(desk.decide(&key("a-dapr")).plan, Plan::Keep), "it is not made again");

        // The same for one who comes later, and has listed Services first.
        let mut desk = Desk::default();
        desk.service(Event::Apply(*service), now);
        desk.workload(KIND, Event::Apply(without_sidecar("w", "a", true)), now);
        assert_eq!(desk.decide(&key("a-dapr")).plan, Plan::Delete("u".to_owned()));
        desk.workload(KIND, Event::Apply(without_sidecar("other", "b", true)), now);
        assert_eq!(desk.workloads.len(), 1, "without a Service it is nobody's business");
    }

    #[test]
    fn oldest_workload_gets_the_service() {
        let mut desk = Desk::default();
        let now = clock::monotonic();
        desk.workload(KIND, Event::Apply(seen("young", "a", "2026-02-01T00:00:00Z")), now);
        desk.workload(KIND, Event::Apply(seen("old", "a", "2026-01-01T00:00:00Z")), now);
        let decision = desk.decide(&key("a-dapr"));
        assert_eq!(decision.winner.unwrap().key.name, "old");
        assert_eq!(decision.losers[0].key.name, "young");
        assert!(matches!(decision.plan, Plan::Create(_)));
    }

    #[test]
    fn who_has_the_service_keeps_it() {
        let mut desk = Desk::default();
        let now = clock::monotonic();
        desk.workload(KIND, Event::Apply(seen("young", "a", "2026-02-01T00:00:00Z")), now);
        let Plan::Create(service) = desk.decide(&key("a-dapr")).plan else { panic!("no plan") };
        desk.service(Event::Apply(*service), now);
        desk.workload(KIND, Event::Apply(seen("old", "a", "2026-01-01T00:00:00Z")), now);
        let decision = desk.decide(&key("a-dapr"));
        assert_eq!(decision.winner.unwrap().key.name, "young");
        assert!(matches!(decision.plan, Plan::Keep));
        desk.workload(KIND, Event::Delete(seen("young", "a", "2026-02-01T00:00:00Z")), now);
        let decision = desk.decide(&key("a-dapr"));
        assert_eq!(decision.winner.unwrap().key.name, "old");
        assert!(matches!(decision.plan, Plan::Update(_)));
    }

    #[test]
    fn changes_make_their_services_due() {
        let mut desk = Desk::default();
        let now = clock::monotonic();
        desk.workload(KIND, Event::Apply(seen("w", "a", "2026-01-01T00:00:00Z")), now);
        assert_eq!(desk.take_due(now), [key("a-dapr")]);
        desk.workload(KIND, Event::Apply(seen("w", "a", "2026-01-01T00:00:00Z")), now);
        assert!(desk.take_due(now).is_empty(), "nothing that matters changed");
        desk.workload(KIND, Event::Apply(seen("w", "b", "2026-01-01T00:00:00Z")), now);
        assert_eq!(desk.take_due(now), [key("a-dapr"), key("b-dapr")]);
        desk.workload(KIND, Event::Delete(seen("w", "b", "2026-01-01T00:00:00Z")), now);
        assert_eq!(desk.take_due(now), [key("b-dapr")]);
    }

    #[test]
    fn relist_forgets_what_it_does_not_show() {
        let mut desk = Desk::default();
        let now = clock::monotonic();
        desk.workload(KIND, Event::Apply(seen("w", "a", "2026-01-01T00:00:00Z")), now);
        desk.take_due(now);
        desk.workload(KIND, Event::Init, now);
        desk.workload(KIND, Event::InitDone, now);
        assert_eq!(desk.take_due(now), [key("a-dapr")]);
        assert!(desk.decide(&key("a-dapr")).winner.is_none());
        assert!(!desk.is_complete(&[KIND]), "Services have not been listed");
        desk.service(Event::Init, now);
        desk.service(Event::InitDone, now);
        assert!(desk.is_complete(&[KIND]));
    }

    #[test]
    fn failures_wait_longer_each_time_until_something_changes() {
        let mut desk = Desk::default();
        let now = clock::monotonic();
        let mut waits = Vec::new();
        for _ in 0..12 {
            desk.failed(key("a-dapr"), now, 0.0);
            waits.push(desk.next_due().unwrap().duration_since(now).as_millis());
        }
        assert_eq!(&waits[..4], [500, 1000, 2000, 4000]);
        assert_eq!(waits.last(), Some(&300_000));
        desk.workload(KIND, Event::Apply(seen("w", "a", "2026-01-01T00:00:00Z")), now);
        assert_eq!(desk.take_due(now), [key("a-dapr")]);
        desk.failed(key("a-dapr"), now, 0.0);
        assert_eq!(desk.next_due().unwrap().duration_since(now).as_millis(), 500);
    }

    #[test]
    fn edited_and_deleted_services_are_looked_at() {
        let mut desk = Desk::default();
        let now = clock::monotonic();
        desk.workload(KIND, Event::Apply(seen("w", "a", "2026-01-01T00:00:00Z")), now);
        let Plan::Create(service) = desk.decide(&key("a-dapr")).plan else { panic!("no plan") };
        desk.take_due(now);
        desk.service(Event::Apply((*service).clone()), now);
        assert_eq!(desk.take_due(now), [key("a-dapr")]);
        assert!(matches!(desk.decide(&key("a-dapr")).plan, Plan::Keep));
        desk.service(Event::Delete(*service), now);
        assert_eq!(desk.take_due(now), [key("a-dapr")]);
        assert!(matches!(desk.decide(&key("a-dapr")).plan, Plan::Create(_)));
    }
}
