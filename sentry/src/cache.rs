//! What a watch has shown, stripped to what is asked for: with ten thousand pods the difference is
//! most of the process's memory.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::watch;

/// One step of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<V> {
    /// A new list begins.
    ListBegins,
    /// An object of the list.
    Listed(String, V),
    /// The list is complete: what it did not show is gone.
    ListEnds,
    /// An object is new or changed.
    Changed(String, V),
    /// An object is gone.
    Gone(String),
}

/// Objects by namespace and name. Cheap to clone; reads never wait for the watch.
#[derive(Debug)]
pub struct Cache<V> {
    objects: Arc<RwLock<Objects<V>>>,
    synced: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct Objects<V> {
    current: HashMap<String, V>,
    /// The list under way; the former objects answer until it is complete.
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
pub fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

impl<V: Clone> Cache<V> {
    /// Takes a step of the watch.
    pub fn apply(&self, step: Step<V>) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        match step {
            Step::ListBegins => objects.listed.clear(),
            Step::Listed(key, object) => {
                objects.listed.insert(key, object);
            }
            Step::ListEnds => {
                objects.current = std::mem::take(&mut objects.listed);
                self.synced.send_replace(true);
            }
            Step::Changed(key, object) => {
                objects.current.insert(key, object);
            }
            Step::Gone(key) => {
                objects.current.remove(&key);
            }
        }
    }

    /// One object as last seen.
    pub fn get(&self, namespace: &str, name: &str) -> Option<V> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.current.get(&key(namespace, name)).cloned()
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        // Fails only when the sender is gone, and this cache holds it.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_list_replaces_all_at_its_end() {
        let cache = Cache::default();
        cache.apply(Step::Listed(key("n", "a"), 1));
        assert_eq!(cache.get("n", "a"), None, "nothing is shown before the list is complete");
        cache.apply(Step::ListEnds);
        cache.synced().await;
        cache.apply(Step::Changed(key("n", "b"), 2));
        cache.apply(Step::ListBegins);
        cache.apply(Step::Listed(key("n", "b"), 3));
        assert_eq!((cache.get("n", "a"), cache.get("n", "b")), (Some(1), Some(2)));
        cache.apply(Step::ListEnds);
        assert_eq!((cache.get("n", "a"), cache.get("n", "b")), (None, Some(3)));
        cache.apply(Step::Gone(key("n", "b")));
        assert_eq!(cache.get("n", "b"), None);
    }
}
