//! Follows the Components that bring containers.

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

use super::{Cluster, Denied, LOG, RETRY, call, dapr_kind, denied};
use crate::components::ComponentContainer;
use crate::live::{Components, Live};

/// How often Components are listed where they cannot be watched.
const POLL: Duration = Duration::from_secs(5);
/// How many such lists before the watch is tried again: rights may have been granted.
const POLLS_BEFORE_WATCH: u32 = 60;

impl Cluster {
    /// Keeps the Components that bring containers in `live`, until dropped.
    pub async fn follow_components(self, live: Live) {
        let kind = dapr_kind("Component", "components");
        let mut everywhere = true;
        let mut said = false;
        loop {
            let only = (!everywhere).then(|| self.namespace.clone());
            let api: Api<DynamicObject> = match &only {
                None => Api::all_with(self.client.clone(), &kind),
                Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &kind),
            };
            match watch_components(&api, only.as_ref(), &live).await {
                Denied::Watch => poll_components(&api, only.as_ref(), &live).await,
                Denied::List => {
                    if !said {
                        said = true;
                        tracing::info!(target: LOG, "Components of all namespaces may not be listed; pods with {ANNOTATION_INJECT_PLUGGABLE_COMPONENTS} get containers in namespace {} at most", self.namespace);
                    }
                    everywhere = !everywhere;
                    live.set_components(Components::Unknown(
                        "the injector may not list them".to_owned(),
                    ));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

type Containers = BTreeMap<(String, String), ComponentContainer>;

/// Follows the Components until the API server forbids it.
async fn watch_components(api: &Api<DynamicObject>, only: Option<&String>, live: &Live) -> Denied {
    let events = watcher::watcher(api.clone(), watcher::Config::default());
    pin_mut!(events);
    let mut known = Containers::new();
    loop {
        match events.next().await {
            Some(Ok(event)) => {
                if apply(&mut known, event) {
                    live.set_components(snapshot(&known, only));
                }
            }
            Some(Err(error)) => {
                if let Some(denied) = denied(&error) {
                    return denied;
                }
                let why = runtime::chain(&error);
                tracing::debug!(target: LOG, "Components cannot be followed: {why}");
                live.set_components(Components::Unknown(why));
                tokio::time::sleep(RETRY).await;
            }
            None => return Denied::Watch,
        }
    }
}

/// Lists the Components for a while.
async fn poll_components(api: &Api<DynamicObject>, only: Option<&String>, live: &Live) {
    for _ in 0..POLLS_BEFORE_WATCH {
        // From the API server's cache: a list now and then must not read through to etcd.
        match call(api.list(&ListParams::default().match_any())).await {
            Ok(list) => {
                let mut known = Containers::new();
                for component in list {
                    apply(&mut known, Event::Apply(component));
                }
                live.set_components(snapshot(&known, only));
            }
            Err(error) => live.set_components(Components::Unknown(runtime::chain(&error))),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Works an event in; true when the set is complete and may have changed.
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

fn snapshot(known: &Containers, only: Option<&String>) -> Components {
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
        let snapshot = snapshot(known, None);
        snapshot.of(namespace).unwrap().iter().map(|c| c.name.clone()).collect()
    }

    #[test]
    fn only_components_with_a_container_are_kept_in_order_of_name() {
        let mut known = Containers::new();
        assert!(!apply(&mut known, Event::Init));
        for (namespace, name) in [("a", "z"), ("b", "x"), ("a", "y")] {
            assert!(!apply(&mut known, Event::InitApply(component(namespace, name, Some("{}")))));
        }
        assert!(!apply(&mut known, Event::InitApply(component("a", "plain", None))));
        assert!(apply(&mut known, Event::InitDone));
        assert_eq!(names(&known, "a"), ["y", "z"]);
        assert_eq!(snapshot(&known, None).of("a").unwrap()[0].scopes, ["app"]);
    }

    #[test]
    fn a_container_can_be_taken_away_and_components_deleted() {
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
