//! Caches the watched objects, reduced to the fields that are used: with ten thousand pods the full
//! objects would be most of the process's memory.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

/// An event of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CacheEvent<V> {
    /// A list begins.
    Init,
    /// An object of the list.
    InitApply(String, V),
    /// The list is complete; objects it does not contain are removed.
    InitDone,
    /// An object was added or changed.
    Apply(String, V),
    /// An object was deleted.
    Delete(String),
}

/// Objects by namespace and name. Cheap to clone; reads do not wait for the watch.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    objects: Arc<RwLock<Objects<V>>>,
    synced: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct Objects<V> {
    current: HashMap<String, V>,
    /// The objects of an incomplete list; reads use `current` until it is complete.
    listed: HashMap<String, V>,
}

impl<V> Clone for Cache<V> {
    fn clone(&self) -> Self {
        Self { objects: self.objects.clone(), synced: self.synced.clone() }
    }
}

impl<V> Default for Cache<V> {
    fn default() -> Self {
        let objects = Objects { current: HashMap::new(), listed: HashMap::new() };
        Self { objects: Arc::new(RwLock::new(objects)), synced: Arc::new(watch::channel(false).0) }
    }
}

/// The key of an object.
pub(crate) fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl<V: Clone> Cache<V> {
    /// Applies an event of the watch.
    pub(crate) fn apply(&self, event: CacheEvent<V>) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            CacheEvent::Init => objects.listed.clear(),
            CacheEvent::InitApply(key, object) => {
                objects.listed.insert(key, object);
            }
            CacheEvent::InitDone => {
                objects.current = std::mem::take(&mut objects.listed);
                self.synced.send_replace(true);
            }
            CacheEvent::Apply(key, object) => {
                objects.current.insert(key, object);
            }
            CacheEvent::Delete(key) => {
                objects.current.remove(&key);
            }
        }
    }

    /// The last seen state of an object.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<V> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.current.get(&key(namespace, name)).cloned()
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
        cache.apply(CacheEvent::InitApply(key("n", "a"), 1));
        assert_eq!(cache.get("n", "a"), None, "objects are visible when the list is complete");
        cache.apply(CacheEvent::InitDone);
        cache.synced().await;
        cache.apply(CacheEvent::Apply(key("n", "b"), 2));
        cache.apply(CacheEvent::Init);
        cache.apply(CacheEvent::InitApply(key("n", "b"), 3));
        assert_eq!((cache.get("n", "a"), cache.get("n", "b")), (Some(1), Some(2)));
        cache.apply(CacheEvent::InitDone);
        assert_eq!((cache.get("n", "a"), cache.get("n", "b")), (None, Some(3)));
        cache.apply(CacheEvent::Delete(key("n", "b")));
        assert_eq!(cache.get("n", "b"), None);
    }
}
