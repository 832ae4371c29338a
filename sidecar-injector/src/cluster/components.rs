//! Watches the Components that define containers, or polls them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{StreamExt as _, pin_mut};
use kube::api::{DynamicObject, ListParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use resources::annotations::{
    ANNOTATION_COMPONENT_CONTAINER, ANNOTATION_INJECT_PLUGGABLE_COMPONENTS,
};
use serde_json::Value;

use super::snapshot::{ClusterSnapshot, Components};
use super::{Cluster, LOG, MissingRight, RETRY, call, dapr_kind, missing_right};
use crate::sidecar::ComponentContainer;

/// Interval of lists without the right to watch.
const POLL: Duration = Duration::from_secs(5);
/// Lists until the watch is tried again, because the right can be granted later.
const POLLS_BEFORE_WATCH: u32 = 60;

impl Cluster {
    /// Watches the Components that define containers: of all namespaces, or of the control plane's
    /// namespace if the injector may not list all.
    pub(crate) async fn watch_components(self, snapshot: ClusterSnapshot) {
        let kind = dapr_kind("Component", "components");
        let mut everywhere = true;
        let mut logged = false;
        loop {
            let only = (!everywhere).then(|| self.namespace.clone());
            let api: Api<DynamicObject> = match &only {
                None => Api::all_with(self.client.clone(), &kind),
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            };
            match watch(&api, only.as_ref(), &snapshot).await {
                MissingRight::Watch => poll(&api, only.as_ref(), &snapshot).await,
                MissingRight::List => {
                    if !logged {
                        logged = true;
                        tracing::info!(target: LOG, "the injector may not list Components of all namespaces; {ANNOTATION_INJECT_PLUGGABLE_COMPONENTS} has an effect in namespace {} at most", self.namespace);
                    }
                    everywhere = !everywhere;
                    snapshot.set_components(Components::Unknown(
                        "the injector may not list them (RBAC)".to_owned(),
                    ));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

type Containers = BTreeMap<(String, String), ComponentContainer>;

/// Watches until the API server denies a right.
async fn watch(
    api: &Api<DynamicObject>,
    only: Option<&String>,
    snapshot: &ClusterSnapshot,
) -> MissingRight {
    let events = watcher::watcher(api.clone(), watcher::Config::default());
    pin_mut!(events);
    let mut known = Containers::new();
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                if apply(&mut known, event) {
                    snapshot.set_components(to_snapshot(&known, only));
                }
            }
            Some(Err(error)) => {
                if let Some(right) = missing_right(&error) {
                    return right;
                }
                let why = runtime::chain(&error);
                tracing::debug!(target: LOG, "cannot watch Components, retrying: {why}");
                snapshot.set_components(Components::Unknown(why));
                tokio::time::sleep(RETRY).await;
            }
            None => return MissingRight::Watch,
        }
    }
}

/// Lists the Components [`POLLS_BEFORE_WATCH`] times.
async fn poll(api: &Api<DynamicObject>, only: Option<&String>, snapshot: &ClusterSnapshot) {
    for _ in 0..POLLS_BEFORE_WATCH {
        // From the cache of the API server, without a read of etcd.
        match call(api.list(&ListParams::default().match_any())).await {
            Ok(list) => {
                let mut known = Containers::new();
                for component in list {
                    apply(&mut known, Event::Apply(component));
                }
                snapshot.set_components(to_snapshot(&known, only));
            }
            Err(error) => snapshot.set_components(Components::Unknown(runtime::chain(&error))),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Applies an event. True if the set is complete and can have changed.
fn apply(known: &mut Containers, event: Event<DynamicObject>) -> bool {
    let key = |c: &DynamicObject| (c.namespace().unwrap_or_default(), c.name_any());
    match event {
        Event::Init => {
            known.clear();
            false
        }
        Event::InitApply(component) => {
            known.extend(container(&component).map(|found| (key(&component), found)));
            false
        }
        Event::InitDone => true,
        Event::Apply(component) => {
            let key = key(&component);
            match container(&component) {
                Some(found) => known.insert(key, found),
                None => known.remove(&key),
            };
            true
        }
        Event::Delete(component) => known.remove(&key(&component)).is_some(),
    }
}

fn to_snapshot(known: &Containers, only: Option<&String>) -> Components {
    let mut by_namespace: HashMap<String, Vec<ComponentContainer>> = HashMap::new();
    for ((namespace, _), found) in known {
        by_namespace.entry(namespace.clone()).or_default().push(found.clone());
    }
    Components::Known { by_namespace, only: only.cloned() }
}

fn container(component: &DynamicObject) -> Option<ComponentContainer> {
    let container = component.annotations().get(ANNOTATION_COMPONENT_CONTAINER)?;
    let scopes = component.data.get("scopes").and_then(Value::as_array);
    let scopes = scopes.into_iter().flatten().filter_map(Value::as_str);
    (!container.is_empty()).then(|| ComponentContainer {
        name: component.name_any(),
        scopes: scopes.map(str::to_owned).collect(),
        container: container.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn component(namespace: &str, name: &str, container: Option<&str>) -> DynamicObject {
        let annotations =
            container.map_or(json!({}), |c| json!({ ANNOTATION_COMPONENT_CONTAINER: c }));
        serde_json::from_value(json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": {"namespace": namespace, "name": name, "annotations": annotations},
            "scopes": ["app"],
        }))
        .unwrap()
    }

    fn names(known: &Containers, namespace: &str) -> Vec<String> {
        let components = to_snapshot(known, None);
        components.of(namespace).unwrap().iter().map(|c| c.name.clone()).collect()
    }

    #[test]
    fn keeps_components_with_a_container_ordered_by_name() {
        let mut known = Containers::new();
        assert!(!apply(&mut known, Event::Init));
        for (namespace, name) in [("a", "z"), ("b", "x"), ("a", "y")] {
            assert!(!apply(&mut known, Event::InitApply(component(namespace, name, Some("{}")))));
        }
        assert!(!apply(&mut known, Event::InitApply(component("a", "plain", None))));
        assert!(apply(&mut known, Event::InitDone));
        assert_eq!(names(&known, "a"), ["y", "z"]);
        assert_eq!(to_snapshot(&known, None).of("a").unwrap()[0].scopes, ["app"]);
    }

    #[test]
    fn removes_components_that_lose_their_container_or_are_deleted() {
        let mut known = Containers::new();
        for name in ["x", "y"] {
            assert!(apply(&mut known, Event::Apply(component("a", name, Some("{}")))));
        }
        assert!(apply(&mut known, Event::Apply(component("a", "x", None))));
        assert_eq!(names(&known, "a"), ["y"]);
        assert!(apply(&mut known, Event::Delete(component("a", "y", Some("{}")))));
        assert!(!apply(&mut known, Event::Delete(component("a", "other", None))));
        assert!(names(&known, "a").is_empty());
    }
}
