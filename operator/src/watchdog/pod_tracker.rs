//! Tracks pods that may lack their sidecar and selects the next one to check.
//!
//! Pure. It shares the watch of pod metadata with the Configuration assignments and keeps candidates
//! only. One pod per owner is deleted at a time, the next one only after the replacement received its
//! sidecar: an injector that fails costs one pod.
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::core::ObjectMeta;
use kubernetes::{ListChange, ListDiff, WatchEvent};
use resources::annotations::{ANNOTATION_ENABLED, ANNOTATION_INJECTION_SKIPPED, is_truthy};
use resources::labels::{LABEL_SIDECAR_INJECTED, LABEL_WATCHDOG_PATCHED};

use kubernetes::ObjectKey;

use crate::watchdog::owner_kinds::OwnerKinds;

/// How long to wait for the replacement of a deleted pod.
const REPLACEMENT: Duration = Duration::from_secs(30);
/// First back-off of an owner whose replacement pod has no sidecar either; doubles.
const FIRST_BACK_OFF: Duration = Duration::from_mins(1);
/// Consecutive deletions without effect after which no more pods of an owner are deleted.
const GIVE_UP: u32 = 3;
/// Set by the kubelet on static pods (Kubernetes).
const MIRROR_POD: &str = "kubernetes.io/config.mirror";

/// The controller of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodOwner {
    pub(crate) namespace: String,
    pub(crate) reference: OwnerReference,
}

/// A pod that requests a sidecar and whose metadata shows none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    /// The controller of the pod.
    pub(crate) owner: PodOwner,
    /// Whether the controller replaces a deleted pod without loss.
    pub(crate) replaced: bool,
    /// Sequence number of the first observation.
    seen: u64,
}

/// The next step of a pass.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NextStep {
    /// Check this pod.
    Check(Candidate),
    /// Wait for a change, at most until this time.
    Wait(Instant),
    /// The pass is complete.
    Done,
}

/// The state of an owner of deleted pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A pod of it may be deleted.
    Idle,
    /// A pod was deleted; its replacement is expected until this time.
    Awaiting(Instant),
    /// The replacement has no sidecar either; the next deletion is allowed at this time.
    BackingOff(Instant),
    /// Deletions have no effect; no more pods are deleted.
    GivenUp,
}

struct OwnerState {
    owner: PodOwner,
    phase: Phase,
    /// Consecutive deletions whose replacement had no sidecar either.
    failures: u32,
    /// [`Candidate::seen`] at the last deletion: a later one is a replacement.
    seen: u64,
    /// Creation time of the newest pod in the cluster at the last deletion, by the clock of the API
    /// server. A pod of this owner that is not older is a replacement.
    newest: Option<Timestamp>,
}

/// The candidates and the owners of deleted pods. Bounded by the number of pods.
pub(crate) struct PodTracker {
    owner_kinds: OwnerKinds,
    candidates: BTreeMap<ObjectKey, Candidate>,
    /// Owners of deleted pods, by UID.
    owners: HashMap<String, OwnerState>,
    /// UIDs of candidates that have a sidecar or are finished.
    cleared: BTreeSet<String>,
    /// UIDs of candidates that lack their sidecar and are not deleted, and of their owners.
    left: BTreeSet<String>,
    /// UIDs of candidates that were checked in this pass.
    checked: BTreeSet<String>,
    diff: ListDiff<ObjectKey>,
    given_up: Vec<PodOwner>,
    seen: u64,
    newest: Option<Timestamp>,
}

impl PodTracker {
    /// `owner_kinds` are the controllers whose pods are deleted.
    pub(crate) fn new(owner_kinds: OwnerKinds) -> Self {
        Self {
            owner_kinds,
            candidates: BTreeMap::new(),
            owners: HashMap::new(),
            cleared: BTreeSet::new(),
            left: BTreeSet::new(),
            checked: BTreeSet::new(),
            diff: ListDiff::default(),
            given_up: Vec::new(),
            seen: 0,
            newest: None,
        }
    }

    /// Applies a watch event of a pod.
    pub(crate) fn apply(&mut self, event: &WatchEvent<ObjectMeta>, now: Instant) {
        let event = event.as_ref().map(|pod| (ObjectKey::of(pod), pod));
        match self.diff.apply(event, self.candidates.keys().cloned()) {
            ListChange::Unchanged => {}
            ListChange::Apply(_, pod) => self.put(pod, now),
            ListChange::Remove(keys) => keys.iter().for_each(|key| self.remove(key)),
        }
    }

    /// Starts a pass: skipped candidates are checked again, and stale state is removed.
    pub(crate) fn begin_pass(&mut self) {
        self.checked.clear();
        let uids: BTreeSet<&String> = self.candidates.values().map(|pod| &pod.uid).collect();
        self.cleared.retain(|uid| uids.contains(uid));
        let owners: BTreeSet<&String> =
            self.candidates.values().map(|pod| &pod.owner.reference.uid).collect();
        self.left.retain(|uid| uids.contains(uid) || owners.contains(uid));
        self.owners.retain(|uid, record| {
            matches!(record.phase, Phase::Awaiting(_)) || owners.contains(uid)
        });
    }

    /// The next step: the candidate that was observed first.
    pub(crate) fn next(&self, now: Instant) -> NextStep {
        let open = self.candidates.values().filter(|pod| {
            let sets = [&self.cleared, &self.checked, &self.left];
            let done = sets.iter().any(|set| set.contains(&pod.uid));
            !done && self.may_delete(&pod.owner.reference.uid, now)
        });
        if let Some(pod) = open.min_by_key(|pod| pod.seen) {
            return NextStep::Check(pod.clone());
        }
        let awaited = self.owners.values().filter_map(|record| match record.phase {
            Phase::Awaiting(until) if until > now => Some(until),
            _ => None,
        });
        awaited.min().map_or(NextStep::Done, NextStep::Wait)
    }

    /// The pod has a sidecar or is finished: it is not checked again.
    pub(crate) fn cleared(&mut self, pod: &Candidate) {
        self.cleared.insert(pod.uid.clone());
    }

    /// Skips the pod until the next pass.
    pub(crate) fn skip_this_pass(&mut self, pod: &Candidate) {
        self.checked.insert(pod.uid.clone());
    }

    /// The pod lacks its sidecar and is not deleted: it is not checked again. Returns whether it is the
    /// first one of its owner.
    pub(crate) fn left_alone(&mut self, pod: &Candidate) -> bool {
        self.left.insert(pod.uid.clone());
        self.left.insert(pod.owner.reference.uid.clone())
    }

    /// The pod is being deleted: a replacement is expected.
    pub(crate) fn deleted(&mut self, pod: &Candidate, now: Instant) {
        if self.candidates.get(&pod.key).is_some_and(|known| known.uid == pod.uid) {
            self.candidates.remove(&pod.key);
        }
        let record = self.owners.entry(pod.owner.reference.uid.clone()).or_insert(OwnerState {
            owner: pod.owner.clone(),
            phase: Phase::Idle,
            failures: 0,
            seen: 0,
            newest: None,
        });
        record.phase = Phase::Awaiting(now + REPLACEMENT);
        record.seen = self.seen;
        record.newest = self.newest;
    }

    /// The API server rejected the deletion: no replacement is expected.
    pub(crate) fn not_deleted(&mut self, pod: &Candidate) {
        if let Some(record) = self.owners.get_mut(&pod.owner.reference.uid)
            && matches!(record.phase, Phase::Awaiting(_))
        {
            record.phase = Phase::Idle;
        }
        self.candidates.entry(pod.key.clone()).or_insert_with(|| pod.clone());
    }

    /// Owners whose pods are no longer deleted, new since the last call.
    pub(crate) fn take_given_up(&mut self) -> Vec<PodOwner> {
        std::mem::take(&mut self.given_up)
    }

    /// Number of owners whose pods are no longer deleted.
    pub(crate) fn given_up(&self) -> usize {
        self.owners.values().filter(|record| record.phase == Phase::GivenUp).count()
    }

    /// Number of pods that may lack their sidecar.
    pub(crate) fn candidates(&self) -> usize {
        self.candidates.len() - self.cleared.len().min(self.candidates.len())
    }

    fn may_delete(&self, owner: &str, now: Instant) -> bool {
        match self.owners.get(owner).map_or(Phase::Idle, |record| record.phase) {
            Phase::Idle => true,
            Phase::Awaiting(until) | Phase::BackingOff(until) => now >= until,
            Phase::GivenUp => false,
        }
    }

    fn put(&mut self, pod: &ObjectMeta, now: Instant) {
        let created = pod.creation_timestamp.as_ref().map(|time| time.0);
        self.newest = self.newest.max(created);
        let key = ObjectKey::of(pod);
        let Some(mut candidate) = candidate(pod, &self.owner_kinds) else {
            self.remove(&key);
            self.effect(pod, created);
            return;
        };
        let known = self.candidates.get(&key).filter(|known| known.uid == candidate.uid);
        candidate.seen = known.map_or(self.seen + 1, |known| known.seen);
        self.seen = self.seen.max(candidate.seen);
        if known.is_none() {
            self.no_effect(&candidate, now);
        }
        self.candidates.insert(key, candidate);
    }

    /// An injected pod: the deletion of its predecessor was effective.
    fn effect(&mut self, pod: &ObjectMeta, created: Option<Timestamp>) {
        let injected = pod.labels.as_ref().is_some_and(|l| l.contains_key(LABEL_SIDECAR_INJECTED));
        let Some(owner) = controller(pod).filter(|_| injected) else { return };
        let Some(record) = self.owners.get_mut(&owner.uid) else { return };
        if record.phase != Phase::Idle && created >= record.newest {
            record.phase = Phase::Idle;
            record.failures = 0;
        }
    }

    /// A new pod without sidecar: the deletion of its predecessor was not effective.
    fn no_effect(&mut self, pod: &Candidate, now: Instant) {
        let Some(record) = self.owners.get_mut(&pod.owner.reference.uid) else { return };
        if !matches!(record.phase, Phase::Awaiting(_)) || pod.seen <= record.seen {
            return;
        }
        record.failures += 1;
        record.phase = if record.failures >= GIVE_UP {
            self.given_up.push(record.owner.clone());
            Phase::GivenUp
        } else {
            Phase::BackingOff(now + FIRST_BACK_OFF * (1 << (record.failures - 1)))
        };
    }

    fn remove(&mut self, key: &ObjectKey) {
        if let Some(pod) = self.candidates.remove(key) {
            self.cleared.remove(&pod.uid);
        }
    }
}

/// The pod, if its metadata shows that it may lack its sidecar and that it has a controller.
fn candidate(pod: &ObjectMeta, owner_kinds: &OwnerKinds) -> Option<Candidate> {
    let annotation = |key: &str| pod.annotations.as_ref().and_then(|all| all.get(key));
    let label = |key: &str| pod.labels.as_ref().is_some_and(|all| all.contains_key(key));
    let requested = annotation(ANNOTATION_ENABLED).is_some_and(|text| is_truthy(text));
    let settled = label(LABEL_SIDECAR_INJECTED)
        || label(LABEL_WATCHDOG_PATCHED)
        || annotation(ANNOTATION_INJECTION_SKIPPED).is_some()
        || annotation(MIRROR_POD).is_some()
        || pod.deletion_timestamp.is_some();
    if !requested || settled {
        return None;
    }
    let key = ObjectKey::of(pod);
    let reference = controller(pod)?.clone();
    let replaced = owner_kinds.replace_pods(&reference);
    let owner = PodOwner { namespace: key.namespace.clone(), reference };
    Some(Candidate { key, uid: pod.uid.clone()?, owner, replaced, seen: 0 })
}

/// The controller of the pod; a Node owns static pods only.
fn controller(pod: &ObjectMeta) -> Option<&OwnerReference> {
    let owners = pod.owner_references.as_deref().unwrap_or_default();
    owners.iter().find(|owner| owner.controller == Some(true) && owner.kind != "Node")
}

#[cfg(test)]
mod tests;
