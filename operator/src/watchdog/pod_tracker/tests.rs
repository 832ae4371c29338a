use rstest::rstest;
use runtime::clock;
use serde_json::{Value, json};

use super::*;

const NOT_INJECTED: &str = "{}";
const INJECTED: &str = r#"{"metadata": {"labels": {"dapr.io/sidecar-injected": "true"}}}"#;

/// A pod of the replica set `owner`, created at second `created`, merged with `more`.
fn pod(name: &str, owner: &str, created: u32, more: &str) -> ObjectMeta {
    let mut pod = json!({"metadata": {
        "name": name, "namespace": "n", "uid": name,
        "creationTimestamp": format!("2026-01-01T00:00:{created:02}Z"),
        "annotations": {"dapr.io/enabled": "true"},
        "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner,
                             "uid": owner, "controller": true}],
    }});
    let more: Value = serde_json::from_str(more).unwrap();
    json_patch::merge(&mut pod, &more);
    serde_json::from_value(pod["metadata"].clone()).unwrap()
}

struct Fixture {
    tracker: PodTracker,
    now: Instant,
}

impl Fixture {
    fn new() -> Self {
        Self {
            tracker: PodTracker::new(OwnerKinds::parse("CloneSet.apps.kruise.io").unwrap()),
            now: clock::monotonic(),
        }
    }

    fn observe(&mut self, pod: ObjectMeta) {
        self.tracker.apply(&WatchEvent::Apply(pod), self.now);
    }

    fn wait(&mut self, pause: Duration) {
        self.now += pause;
        self.tracker.begin_pass();
    }

    /// Name of the pod to check next.
    fn next(&self) -> Option<String> {
        match self.tracker.next(self.now) {
            NextStep::Check(pod) => Some(pod.key.name),
            NextStep::Wait(_) | NextStep::Done => None,
        }
    }

    /// Deletes the next pod, which must be this one.
    fn delete(&mut self, name: &str) {
        let NextStep::Check(pod) = self.tracker.next(self.now) else { panic!("no pod to check") };
        assert_eq!(pod.key.name, name);
        self.tracker.deleted(&pod, self.now);
    }
}

#[rstest]
#[case::not_injected(NOT_INJECTED, true)]
#[case::truthy(r#"{"metadata": {"annotations": {"dapr.io/enabled": " On "}}}"#, true)]
#[case::not_requested(r#"{"metadata": {"annotations": {"dapr.io/enabled": "false"}}}"#, false)]
#[case::no_annotations(r#"{"metadata": {"annotations": null}}"#, false)]
#[case::injected(INJECTED, false)]
#[case::patched(r#"{"metadata": {"labels": {"dapr.io/watchdog-patched": "true"}}}"#, false)]
#[case::skipped(
    r#"{"metadata": {"annotations": {"dapr.io/injection-skipped": "creator-not-allowed"}}}"#,
    false
)]
#[case::mirror(r#"{"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}"#, false)]
#[case::terminating(r#"{"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}"#, false)]
#[case::bare(r#"{"metadata": {"ownerReferences": null}}"#, false)]
#[case::owned_but_not_controlled(r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"}]}}"#, false)]
#[case::of_a_node(r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "c", "uid": "c", "controller": true}]}}"#, false)]
fn only_pods_with_a_controller_and_without_sidecar_are_candidates(
    #[case] more: &str,
    #[case] want: bool,
) {
    let mut fixture = Fixture::new();
    fixture.observe(pod("a", "rs", 0, more));
    assert_eq!(fixture.next().is_some(), want);
}

#[test]
fn one_pod_per_owner_is_deleted_until_its_replacement_has_a_sidecar() {
    let mut fixture = Fixture::new();
    for name in ["a", "b", "c"] {
        fixture.observe(pod(name, "rs", 1, NOT_INJECTED));
    }
    fixture.observe(pod("x", "other", 1, NOT_INJECTED));
    fixture.delete("a");
    fixture.delete("x"); // another owner does not wait
    assert!(matches!(fixture.tracker.next(fixture.now), NextStep::Wait(_)));
    fixture.observe(pod("a2", "rs", 2, INJECTED));
    fixture.delete("b");
    fixture.observe(pod("b2", "rs", 3, INJECTED));
    assert_eq!(fixture.next().as_deref(), Some("c"));
}

#[test]
fn older_injected_sibling_is_not_a_replacement() {
    let mut fixture = Fixture::new();
    fixture.observe(pod("old", "rs", 1, INJECTED));
    fixture.observe(pod("a", "rs", 5, NOT_INJECTED));
    fixture.observe(pod("b", "rs", 5, NOT_INJECTED));
    fixture.delete("a");
    fixture.observe(pod("old", "rs", 1, INJECTED)); // its status changed
    assert_eq!(fixture.next(), None);
}

#[test]
fn owner_whose_replacements_have_no_sidecar_backs_off_and_is_given_up() {
    let mut fixture = Fixture::new();
    fixture.observe(pod("a", "rs", 1, NOT_INJECTED));
    fixture.observe(pod("spare", "rs", 1, NOT_INJECTED));
    fixture.delete("a");
    fixture.observe(pod("a2", "rs", 2, NOT_INJECTED));
    assert_eq!(
        fixture.tracker.next(fixture.now),
        NextStep::Done,
        "neither the replacement nor the spare pod"
    );
    fixture.wait(Duration::from_secs(59));
    assert_eq!(fixture.next(), None);
    fixture.wait(Duration::from_secs(1));
    fixture.delete("spare");
    fixture.observe(pod("a3", "rs", 3, NOT_INJECTED));
    fixture.wait(Duration::from_secs(119));
    assert_eq!(fixture.next(), None);
    fixture.wait(Duration::from_secs(1));
    fixture.delete("a2");
    assert!(fixture.tracker.take_given_up().is_empty());
    fixture.observe(pod("a4", "rs", 4, NOT_INJECTED));
    fixture.wait(Duration::from_hours(24));
    assert_eq!(fixture.next(), None, "given up");
    let given_up = fixture.tracker.take_given_up();
    assert_eq!(given_up[0].reference.name, "rs");
    assert_eq!(fixture.tracker.given_up(), 1);
    assert!(fixture.tracker.take_given_up().is_empty(), "reported once");
    // The injector was repaired.
    fixture.observe(pod("a5", "rs", 5, INJECTED));
    assert_eq!(fixture.tracker.given_up(), 0);
    assert!(fixture.next().is_some());
}

#[test]
fn injected_replacement_resets_the_failures() {
    let mut fixture = Fixture::new();
    fixture.observe(pod("a", "rs", 1, NOT_INJECTED));
    for second in 2..12 {
        fixture.delete(&if second == 2 { "a".to_owned() } else { format!("p{}", second - 1) });
        fixture.observe(pod(&format!("ok{second}"), "rs", second, INJECTED));
        fixture.observe(pod(&format!("p{second}"), "rs", second, NOT_INJECTED));
    }
    assert_eq!(fixture.tracker.given_up(), 0);
}

#[test]
fn missing_replacement_is_awaited_for_a_limited_time() {
    let mut fixture = Fixture::new();
    fixture.observe(pod("a", "rs", 1, NOT_INJECTED));
    fixture.observe(pod("b", "rs", 1, NOT_INJECTED));
    fixture.delete("a");
    assert_eq!(fixture.tracker.next(fixture.now), NextStep::Wait(fixture.now + REPLACEMENT));
    fixture.now += REPLACEMENT;
    assert_eq!(fixture.next().as_deref(), Some("b"));
}

#[test]
fn skipped_pods_are_checked_in_the_next_pass_and_cleared_pods_are_not() {
    let mut fixture = Fixture::new();
    fixture.observe(pod("a", "rs", 1, NOT_INJECTED));
    fixture.observe(pod("b", "rs", 1, NOT_INJECTED));
    for skip_this_pass in [true, false] {
        let NextStep::Check(pod) = fixture.tracker.next(fixture.now) else {
            panic!("no pod to check")
        };
        if skip_this_pass {
            fixture.tracker.skip_this_pass(&pod);
        } else {
            fixture.tracker.cleared(&pod);
        }
    }
    assert_eq!(fixture.tracker.next(fixture.now), NextStep::Done);
    fixture.tracker.begin_pass();
    assert_eq!(fixture.next().as_deref(), Some("a"));
    assert_eq!(fixture.tracker.candidates(), 1);
}

#[test]
fn rejected_deletion_keeps_the_candidate() {
    let mut fixture = Fixture::new();
    fixture.observe(pod("a", "rs", 1, NOT_INJECTED));
    let NextStep::Check(candidate) = fixture.tracker.next(fixture.now) else {
        panic!("no pod to check")
    };
    fixture.tracker.deleted(&candidate, fixture.now);
    fixture.tracker.not_deleted(&candidate);
    assert_eq!(fixture.tracker.next(fixture.now), NextStep::Check(candidate));
}

#[test]
fn deleted_pods_and_their_owners_are_removed() {
    let mut fixture = Fixture::new();
    fixture.observe(pod("a", "rs", 1, NOT_INJECTED));
    fixture.observe(pod("b", "rs", 1, NOT_INJECTED));
    fixture.tracker.apply(&WatchEvent::Delete(pod("a", "rs", 1, NOT_INJECTED)), fixture.now);
    assert_eq!(fixture.next().as_deref(), Some("b"));
    fixture.tracker.apply(&WatchEvent::Init, fixture.now);
    fixture.tracker.apply(&WatchEvent::InitDone, fixture.now);
    fixture.tracker.begin_pass();
    assert_eq!(fixture.tracker.next(fixture.now), NextStep::Done);
    assert!(fixture.tracker.candidates.is_empty() && fixture.tracker.owners.is_empty());
}

#[rstest]
#[case::replica_set("apps/v1", "ReplicaSet", true)]
#[case::stateful_set("apps/v1", "StatefulSet", true)]
#[case::daemon_set("apps/v1", "DaemonSet", true)]
#[case::replication_controller("v1", "ReplicationController", true)]
#[case::by_value("apps.kruise.io/v1alpha1", "CloneSet", true)]
#[case::other_group("example.com/v1", "ReplicaSet", false)]
#[case::job("batch/v1", "Job", false)]
#[case::task_run("tekton.dev/v1", "TaskRun", false)]
#[case::workflow("argoproj.io/v1alpha1", "Workflow", false)]
#[case::config_map("v1", "ConfigMap", false)]
fn only_pods_that_their_controller_replaces_are_deleted(
    #[case] api_version: &str,
    #[case] kind: &str,
    #[case] replaced: bool,
) {
    let mut fixture = Fixture::new();
    let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": api_version, "kind": kind,
        "name": "o", "uid": "o", "controller": true}]}});
    fixture.observe(pod("a", "o", 1, &owner.to_string()));
    fixture.observe(pod("b", "o", 1, &owner.to_string()));
    let NextStep::Check(candidate) = fixture.tracker.next(fixture.now) else {
        panic!("no pod to check")
    };
    assert_eq!(candidate.replaced, replaced);
    if !replaced {
        assert!(fixture.tracker.left_alone(&candidate), "one Event");
        let NextStep::Check(second) = fixture.tracker.next(fixture.now) else {
            panic!("no pod to check")
        };
        assert!(!fixture.tracker.left_alone(&second), "no second Event for one owner");
        fixture.wait(Duration::from_hours(1));
        assert_eq!(fixture.tracker.next(fixture.now), NextStep::Done);
        assert_eq!(fixture.tracker.candidates(), 2, "they lack their sidecar still");
    }
}
