//! Watches the Components that define containers, or polls them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::{Stream, StreamExt as _, pin_mut};
use kube::api::{DynamicObject, ListParams};
use kube::{Api, ResourceExt as _};
use kubernetes::{FailureKind, Store, Verb, WatchEvent, WatchFailure, WatchOptions};
use resources::annotations::{
    ANNOTATION_COMPONENT_CONTAINER, ANNOTATION_INJECT_PLUGGABLE_COMPONENTS,
};
use serde_json::Value;

use super::snapshot::{ClusterSnapshot, Components};
use super::{Cluster, LOG, RETRY, call, dapr_kind};
use crate::sidecar::ComponentContainer;

/// Interval of lists without the right to watch.
const POLL: Duration = Duration::from_secs(5);
/// Lists until the watch is tried again, because the right can be granted later.
const POLLS_BEFORE_WATCH: u32 = 60;

impl Cluster {
    /// Watches the Components that define containers: of all namespaces, or of the control plane's
    /// namespace while the injector may not list all.
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
            let (namespace, watched) = (only.clone(), kind.clone());
            let events =
                self.watcher().watch(
                    WatchOptions::new("Component"),
                    move |client| match &namespace {
                        None => Api::<DynamicObject>::all_with(client, &watched),
                        Some(namespace) => Api::namespaced_with(client, namespace, &watched),
                    },
                );
            let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
            let one = ListParams::default().limit(1);
            let denied = tokio::select! {
                denied = watch(events, only.as_ref(), &snapshot) => denied,
                () = kubernetes::wait_until_allowed(|| all.list_metadata(&one)), if !everywhere => {
                    everywhere = true;
                    continue;
                }
            };
            match denied {
                Verb::Watch => poll(&api, only.as_ref(), &snapshot).await,
                Verb::List => {
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
    events: impl Stream<Item = WatchEvent<DynamicObject>>,
    only: Option<&String>,
    snapshot: &ClusterSnapshot,
) -> Verb {
    pin_mut!(events);
    let mut store = Store::default();
    while let Some(event) = events.next().await {
        match &event {
            WatchEvent::Failed(WatchFailure { kind: FailureKind::Forbidden(verb), .. }) => {
                return *verb;
            }
            WatchEvent::Failed(failure) if failure.kind != FailureKind::NotServed => {
                snapshot.set_components(Components::Unknown(failure.message.clone()));
            }
            _ => {}
        }
        if store.apply(event.map(|component| (key(&component), container(&component)))) {
            snapshot.set_components(to_snapshot(store.objects(), only));
        }
    }
    Verb::Watch // the stream does not end
}

/// Lists the Components [`POLLS_BEFORE_WATCH`] times.
async fn poll(api: &Api<DynamicObject>, only: Option<&String>, snapshot: &ClusterSnapshot) {
    for _ in 0..POLLS_BEFORE_WATCH {
        // From the cache of the API server, without a read of etcd.
        match call(api.list(&ListParams::default().match_any())).await {
            Ok(list) => {
                let found = list.items.iter();
                let known = found.filter_map(|c| container(c).map(|found| (key(c), found)));
                snapshot.set_components(to_snapshot(&known.collect(), only));
            }
            Err(error) => snapshot.set_components(Components::Unknown(runtime::chain(&error))),
        }
        tokio::time::sleep(POLL).await;
    }
}

fn key(component: &DynamicObject) -> (String, String) {
    (component.namespace().unwrap_or_default(), component.name_any())
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
    use serde_json::json;

    use super::*;

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

    fn apply(
        store: &mut Store<(String, String), ComponentContainer>,
        event: WatchEvent<DynamicObject>,
    ) -> bool {
        store.apply(event.map(|component| (key(&component), container(&component))))
    }

    fn names(store: &Store<(String, String), ComponentContainer>, namespace: &str) -> Vec<String> {
        let snapshot = to_snapshot(store.objects(), None);
        snapshot.of(namespace).unwrap().iter().map(|c| c.name.clone()).collect()
    }

    #[test]
    fn keeps_components_with_a_container_sorted_by_name() {
        let mut known = Store::default();
        assert!(!apply(&mut known, WatchEvent::Init));
        for (namespace, name) in [("a", "z"), ("b", "x"), ("a", "y")] {
            let component = component(namespace, name, Some("{}"));
            assert!(!apply(&mut known, WatchEvent::InitApply(component)));
        }
        assert!(!apply(&mut known, WatchEvent::InitApply(component("a", "plain", None))));
        assert!(apply(&mut known, WatchEvent::InitDone));
        assert_eq!(names(&known, "a"), ["y", "z"]);
        assert_eq!(to_snapshot(known.objects(), None).of("a").unwrap()[0].scopes, ["app"]);
    }

    #[test]
    fn removes_deleted_components_and_removed_containers() {
        let mut known = Store::default();
        assert!(!apply(&mut known, WatchEvent::Init));
        assert!(apply(&mut known, WatchEvent::InitDone));
        for name in ["x", "y"] {
            assert!(apply(&mut known, WatchEvent::Apply(component("a", name, Some("{}")))));
        }
        assert!(apply(&mut known, WatchEvent::Apply(component("a", "x", None))));
        assert_eq!(names(&known, "a"), ["y"]);
        assert!(apply(&mut known, WatchEvent::Delete(component("a", "y", Some("{}")))));
        assert!(!apply(&mut known, WatchEvent::Delete(component("a", "other", None))));
        assert!(names(&known, "a").is_empty());
    }
}
