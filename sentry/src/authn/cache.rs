//! Caches the watched objects, reduced to the fields that are used: with ten thousand pods the full
//! objects would be most of the process's memory.

use std::sync::{Arc, PoisonError, RwLock};

use kubernetes::{Store, WatchEvent};
use tokio::sync::watch;

/// Objects by namespace and name. Cheap to clone; reads do not wait for the watch.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    objects: Arc<RwLock<Store<String, V>>>,
    synced: Arc<watch::Sender<bool>>,
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), synced: self.synced.clone() }
    }
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        Self { objects: Arc::default(), synced: Arc::new(watch::channel(false).0) }
    }
}

/// The key of an object.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl<V: Clone + PartialEq> Cache<V> {
    /// Applies an event of the watch, with the key of its object.
    pub(crate) fn apply(&self, event: WatchEvent<(String, V)>) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.apply(event.map(|(key, object)| (key, Some(object))));
        let synced = objects.is_synced();
        drop(objects);
        self.synced.send_if_modified(|was| std::mem::replace(was, synced) != synced);
    }

    /// The last seen state of an object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<V> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.objects().get(&key(namespace, name)).cloned()
    }

    /// Waits until the first list is complete.
    pub(crate) async fn synced(&self) {
        // Fails only when the sender is dropped, and this cache holds it.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_replaces_all_objects_when_it_is_complete() {
        let cache = Cache::default();
        cache.apply(WatchEvent::Init);
        cache.apply(WatchEvent::InitApply((key("n", "a"), 1)));
        assert_eq!(cache.get("n", "a"), None, "objects are visible when the list is complete");
        cache.apply(WatchEvent::InitDone);
        cache.synced().await;
        cache.apply(WatchEvent::Apply((key("n", "b"), 2)));
        cache.apply(WatchEvent::Init);
        cache.apply(WatchEvent::InitApply((key("n", "b"), 3)));
        assert_eq!((cache.get("n", "a"), cache.get("n", "b")), (Some(1), Some(2)));
        cache.apply(WatchEvent::InitDone);
        assert_eq!((cache.get("n", "a"), cache.get("n", "b")), (None, Some(3)));
        cache.apply(WatchEvent::Delete((key("n", "b"), 3)));
        assert_eq!(cache.get("n", "b"), None);
    }
}
