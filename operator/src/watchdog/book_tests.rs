use rstest::rstest;
use runtime::clock;
use serde_json::{Value, json};

use super::*;

const NAKED: &str = "{}";
const INJECTED: &str = r#"{"metadata": {"labels": {"dapr.io/sidecar-injected": "true"}}}"#;

/// A pod of the replica set `owner` made at second `created`, with `more` merged in.
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

struct Scene {
    book: Book,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self { book: Book::default(), now: clock::monotonic() }
    }

    fn see(&mut self, pod: ObjectMeta) {
        self.book.apply(&Event::Apply(pod), self.now);
    }

    fn wait(&mut self, pause: Duration) {
        self.now += pause;
        self.book.begin_pass();
    }

    /// Name of the pod that would be looked at.
    fn next(&self) -> Option<String> {
        match self.book.next(self.now) {
            Next::Look(pod) => Some(pod.key.name),
            Next::Wait(_) | Next::Nothing => None,
        }
    }

    /// Deletes the next pod, which must be this one.
    fn delete(&mut self, name: &str) {
        let Next::Look(pod) = self.book.next(self.now) else { panic!("nothing to look at") };
        assert_eq!(pod.key.name, name);
        self.book.deleted(&pod, self.now);
    }
}

#[rstest]
#[case::naked(NAKED, true)]
#[case::truthy(r#"{"metadata": {"annotations": {"dapr.io/enabled": " On "}}}"#, true)]
#[case::not_asking(r#"{"metadata": {"annotations": {"dapr.io/enabled": "false"}}}"#, false)]
#[case::no_annotations(r#"{"metadata": {"annotations": null}}"#, false)]
#[case::injected(INJECTED, false)]
#[case::patched(r#"{"metadata": {"labels": {"dapr.io/watchdog-patched": "true"}}}"#, false)]
#[case::refused(
    r#"{"metadata": {"annotations": {"dapr.io/injection-skipped": "creator-not-allowed"}}}"#,
    false
)]
#[case::mirror(r#"{"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}"#, false)]
#[case::terminating(r#"{"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}"#, false)]
#[case::bare(r#"{"metadata": {"ownerReferences": null}}"#, false)]
#[case::owned_but_not_controlled(r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"}]}}"#, false)]
#[case::of_a_node(r#"{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "c", "uid": "c", "controller": true}]}}"#, false)]
fn only_pods_that_would_come_back_are_suspect(#[case] more: &str, #[case] want: bool) {
    let mut scene = Scene::new();
    scene.see(pod("a", "rs", 0, more));
    assert_eq!(scene.next().is_some(), want);
}

#[test]
fn of_one_owner_one_pod_at_a_time_until_the_new_one_has_its_sidecar() {
    let mut scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene.see(pod(name, "rs", 1, NAKED));
    }
    scene.see(pod("x", "other", 1, NAKED));
    scene.delete("a");
    scene.delete("x"); // another owner does not wait
    assert!(matches!(scene.book.next(scene.now), Next::Wait(_)));
    scene.see(pod("a2", "rs", 2, INJECTED));
    scene.delete("b");
    scene.see(pod("b2", "rs", 3, INJECTED));
    assert_eq!(scene.next().as_deref(), Some("c"));
}

#[test]
fn sibling_that_has_long_had_its_sidecar_is_no_proof() {
    let mut scene = Scene::new();
    scene.see(pod("old", "rs", 1, INJECTED));
    scene.see(pod("a", "rs", 5, NAKED));
    scene.see(pod("b", "rs", 5, NAKED));
    scene.delete("a");
    scene.see(pod("old", "rs", 1, INJECTED)); // its status changed
    assert_eq!(scene.next(), None);
}

#[test]
fn owner_whose_new_pods_are_naked_too_pauses_longer_and_is_given_up() {
    let mut scene = Scene::new();
    scene.see(pod("a", "rs", 1, NAKED));
    scene.see(pod("spare", "rs", 1, NAKED));
    scene.delete("a");
    scene.see(pod("a2", "rs", 2, NAKED));
    assert_eq!(scene.book.next(scene.now), Next::Nothing, "neither the new nor the spare one");
    scene.wait(Duration::from_secs(59));
    assert_eq!(scene.next(), None);
    scene.wait(Duration::from_secs(1));
    scene.delete("spare");
    scene.see(pod("a3", "rs", 3, NAKED));
    scene.wait(Duration::from_secs(119));
    assert_eq!(scene.next(), None);
    scene.wait(Duration::from_secs(1));
    scene.delete("a2");
    assert!(scene.book.take_given_up().is_empty());
    scene.see(pod("a4", "rs", 4, NAKED));
    scene.wait(Duration::from_hours(24));
    assert_eq!(scene.next(), None, "left alone");
    let given_up = scene.book.take_given_up();
    assert_eq!(given_up[0].reference.name, "rs");
    assert_eq!(scene.book.given_up(), 1);
    assert!(scene.book.take_given_up().is_empty(), "said once");
    // Somebody repaired it.
    scene.see(pod("a5", "rs", 5, INJECTED));
    assert_eq!(scene.book.given_up(), 0);
    assert!(scene.next().is_some());
}

#[test]
fn success_makes_up_for_earlier_failures() {
    let mut scene = Scene::new();
    scene.see(pod("a", "rs", 1, NAKED));
    for second in 2..12 {
        scene.delete(&if second == 2 { "a".to_owned() } else { format!("p{}", second - 1) });
        scene.see(pod(&format!("ok{second}"), "rs", second, INJECTED));
        scene.see(pod(&format!("p{second}"), "rs", second, NAKED));
    }
    assert_eq!(scene.book.given_up(), 0);
}

#[test]
fn owner_that_makes_no_other_pod_is_waited_for_half_a_minute() {
    let mut scene = Scene::new();
    scene.see(pod("a", "rs", 1, NAKED));
    scene.see(pod("b", "rs", 1, NAKED));
    scene.delete("a");
    assert_eq!(scene.book.next(scene.now), Next::Wait(scene.now + REPLACEMENT));
    scene.now += REPLACEMENT;
    assert_eq!(scene.next().as_deref(), Some("b"));
}

#[test]
fn looked_at_pods_come_back_with_the_next_pass_and_cleared_ones_do_not() {
    let mut scene = Scene::new();
    scene.see(pod("a", "rs", 1, NAKED));
    scene.see(pod("b", "rs", 1, NAKED));
    for put_off in [true, false] {
        let Next::Look(pod) = scene.book.next(scene.now) else { panic!("nothing to look at") };
        if put_off { scene.book.put_off(&pod) } else { scene.book.cleared(&pod) }
    }
    assert_eq!(scene.book.next(scene.now), Next::Nothing);
    scene.book.begin_pass();
    assert_eq!(scene.next().as_deref(), Some("a"));
    assert_eq!(scene.book.suspects(), 1);
}

#[test]
fn refused_deletion_changes_nothing() {
    let mut scene = Scene::new();
    scene.see(pod("a", "rs", 1, NAKED));
    let Next::Look(suspect) = scene.book.next(scene.now) else { panic!("nothing to look at") };
    scene.book.deleted(&suspect, scene.now);
    scene.book.not_deleted(&suspect);
    assert_eq!(scene.book.next(scene.now), Next::Look(suspect));
}

#[test]
fn what_is_gone_is_forgotten() {
    let mut scene = Scene::new();
    scene.see(pod("a", "rs", 1, NAKED));
    scene.see(pod("b", "rs", 1, NAKED));
    scene.book.apply(&Event::Delete(pod("a", "rs", 1, NAKED)), scene.now);
    assert_eq!(scene.next().as_deref(), Some("b"));
    scene.book.apply(&Event::Init, scene.now);
    scene.book.apply(&Event::InitDone, scene.now);
    scene.book.begin_pass();
    assert_eq!(scene.book.next(scene.now), Next::Nothing);
    assert!(scene.book.suspects.is_empty() && scene.book.owners.is_empty());
}
