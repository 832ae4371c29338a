//! The Configuration that each app uses, from the annotations of its pods.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use kube::core::ObjectMeta;
use resources::annotations::{ANNOTATION_APP_ID, ANNOTATION_CONFIG, ANNOTATION_ENABLED, is_truthy};
use tokio::sync::watch;

use crate::key::ObjectKey;

/// The sidecar annotations of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodClaim {
    /// Annotation `dapr.io/app-id`; default: the name of the pod.
    pub(crate) app_id: String,
    /// Annotation `dapr.io/config`; empty for none.
    pub(crate) configuration: String,
}

impl PodClaim {
    /// `None` for a pod without sidecar and for a terminating pod.
    pub(crate) fn of(metadata: &ObjectMeta) -> Option<Self> {
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

/// The Configuration that the pods of an app name, if all pods that name one agree.
///
/// While a change of the annotation is rolled out, pods disagree. An update of either Configuration
/// is then sent to no sidecar of the app, because a Configuration that it does not use restarts it
/// (Dapr 1.18).
pub(crate) fn assigned<'a>(
    pods: impl Iterator<Item = &'a PodClaim>,
    app_id: &str,
) -> Option<&'a str> {
    let mut names = pods
        .filter(|pod| pod.app_id == app_id && !pod.configuration.is_empty())
        .map(|pod| pod.configuration.as_str());
    let first = names.next()?;
    names.all(|name| name == first).then_some(first)
}

/// The sidecar annotations of all pods.
#[derive(Default)]
pub(crate) struct Assignments {
    claims: Mutex<Claims>,
    /// Whether all pods have been listed.
    synced: watch::Sender<bool>,
}

#[derive(Default)]
struct Claims {
    namespaces: BTreeMap<String, BTreeMap<String, PodClaim>>,
    /// The claims of a list that is not complete; they replace the others when it is.
    listing: Option<BTreeMap<String, BTreeMap<String, PodClaim>>>,
}

impl Assignments {
    /// Whether `app_id` uses `configuration`.
    pub(crate) fn uses(&self, namespace: &str, app_id: &str, configuration: &str) -> bool {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = claims.namespaces.get(namespace).into_iter().flat_map(BTreeMap::values);
        assigned(pods, app_id) == Some(configuration)
    }

    /// Waits until all pods have been listed, without a limit.
    pub(crate) async fn wait_synced(&self) {
        // The sender lives in `self`.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The app ids of the pods in a namespace.
    pub(crate) fn apps(&self, namespace: &str) -> BTreeSet<String> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let pods = claims.namespaces.get(namespace).into_iter().flat_map(BTreeMap::values);
        pods.map(|pod| pod.app_id.clone()).collect()
    }

    /// Applies a watch event of a pod.
    pub(crate) fn apply(&self, event: kube::runtime::watcher::Event<ObjectMeta>) {
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
                self.synced.send_replace(true);
            }
            Event::Apply(pod) => put(&mut claims.namespaces, &pod),
            Event::Delete(pod) => remove(&mut claims.namespaces, &ObjectKey::of(&pod)),
        }
    }
}

fn put(namespaces: &mut BTreeMap<String, BTreeMap<String, PodClaim>>, pod: &ObjectMeta) {
    let key = ObjectKey::of(pod);
    match PodClaim::of(pod) {
        Some(claim) => {
            namespaces.entry(key.namespace).or_default().insert(key.name, claim);
        }
        None => remove(namespaces, &key),
    }
}

fn remove(namespaces: &mut BTreeMap<String, BTreeMap<String, PodClaim>>, key: &ObjectKey) {
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
    #[case::any_truthy_value(&[&[("enabled", " Yes "), ("app-id", "a"), ("config", "c")][..]], true)]
    #[case::not_enabled(&[&[("enabled", "no"), ("app-id", "a"), ("config", "c")][..]], false)]
    #[case::no_config(&[&[("enabled", "1"), ("app-id", "a")][..]], false)]
    #[case::other_app(&[&[("enabled", "1"), ("app-id", "b"), ("config", "c")][..]], false)]
    #[case::pods_without_config_are_ignored(&[&[("enabled", "1"), ("app-id", "a")][..],
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
    fn app_id_defaults_to_the_name_of_the_pod() {
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
            assert!(
                assignments.uses("n", "a", "c"),
                "the previous claims apply until the list is complete"
            );
            assignments.apply(event);
        }
        assert!(!assignments.uses("n", "a", "c"));
        assert!(assignments.uses("n", "b", "c"));
    }
}
