//! Which Configuration an app uses, from the annotations of its pods.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use kube::core::ObjectMeta;
use resources::annotations::{ANNOTATION_APP_ID, ANNOTATION_CONFIG, ANNOTATION_ENABLED, is_truthy};
use tokio::sync::watch;

use crate::cache::Key;

/// What a pod says about its sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    /// Annotation `dapr.io/app-id`, or the pod's name.
    pub app_id: String,
    /// Annotation `dapr.io/config`; empty for none.
    pub configuration: String,
}

impl PodClaim {
    /// `None` for a pod that has no sidecar or is about to end.
    pub fn of(metadata: &ObjectMeta) -> Option<Self> {
        let annotation = |key: &str| {
            metadata.annotations.as_ref().and_then(|a| a.get(key)).map_or("", String::as_str)
        };
        if !is_truthy(annotation(ANNOTATION_ENABLED)) || metadata.deletion_timestamp.is_some() {
            return None;
        }
        let app_id = match annotation(ANNOTATION_APP_ID) {
            "" => metadata.name.clone().unwrap_or_default(),
            id => id.to_owned(),
        };
        Some(Self { app_id, configuration: annotation(ANNOTATION_CONFIG).to_owned() })
    }
}

/// The name that all of `pods` which name a Configuration agree on.
///
/// While an annotation is rolled out pods disagree; a change of either Configuration then reaches
/// nobody, because a foreign one would restart a sidecar (Dapr 1.18).
pub fn assigned<'a>(pods: impl Iterator<Item = &'a PodClaim>, app_id: &str) -> Option<&'a str> {
    let mut names = pods
        .filter(|pod| pod.app_id == app_id && !pod.configuration.is_empty())
        .map(|pod| pod.configuration.as_str());
    let first = names.next()?;
    names.all(|name| name == first).then_some(first)
}

/// The claims of all pods, as last seen.
#[derive(Default)]
pub struct Assignments {
    claims: Mutex<Claims>,
    /// Whether every pod has been seen.
    known: watch::Sender<bool>,
}

#[derive(Default)]
struct Claims {
    namespaces: BTreeMap<String, BTreeMap<String, PodClaim>>,
    /// The claims of a list under way, which replace the others when it is complete.
    listing: Option<BTreeMap<String, BTreeMap<String, PodClaim>>>,
}

impl Assignments {
    /// Whether `configuration` is the one that `app_id` uses.
    pub fn uses(&self, namespace: &str, app_id: &str, configuration: &str) -> bool {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = claims.namespaces.get(namespace).into_iter().flat_map(BTreeMap::values);
        assigned(pods, app_id) == Some(configuration)
    }

    /// Waits until every pod has been seen, however long it takes.
    pub async fn known_at_last(&self) {
        // The sender lives in `self`.
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    /// The app ids of the pods of a namespace.
    pub fn apps(&self, namespace: &str) -> BTreeSet<String> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = claims.namespaces.get(namespace).into_iter().flat_map(BTreeMap::values);
        pods.map(|pod| pod.app_id.clone()).collect()
    }

    /// Takes in what a watch saw.
    pub fn apply(&self, event: kube::runtime::watcher::Event<ObjectMeta>) {
        use kube::runtime::watcher::Event;
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => claims.listing = Some(BTreeMap::new()),
            Event::InitApply(pod) => {
                if let Some(listing) = claims.listing.as_mut() {
                    put(listing, &pod);
                }
            }
            Event::InitDone => {
                if let Some(listing) = claims.listing.take() {
                    claims.namespaces = listing;
                }
                self.known.send_replace(true);
            }
            Event::Apply(pod) => put(&mut claims.namespaces, &pod),
            Event::Delete(pod) => remove(&mut claims.namespaces, &Key::of(&pod)),
        }
    }
}

fn put(namespaces: &mut BTreeMap<String, BTreeMap<String, PodClaim>>, pod: &ObjectMeta) {
    let key = Key::of(pod);
    match PodClaim::of(pod) {
        Some(claim) => {
            namespaces.entry(key.namespace).or_default().insert(key.name, claim);
        }
        None => remove(namespaces, &key),
    }
}

fn remove(namespaces: &mut BTreeMap<String, BTreeMap<String, PodClaim>>, key: &Key) {
    if let Some(pods) = namespaces.get_mut(&key.namespace) {
        pods.remove(&key.name);
        if pods.is_empty() {
            namespaces.remove(&key.namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use rstest::rstest;

    use super::*;

    fn pod(name: &str, annotations: &[(&str, &str)]) -> ObjectMeta {
        let annotations =
            annotations.iter().map(|(k, v)| (format!("dapr.io/{k}"), (*v).to_owned()));
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some("n".to_owned()),
            annotations: Some(annotations.collect()),
            ..ObjectMeta::default()
        }
    }

    #[rstest]
    #[case::one(&[&[("enabled", "true"), ("app-id", "a"), ("config", "c")][..]], true)]
    #[case::any_truth(&[&[("enabled", " Yes "), ("app-id", "a"), ("config", "c")][..]], true)]
    #[case::not_enabled(&[&[("enabled", "no"), ("app-id", "a"), ("config", "c")][..]], false)]
    #[case::no_config(&[&[("enabled", "1"), ("app-id", "a")][..]], false)]
    #[case::other_app(&[&[("enabled", "1"), ("app-id", "b"), ("config", "c")][..]], false)]
    #[case::silent_pods_do_not_count(&[&[("enabled", "1"), ("app-id", "a")][..],
        &[("enabled", "1"), ("app-id", "a"), ("config", "c")][..]], true)]
    #[case::disagreement(&[&[("enabled", "1"), ("app-id", "a"), ("config", "c")][..],
        &[("enabled", "1"), ("app-id", "a"), ("config", "d")][..]], false)]
    fn pods_assign_configurations(#[case] pods: &[&[(&str, &str)]], #[case] want: bool) {
        let assignments = Assignments::default();
        for (i, annotations) in pods.iter().enumerate() {
            assignments.apply(Event::Apply(pod(&format!("p{i}"), annotations)));
        }
        assert_eq!(assignments.uses("n", "a", "c"), want);
    }

    #[test]
    fn pod_without_app_id_is_known_by_its_name() {
        let assignments = Assignments::default();
        let annotations = [("enabled", "true"), ("config", "c")];
        assignments.apply(Event::Apply(pod("a", &annotations)));
        assert!(assignments.uses("n", "a", "c"));
        assignments.apply(Event::Delete(pod("a", &annotations)));
        assert!(!assignments.uses("n", "a", "c"));
    }

    #[test]
    fn relist_replaces_everything() {
        let assignments = Assignments::default();
        let annotations = [("enabled", "true"), ("config", "c")];
        assignments.apply(Event::Apply(pod("a", &annotations)));
        for event in [Event::Init, Event::InitApply(pod("b", &annotations)), Event::InitDone] {
            assert!(assignments.uses("n", "a", "c"), "the old state serves until the list is done");
            assignments.apply(event);
        }
        assert!(!assignments.uses("n", "a", "c"));
        assert!(assignments.uses("n", "b", "c"));
    }
}
