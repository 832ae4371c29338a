//! Watches the API server and publishes snapshots for the pages.
//!
//! One task per watch owns its objects; readers take a [`Snapshot`]. Objects are reduced and
//! redacted before they are stored.

pub(crate) mod logs;
pub(crate) mod reviews;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use kubernetes::{FailureKind, Store, WatchEvent, WatchOptions, Watcher};
use resources::{GROUP, names};
use runtime::{ReadyGuard, Scope};
use serde_json::Value;
use tokio::sync::watch;

use crate::model::event::Event;
use crate::model::kind::Kind;
use crate::model::pod::Pod;
use crate::model::resource::Resource;
use crate::model::{Key, Mode, Snapshot, Watched};

/// Largest number of kept objects of one kind; others are left out, with a warning in the log.
const MAX_OBJECTS: usize = 50_000;

/// The objects of all watches. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Cluster {
    mode: Mode,
    namespace: Arc<str>,
    pods: Published<Pod>,
    resources: Arc<BTreeMap<Kind, Published<Resource>>>,
    events: Published<Event>,
    anchors: Published<String>,
    changes: Arc<watch::Sender<u64>>,
}

type Published<T> = Arc<ArcSwap<Watched<T>>>;

impl Cluster {
    /// No objects yet. `namespace` is that of the control plane.
    pub(crate) fn new(namespace: &str) -> Self {
        Self::in_mode(Mode::Kubernetes, namespace)
    }

    /// The sidecars of this machine: none yet, and no control plane.
    pub(crate) fn self_hosted() -> Self {
        Self::in_mode(Mode::SelfHosted, "")
    }

    fn in_mode(mode: Mode, namespace: &str) -> Self {
        let resources = Kind::ALL.into_iter().map(|kind| (kind, Published::default()));
        Self {
            mode,
            namespace: namespace.into(),
            pods: Published::default(),
            resources: Arc::new(resources.collect()),
            events: Published::default(),
            anchors: Published::default(),
            changes: Arc::new(watch::Sender::new(0)),
        }
    }

    /// Where the applications run.
    pub(crate) fn mode(&self) -> Mode {
        self.mode
    }

    /// Replaces Pods and objects, if any of them changed.
    pub(crate) fn replace(&self, pods: Watched<Pod>, resources: BTreeMap<Kind, Watched<Resource>>) {
        let mut changed = set(&self.pods, pods);
        for (kind, watched) in resources {
            changed |= self.resources.get(&kind).is_some_and(|into| set(into, watched));
        }
        if changed {
            self.changes.send_modify(|version| *version = version.wrapping_add(1));
        }
    }

    /// The current objects.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let resources = self.resources.iter();
        Snapshot {
            mode: self.mode,
            namespace: self.namespace.to_string(),
            pods: Watched::clone(&self.pods.load()),
            resources: resources.map(|(kind, all)| (*kind, Watched::clone(&all.load()))).collect(),
            events: Watched::clone(&self.events.load()),
            anchors: Watched::clone(&self.anchors.load()),
            visible: None,
        }
    }

    /// Replaces the objects, as watches would.
    #[cfg(test)]
    pub(crate) fn fill(&self, pods: &[Value], resources: &[(Kind, Value)], events: &[Value]) {
        let pods = pods.iter().filter_map(Pod::read);
        let pods = pods.map(|pod| ((pod.namespace.clone(), pod.name.clone()), pod)).collect();
        let kinds = Kind::ALL.into_iter().map(|kind| {
            let own = resources.iter().filter(|(its, _)| *its == kind);
            let own = own.map(|(kind, object)| Resource::read(*kind, object));
            (kind, own.map(|r| ((r.namespace.clone(), r.name.clone()), r)).collect())
        });
        self.replace(pods, kinds.collect());
        let events = events.iter().filter_map(Event::read).enumerate();
        let events = events.map(|(n, event)| ((String::new(), n.to_string()), event)).collect();
        self.events.store(Arc::new(events));
    }

    /// Changes with every change of objects.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Starts the watches. `ready` is set when the first list of Pods is complete or was refused.
    pub(crate) fn watch(&self, client: &Client, ready: ReadyGuard, scope: &Scope) {
        let watcher = Watcher::new(client.clone());
        let core = |kind: &str| ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind));

        let pods = objects(&watcher, "Pod", core("Pod"));
        let pods = pods.map(|event| event.map(|object| (key(&object), reduce(&object, Pod::read))));
        let publish = Publish { into: self.pods.clone(), changes: self.changes.clone() };
        scope.spawn_until_cancelled("watch-pods", async move {
            watch("Pod", pods, publish, Some(ready)).await;
        });

        for (kind, into) in self.resources.iter() {
            let kind = *kind;
            let gvk = GroupVersionKind::gvk(GROUP, kind.version(), kind.name());
            let resource = ApiResource::from_gvk_with_plural(&gvk, kind.plural());
            let events = objects(&watcher, kind.name(), resource).map(move |event| {
                event.map(|object| {
                    let read = |value: &Value| Some(Resource::read(kind, value));
                    (key(&object), reduce(&object, read))
                })
            });
            let publish = Publish { into: into.clone(), changes: self.changes.clone() };
            scope.spawn_until_cancelled("watch-resources", async move {
                watch(kind.name(), events, publish, None).await;
            });
        }

        let events = objects(&watcher, "Event", core("Event"));
        let events =
            events.map(|event| event.map(|object| (key(&object), reduce(&object, Event::read))));
        let publish = Publish { into: self.events.clone(), changes: self.changes.clone() };
        scope.spawn_until_cancelled("watch-events", async move {
            watch("Event", events, publish, None).await;
        });
        self.watch_anchors(&watcher, scope);
    }

    /// The certificates that sentry publishes; no Secret is read anywhere.
    fn watch_anchors(&self, watcher: &Watcher, scope: &Scope) {
        let namespace = self.namespace.to_string();
        let options = WatchOptions::new("ConfigMap").name(names::TRUST_BUNDLE);
        let maps = watcher
            .watch(options, move |client| Api::<ConfigMap>::namespaced(client, &namespace))
            .map(|event| {
                event.map(|map| {
                    let key = (
                        map.metadata.namespace.unwrap_or_default(),
                        map.metadata.name.unwrap_or_default(),
                    );
                    (key, map.data.unwrap_or_default().remove(names::KEY_TRUST_ANCHORS))
                })
            });
        let publish = Publish { into: self.anchors.clone(), changes: self.changes.clone() };
        scope.spawn_until_cancelled("watch-anchors", async move {
            watch("ConfigMap", maps, publish, None).await;
        });
    }
}

/// Whether it was another value.
fn set<T: PartialEq>(into: &Published<T>, watched: Watched<T>) -> bool {
    let changed = **into.load() != watched;
    if changed {
        into.store(Arc::new(watched));
    }
    changed
}

fn objects(
    watcher: &Watcher,
    kind: &'static str,
    resource: ApiResource,
) -> impl Stream<Item = WatchEvent<DynamicObject>> + Send + use<> {
    watcher.watch(WatchOptions::new(kind), move |client| Api::all_with(client, &resource))
}

fn key(object: &DynamicObject) -> Key {
    let metadata = &object.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}

/// Reduces an object to the stored part.
fn reduce<T>(object: &DynamicObject, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
    serde_json::to_value(object).ok().and_then(|value| read(&value))
}

/// Publishes the objects of a watch.
struct Publish<T> {
    into: Published<T>,
    changes: Arc<watch::Sender<u64>>,
}

impl<T> Publish<T> {
    fn publish(&self, watched: Watched<T>) {
        self.into.store(Arc::new(watched));
        self.changes.send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// Publishes the objects of a watch as they change. Never ends; dropping it is safe.
async fn watch<T: PartialEq + Debug + Send>(
    kind: &'static str,
    events: impl Stream<Item = WatchEvent<(Key, Option<T>)>>,
    publish: Publish<T>,
    ready: Option<ReadyGuard>,
) {
    let mut store = Store::<Key, Arc<T>>::default();
    let mut failure: Option<String> = None;
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        let failed = match &event {
            WatchEvent::Failed(failed) if failed.kind == FailureKind::NotServed => None,
            WatchEvent::Failed(failed) => Some(failed.message.clone()),
            WatchEvent::Init => failure.clone(),
            _ => None,
        };
        if failed.is_some()
            && let Some(ready) = &ready
        {
            ready.set_ready(); // pages name missing rights
        }
        let full = store.objects().len() >= MAX_OBJECTS;
        let event = event.map(|(key, object)| {
            let room = !full || store.objects().contains_key(&key);
            if !room {
                tracing::warn!(kind, "more than {MAX_OBJECTS} objects: the others are not shown");
            }
            (key, object.filter(|_| room).map(Arc::new))
        });
        let changed = store.apply(event);
        let turned = failed != failure;
        failure = failed;
        if changed || turned {
            let objects = Arc::new(store.objects().clone());
            let is_synced = store.is_synced();
            publish.publish(Watched { objects, is_synced, failure: failure.clone() });
        }
        if store.is_synced()
            && let Some(ready) = &ready
        {
            ready.set_ready();
        }
    }
}
