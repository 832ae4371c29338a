//! The store of one kind: its objects, its streams, and whether it has been listed.
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::core::DynamicObject;
use kubernetes::{FailureKind, WatchEvent};
use resources::CustomResource;
use runtime::clock;
use tokio::sync::watch;

use crate::cache::broadcaster::{Broadcaster, Subscription};
use crate::cache::objects::{Cache, Change, Entry, Undecodable};

/// How long a call waits for the first list. A sidecar limits each attempt to 5 s and uses up its
/// attempts quickly when errors return at once (Dapr 1.18).
pub(crate) const HOLD: Duration = Duration::from_millis(4500);

/// Whether a kind has been listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SyncState {
    /// The first list is not complete.
    Pending,
    /// The store holds every object.
    Synced,
    /// The CRD is not installed.
    NoCrd,
}

/// The kind has not been listed within [`HOLD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("operator has not yet listed {0}, try again")]
pub(crate) struct NotListed(pub(crate) &'static str);

/// The objects and streams of one kind.
pub(crate) struct Store<K> {
    cache: Mutex<Cache<K>>,
    broadcaster: Arc<Broadcaster<K>>,
    sync: watch::Sender<SyncState>,
    /// When an object changed last.
    changes: watch::Sender<Option<Instant>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            cache: Mutex::default(),
            broadcaster: Arc::default(),
            sync: watch::Sender::new(SyncState::Pending),
            changes: watch::Sender::new(None),
        }
    }
}

impl<K: CustomResource> Store<K> {
    /// Waits until the kind has been listed, at most [`HOLD`].
    ///
    /// # Errors
    /// [`NotListed`] when that time has passed.
    pub(crate) async fn wait_ready(&self) -> Result<SyncState, NotListed> {
        tokio::time::timeout(HOLD, self.wait_synced()).await.map_err(|_| NotListed(K::PLURAL))
    }

    /// Waits until the kind has been listed, without a limit.
    pub(crate) async fn wait_synced(&self) -> SyncState {
        let mut sync = self.sync.subscribe();
        match sync.wait_for(|sync| *sync != SyncState::Pending).await {
            Ok(sync) => *sync,
            // The sender lives in `self`.
            Err(_) => SyncState::Pending,
        }
    }

    /// The sync state and its changes.
    pub(crate) fn sync(&self) -> watch::Receiver<SyncState> {
        self.sync.subscribe()
    }

    /// The time of the last change; notifies after each change of an object.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Instant>> {
        self.changes.subscribe()
    }

    /// The namespaces that contain objects.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        self.cache().namespaces().map(str::to_owned).collect()
    }

    /// The objects of a namespace, sorted by name.
    pub(crate) fn list(&self, namespace: &str) -> Vec<Arc<Entry<K>>> {
        self.cache().list(namespace).cloned().collect()
    }

    /// One object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry<K>>> {
        self.cache().get(namespace, name).cloned()
    }

    /// The objects of all namespaces.
    pub(crate) fn all(&self) -> Vec<Arc<Entry<K>>> {
        self.cache().all().cloned().collect()
    }

    /// Publishes an update of an object whose Secrets changed, unless the object changed too.
    pub(crate) fn touch(&self, entry: &Arc<Entry<K>>) {
        let namespace = entry.object.meta().namespace.clone().unwrap_or_default();
        let current = self.get(&namespace, entry.name());
        let same = current.filter(|current| current.is_same_content(entry));
        if same.is_some() {
            self.publish([Change { namespace, old: same.clone(), new: same }]);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.cache().len()
    }

    /// Number of open streams and of events pending on them.
    pub(crate) fn streams(&self) -> (usize, usize) {
        self.broadcaster.streams()
    }

    /// Number of events that replaced one that was still pending on a stream.
    pub(crate) fn coalesced(&self) -> u64 {
        self.broadcaster.coalesced()
    }

    /// Time of the last change; `None` before the first change after the first list.
    pub(crate) fn last_change(&self) -> Option<Instant> {
        *self.changes.borrow()
    }

    pub(crate) fn subscribe(&self, namespace: &str, app_id: &str) -> Subscription<K> {
        self.broadcaster.subscribe(namespace, app_id)
    }

    /// Applies a watch event and publishes the resulting change.
    ///
    /// # Errors
    /// [`Undecodable`] for an object that cannot be decoded; other objects are not affected.
    pub(crate) fn apply(&self, event: WatchEvent<DynamicObject>) -> Result<(), Undecodable> {
        let sync = match &event {
            WatchEvent::InitDone => Some(SyncState::Synced),
            WatchEvent::Failed(failure) if failure.kind == FailureKind::NotServed => {
                Some(SyncState::NoCrd)
            }
            _ => None,
        };
        let changes = self.cache().apply(event)?;
        self.publish(changes);
        if let Some(sync) = sync {
            self.sync.send_replace(sync);
        }
        Ok(())
    }

    /// Streams carry changes, not the initial state: nothing is published before the first list is
    /// complete.
    fn publish(&self, changes: impl IntoIterator<Item = Change<K>>) {
        if *self.sync.borrow() == SyncState::Pending {
            return;
        }
        for change in changes {
            self.broadcaster.publish(&change);
            self.changes.send_replace(Some(clock::monotonic()));
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache<K>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use resources::Component;
    use serde_json::json;

    use super::*;

    fn component(name: &str) -> DynamicObject {
        let metadata = json!({"name": name, "namespace": "n"});
        let object = json!({"apiVersion": "dapr.io/v1alpha1", "kind": "Component",
            "metadata": metadata, "spec": {}});
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn a_stream_from_before_the_first_list_gets_every_change_after_it() {
        let store = Store::<Component>::default();
        let stream = store.subscribe("n", "app");
        let events = [
            WatchEvent::Init,
            WatchEvent::InitApply(component("listed")),
            WatchEvent::InitDone,
            WatchEvent::Apply(component("created")),
        ];
        for event in events {
            store.apply(event).unwrap();
        }
        let sent = std::iter::from_fn(|| stream.next().now_or_never());
        let sent: Vec<_> = sent.map(|event| event.resolved.entry.name().to_owned()).collect();
        assert_eq!(sent, ["created"]);
    }
}
