//! What the watchdog knows of pods and of those who make them, and which pod it looks at next.
//!
//! Pure. Fed by the same watch of pod metadata as the assignments; only pods that may lack their
//! sidecar are kept. Of one owner one pod at a time is deleted: the next one only when the pod that
//! came in its place has its sidecar, so that an injector that cannot inject costs one pod.
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{core::ObjectMeta, runtime::watcher::Event};
use resources::{
    annotations::{ANNOTATION_ENABLED, ANNOTATION_INJECTION_SKIPPED, is_truthy},
    labels::{LABEL_SIDECAR_INJECTED, LABEL_WATCHDOG_PATCHED},
};

use crate::cache::Key;

/// How long the pod that replaces a deleted one may take to appear.
const REPLACEMENT: Duration = Duration::from_secs(30);
/// First pause of an owner whose new pod has no sidecar either; doubles.
const FIRST_PAUSE: Duration = Duration::from_mins(1);
/// After so many deletions without effect an owner is left alone.
const GIVE_UP: u32 = 3;
/// Set by the kubelet on the pods that it runs by itself (Kubernetes, static pods).
const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// The controller of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    /// Where it is.
    pub namespace: String,
    /// What it is.
    pub reference: OwnerReference,
}

/// A pod that asks for a sidecar and was not seen with one.
#[derive(Clone, Debug, PartialEq)]
pub struct Suspect {
    /// Which pod.
    pub key: Key,
    /// Its unique id.
    pub uid: String,
    /// Who makes another one when it is deleted.
    pub owner: Owner,
    /// Counts up with each pod that was first seen.
    seen: u64,
}

/// What there is to do now.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Look at this pod.
    Look(Suspect),
    /// Wait for a change, at most until then.
    Wait(Instant),
    /// Nothing in this pass.
    Nothing,
}

/// What became of the owner of deleted pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its pods may be deleted.
    Free,
    /// A pod was deleted, its replacement was not seen yet.
    Awaiting(Instant),
    /// The replacement has no sidecar either.
    Pausing(Instant),
    /// Deleting does not help.
    GivenUp,
}

struct Record {
    owner: Owner,
    phase: Phase,
    /// Deletions in a row after which the new pod had no sidecar either.
    failures: u32,
    /// [`Suspect::seen`] at the last deletion: a later one is a replacement.
    seen: u64,
    /// Time of creation of the newest pod of the cluster at the last deletion, by the clock of the
    /// API server: a pod of this owner that is not older is a replacement.
    newest: Option<Timestamp>,
}

/// The state of the watchdog.
#[derive(Default)]
pub struct Book {
    suspects: BTreeMap<Key, Suspect>,
    /// By unique id of the owner; only of those of whom a pod was deleted.
    owners: HashMap<String, Record>,
    /// Unique ids of suspects that need no second look: they have a sidecar, or have ended.
    cleared: BTreeSet<String>,
    /// Unique ids of suspects that were looked at in this pass.
    looked: BTreeSet<String>,
    /// What a list under way has shown.
    listed: Option<BTreeSet<Key>>,
    given_up: Vec<Owner>,
    seen: u64,
    newest: Option<Timestamp>,
}

impl Book {
    /// Takes in what the watch of pods saw.
    pub fn apply(&mut self, event: &Event<ObjectMeta>, now: Instant) {
        match event {
            Event::Init => self.listed = Some(BTreeSet::new()),
            Event::InitApply(pod) => {
                if let Some(listed) = self.listed.as_mut() {
                    listed.insert(Key::of(pod));
                }
                self.put(pod, now);
            }
            Event::Apply(pod) => self.put(pod, now),
            Event::Delete(pod) => self.remove(&Key::of(pod)),
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                self.suspects.retain(|key, _| listed.contains(key));
            }
        }
    }

    /// A pass begins: what was put off is looked at again, and what is over is forgotten.
    pub fn begin_pass(&mut self) {
        self.looked.clear();
        let uids: BTreeSet<&String> = self.suspects.values().map(|pod| &pod.uid).collect();
        self.cleared.retain(|uid| uids.contains(uid));
        let owners: BTreeSet<&String> =
            self.suspects.values().map(|pod| &pod.owner.reference.uid).collect();
        self.owners.retain(|uid, record| {
            matches!(record.phase, Phase::Awaiting(_)) || owners.contains(uid)
        });
    }

    /// The pod to look at next, the one that was seen first.
    pub fn next(&self, now: Instant) -> Next {
        let open = self.suspects.values().filter(|pod| {
            let done = self.cleared.contains(&pod.uid) || self.looked.contains(&pod.uid);
            !done && self.may_delete(&pod.owner.reference.uid, now)
        });
        if let Some(pod) = open.min_by_key(|pod| pod.seen) {
            return Next::Look(pod.clone());
        }
        let awaited = self.owners.values().filter_map(|record| match record.phase {
            Phase::Awaiting(until) if until > now => Some(until),
            _ => None,
        });
        awaited.min().map_or(Next::Nothing, Next::Wait)
    }

    /// The pod needs no second look, whatever happens.
    pub fn cleared(&mut self, pod: &Suspect) {
        self.cleared.insert(pod.uid.clone());
    }

    /// The pod is left alone for this pass.
    pub fn put_off(&mut self, pod: &Suspect) {
        self.looked.insert(pod.uid.clone());
    }

    /// The pod was deleted: its owner shall make another one.
    pub fn deleted(&mut self, pod: &Suspect, now: Instant) {
        if self.suspects.get(&pod.key).is_some_and(|known| known.uid == pod.uid) {
            self.suspects.remove(&pod.key);
        }
        let record = self.owners.entry(pod.owner.reference.uid.clone()).or_insert(Record {
            owner: pod.owner.clone(),
            phase: Phase::Free,
            failures: 0,
            seen: 0,
            newest: None,
        });
        record.phase = Phase::Awaiting(now + REPLACEMENT);
        record.seen = self.seen;
        record.newest = self.newest;
    }

    /// The API server refused to delete it: no replacement is to be expected.
    pub fn not_deleted(&mut self, pod: &Suspect) {
        if let Some(record) = self.owners.get_mut(&pod.owner.reference.uid)
            && matches!(record.phase, Phase::Awaiting(_))
        {
            record.phase = Phase::Free;
        }
        self.suspects.entry(pod.key.clone()).or_insert_with(|| pod.clone());
    }

    /// Owners that were given up since the last call.
    pub fn take_given_up(&mut self) -> Vec<Owner> {
        std::mem::take(&mut self.given_up)
    }

    /// How many owners are given up.
    pub fn given_up(&self) -> usize {
        self.owners.values().filter(|record| record.phase == Phase::GivenUp).count()
    }

    /// How many pods may lack their sidecar.
    pub fn suspects(&self) -> usize {
        self.suspects.len() - self.cleared.len().min(self.suspects.len())
    }

    fn may_delete(&self, owner: &str, now: Instant) -> bool {
        match self.owners.get(owner).map_or(Phase::Free, |record| record.phase) {
            Phase::Free => true,
            Phase::Awaiting(until) | Phase::Pausing(until) => now >= until,
            Phase::GivenUp => false,
        }
    }

    fn put(&mut self, pod: &ObjectMeta, now: Instant) {
        let created = pod.creation_timestamp.as_ref().map(|time| time.0);
        self.newest = self.newest.max(created);
        let key = Key::of(pod);
        let Some(mut suspect) = suspect(pod) else {
            self.remove(&key);
            self.effect(pod, created);
            return;
        };
        let known = self.suspects.get(&key).filter(|known| known.uid == suspect.uid);
        suspect.seen = known.map_or(self.seen + 1, |known| known.seen);
        self.seen = self.seen.max(suspect.seen);
        if known.is_none() {
            self.no_effect(&suspect, now);
        }
        self.suspects.insert(key, suspect);
    }

    /// A pod that the injector has seen: deleting its predecessor helped.
    fn effect(&mut self, pod: &ObjectMeta, created: Option<Timestamp>) {
        let injected = pod.labels.as_ref().is_some_and(|l| l.contains_key(LABEL_SIDECAR_INJECTED));
        let Some(owner) = controller(pod).filter(|_| injected) else { return };
        let Some(record) = self.owners.get_mut(&owner.uid) else { return };
        if record.phase != Phase::Free && created >= record.newest {
            record.phase = Phase::Free;
            record.failures = 0;
        }
    }

    /// A pod without sidecar that was never seen before: deleting its predecessor did not help.
    fn no_effect(&mut self, pod: &Suspect, now: Instant) {
        let Some(record) = self.owners.get_mut(&pod.owner.reference.uid) else { return };
        if !matches!(record.phase, Phase::Awaiting(_)) || pod.seen <= record.seen {
            return;
        }
        record.failures += 1;
        record.phase = if record.failures >= GIVE_UP {
            self.given_up.push(record.owner.clone());
            Phase::GivenUp
        } else {
            Phase::Pausing(now + FIRST_PAUSE * (1 << (record.failures - 1)))
        };
    }

    fn remove(&mut self, key: &Key) {
        if let Some(pod) = self.suspects.remove(key) {
            self.cleared.remove(&pod.uid);
        }
    }
}

/// The pod, if its metadata says that it may lack its sidecar and that it would be made anew.
fn suspect(pod: &ObjectMeta) -> Option<Suspect> {
    let annotation = |key: &str| pod.annotations.as_ref().and_then(|all| all.get(key));
    let label = |key: &str| pod.labels.as_ref().is_some_and(|all| all.contains_key(key));
    let asks = annotation(ANNOTATION_ENABLED).is_some_and(|text| is_truthy(text));
    let settled = label(LABEL_SIDECAR_INJECTED)
        || label(LABEL_WATCHDOG_PATCHED)
        || annotation(ANNOTATION_INJECTION_SKIPPED).is_some()
        || annotation(MIRROR_POD).is_some()
        || pod.deletion_timestamp.is_some();
    if !asks || settled {
        return None;
    }
    let key = Key::of(pod);
    let reference = controller(pod)?.clone();
    let owner = Owner { namespace: key.namespace.clone(), reference };
    Some(Suspect { key, uid: pod.uid.clone()?, owner, seen: 0 })
}

/// Who makes another pod when this one is gone; a node is the owner of its static pods only.
fn controller(pod: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = pod.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true) && owner.kind != "Node")
}

#[cfg(test)]
#[path = "book_tests.rs"]
mod tests;
