//! The Configuration that each app uses, from the annotations of its pods.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::ObjectMeta;
use kubernetes::{Store, WatchEvent};
use resources::annotations::{ANNOTATION_APP_ID, ANNOTATION_CONFIG, ANNOTATION_ENABLED, is_truthy};
use tokio::sync::watch;

use kubernetes::ObjectKey;

/// The sidecar annotations of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodClaim {
    /// Annotation `dapr.io/app-id`; default: the name of the pod.
    pub(crate) app_id: String,
    /// Annotation `dapr.io/config` as written; empty if blank or absent.
    pub(crate) configuration: String,
    /// UID of the pod, kept for those with a Configuration.
    pub(crate) uid: Option<String>,
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
        // Sidecars ask for the name as written.
        let configuration =
            Some(annotation(ANNOTATION_CONFIG)).filter(|name| !name.trim().is_empty());
        let configuration = configuration.unwrap_or_default().to_owned();
        let uid = metadata.uid.clone().filter(|_| !configuration.is_empty());
        Some(Self { app_id, configuration, uid })
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
    claims: Mutex<Store<ObjectKey, PodClaim>>,
    /// Whether all pods have been listed.
    synced: watch::Sender<bool>,
}

impl Assignments {
    /// Whether `app_id` uses `configuration`.
    pub(crate) fn uses(&self, namespace: &str, app_id: &str, configuration: &str) -> bool {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        assigned(of_namespace(&claims, namespace), app_id) == Some(configuration)
    }

    /// Waits until all pods have been listed, without a limit.
    pub(crate) async fn wait_synced(&self) {
        // The sender lives in `self`.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// The app ids of the pods in a namespace.
    pub(crate) fn apps(&self, namespace: &str) -> BTreeSet<String> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        of_namespace(&claims, namespace).map(|pod| pod.app_id.clone()).collect()
    }

    /// The namespaces of the pods.
    pub(crate) fn namespaces(&self) -> BTreeSet<String> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.objects().keys().map(|key| key.namespace.clone()).collect()
    }

    /// The Configurations that the pods of a namespace name, each with the first pod that names it.
    pub(crate) fn configurations(&self, namespace: &str) -> BTreeMap<String, ObjectReference> {
        let claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ObjectKey { namespace: namespace.to_owned(), name: String::new() };
        let pods =
            claims.objects().range(first..).take_while(|(key, _)| key.namespace == namespace);
        let mut named = BTreeMap::new();
        for (key, claim) in pods.filter(|(_, claim)| !claim.configuration.is_empty()) {
            named.entry(claim.configuration.clone()).or_insert_with(|| ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(key.namespace.clone()),
                name: Some(key.name.clone()),
                uid: claim.uid.clone(),
                ..ObjectReference::default()
            });
        }
        named
    }

    /// Applies a watch event of a pod.
    pub(crate) fn apply(&self, event: WatchEvent<ObjectMeta>) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.apply(event.map(|pod| (ObjectKey::of(&pod), PodClaim::of(&pod))));
        let synced = claims.is_synced();
        drop(claims);
        self.synced.send_if_modified(|was| std::mem::replace(was, synced) != synced);
    }
}

fn of_namespace<'a>(
    claims: &'a Store<ObjectKey, PodClaim>,
    namespace: &'a str,
) -> impl Iterator<Item = &'a PodClaim> {
    let first = ObjectKey { namespace: namespace.to_owned(), name: String::new() };
    let pods = claims.objects().range(first..);
    pods.take_while(move |(key, _)| key.namespace == namespace).map(|(_, claim)| claim)
}

#[cfg(test)]
mod tests {
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
    #[case::space_is_part_of_the_name(&[&[("enabled", "1"), ("app-id", "a"), ("config", "c ")][..]], false)]
    #[case::blank_is_none(&[&[("enabled", "1"), ("app-id", "a"), ("config", " ")][..],
        &[("enabled", "1"), ("app-id", "a"), ("config", "c")][..]], true)]
    #[case::pods_without_config_are_ignored(&[&[("enabled", "1"), ("app-id", "a")][..],
        &[("enabled", "1"), ("app-id", "a"), ("config", "c")][..]], true)]
    #[case::disagreement(&[&[("enabled", "1"), ("app-id", "a"), ("config", "c")][..],
        &[("enabled", "1"), ("app-id", "a"), ("config", "d")][..]], false)]
    fn pods_assign_configurations(#[case] pods: &[&[(&str, &str)]], #[case] want: bool) {
        let assignments = Assignments::default();
        for (i, annotations) in pods.iter().enumerate() {
            assignments.apply(WatchEvent::Apply(pod(&format!("p{i}"), annotations)));
        }
        assert_eq!(assignments.uses("n", "a", "c"), want);
    }

    #[test]
    fn app_id_defaults_to_the_name_of_the_pod() {
        let assignments = Assignments::default();
        let annotations = [("enabled", "true"), ("config", "c")];
        assignments.apply(WatchEvent::Apply(pod("a", &annotations)));
        assert!(assignments.uses("n", "a", "c"));
        assignments.apply(WatchEvent::Delete(pod("a", &annotations)));
        assert!(!assignments.uses("n", "a", "c"));
    }

    #[test]
    fn relist_replaces_everything() {
        let assignments = Assignments::default();
        let annotations = [("enabled", "true"), ("config", "c")];
        assignments.apply(WatchEvent::Apply(pod("a", &annotations)));
        for event in
            [WatchEvent::Init, WatchEvent::InitApply(pod("b", &annotations)), WatchEvent::InitDone]
        {
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
