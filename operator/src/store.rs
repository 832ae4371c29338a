//! One kind as the API reads it: the cache, its streams, and whether it is complete.
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{core::DynamicObject, runtime::watcher};
use resources::CustomResource;
use runtime::clock;
use tokio::sync::watch;

use crate::{
    cache::{self, Cache, Change, Entry, Key, Undecodable},
    error::ApiError,
    feed::{Feed, Subscription},
};

/// How long a call waits for the first list. Sidecars give each try 5 s and spend their tries
/// quickly on prompt answers (Dapr 1.18).
pub const HOLD: Duration = Duration::from_millis(4500);

/// How much of a kind is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Nothing yet.
    Starting,
    /// Everything.
    Complete,
    /// The API server does not know the kind.
    NoCrd,
}

/// One kind as the API reads it.
pub struct Store<K> {
    cache: Mutex<Cache<K>>,
    feed: Arc<Feed<K>>,
    sync: watch::Sender<Sync>,
    /// When an object changed last.
    changes: watch::Sender<Option<Instant>>,
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            cache: Mutex::default(),
            feed: Arc::default(),
            sync: watch::Sender::new(Sync::Starting),
            changes: watch::Sender::new(None),
        }
    }
}

impl<K: CustomResource> Store<K> {
    /// Waits until the kind is known, at most [`HOLD`].
    ///
    /// # Errors
    /// [`ApiError::Starting`] when it is not known by then.
    pub async fn known(&self) -> Result<Sync, ApiError> {
        tokio::time::timeout(HOLD, self.known_at_last())
            .await
            .map_err(|_| ApiError::Starting(K::PLURAL))
    }

    /// Waits until the kind is known, however long it takes.
    pub async fn known_at_last(&self) -> Sync {
        let mut sync = self.sync.subscribe();
        match sync.wait_for(|sync| *sync != Sync::Starting).await {
            Ok(sync) => *sync,
            // The sender lives in `self`.
            Err(_) => Sync::Starting,
        }
    }

    /// Changes of how much is known.
    pub fn sync(&self) -> watch::Receiver<Sync> {
        self.sync.subscribe()
    }

    /// Wakes whoever looks at all objects, after each change of one.
    pub fn changes(&self) -> watch::Receiver<Option<Instant>> {
        self.changes.subscribe()
    }

    /// The namespaces that have objects.
    pub fn namespaces(&self) -> Vec<String> {
        self.cache().namespaces().map(str::to_owned).collect()
    }

    /// The objects of a namespace, by name.
    pub fn list(&self, namespace: &str) -> Vec<Arc<Entry<K>>> {
        self.cache().list(namespace).cloned().collect()
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry<K>>> {
        self.cache().get(namespace, name).cloned()
    }

    /// All objects, of all namespaces.
    pub fn all(&self) -> Vec<Arc<Entry<K>>> {
        self.cache().all().cloned().collect()
    }

    /// Tells the streams of an object whose secrets have changed, unless it has changed itself.
    pub fn touch(&self, entry: &Arc<Entry<K>>) {
        let namespace = entry.object.meta().namespace.clone().unwrap_or_default();
        let current = self.get(&namespace, entry.name());
        let same = current.filter(|current| current.is_same_content(entry));
        if same.is_some() {
            self.publish([Change { namespace, old: same.clone(), new: same }]);
        }
    }

    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.cache().len()
    }

    /// Whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many streams are open, and how many events they have still to take.
    pub fn streams(&self) -> (usize, usize) {
        self.feed.streams()
    }

    /// How many events took the place of one that a stream had not taken yet.
    pub fn coalesced(&self) -> u64 {
        self.feed.coalesced()
    }

    /// When an object changed last; `None` before the first change after the first list.
    pub fn last_change(&self) -> Option<Instant> {
        *self.changes.borrow()
    }

    /// Opens a stream for an app.
    pub fn subscribe(&self, namespace: &str, app_id: &str) -> Subscription<K> {
        self.feed.subscribe(namespace, app_id)
    }

    /// Takes in what a watch saw and tells the streams.
    ///
    /// # Errors
    /// [`Undecodable`] for an object that cannot be served; all others are untouched by it.
    pub fn apply(&self, event: watcher::Event<DynamicObject>) -> Result<(), Undecodable> {
        use watcher::Event;
        match event {
            Event::Init => self.cache().begin_list(),
            Event::InitDone => {
                let gone = self.cache().end_list();
                self.publish(gone);
                self.sync.send_replace(Sync::Complete);
            }
            Event::InitApply(raw) | Event::Apply(raw) => match cache::decode(raw) {
                Ok(entry) => {
                    let change = self.cache().upsert(entry);
                    self.publish(change);
                }
                Err(bad) => {
                    self.cache().undecodable(bad.key.clone());
                    return Err(bad);
                }
            },
            Event::Delete(raw) => {
                let change = self.cache().remove(&Key::of(&raw.metadata));
                self.publish(change);
            }
        }
        Ok(())
    }

    /// The API server does not know the kind (any more).
    pub fn no_crd(&self) {
        let gone = self.cache().clear();
        self.publish(gone);
        self.sync.send_replace(Sync::NoCrd);
    }

    /// Before the first list is complete nobody is told anything: streams carry changes, not the
    /// initial state.
    fn publish(&self, changes: impl IntoIterator<Item = Change<K>>) {
        if *self.sync.borrow() == Sync::Starting {
            return;
        }
        for change in changes {
            self.feed.publish(&change);
            self.changes.send_replace(Some(clock::monotonic()));
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache<K>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
