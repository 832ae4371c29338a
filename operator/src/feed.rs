//! What each connected sidecar has still to hear about one kind.
//!
//! A stream keeps one entry per object, never a queue of events: a slow sidecar costs at most the
//! number of objects that changed, and gets the last state of each.
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use proto::operator::ResourceEventType;
use resources::CustomResource;
use tokio::sync::{Notify, OnceCell};

use crate::{
    cache::{Change, Entry},
    secrets::FillError,
};

/// A state of an object on its way to several sidecars; its secrets are read once for all.
pub struct Delivery<K> {
    /// The state.
    pub entry: Arc<Entry<K>>,
    /// Its JSON with secrets, once somebody asked for it.
    pub filled: OnceCell<Result<Bytes, FillError>>,
}

impl<K> Delivery<K> {
    /// A delivery whose secrets nobody has read yet.
    pub fn new(entry: Arc<Entry<K>>) -> Self {
        Self { entry, filled: OnceCell::new() }
    }
}

/// One event for one sidecar.
pub struct Pending<K> {
    /// What happened, as seen from the sidecar's scope.
    pub event: ResourceEventType,
    /// The state to send.
    pub delivery: Arc<Delivery<K>>,
}

/// The event that `app_id` gets for a change, and whether it shows the new state (else the old).
/// Source: Dapr 1.18: an object that leaves the scope is deleted, one that enters it is created.
pub fn event_for<K: CustomResource>(
    change: &Change<K>,
    app_id: &str,
) -> Option<(ResourceEventType, bool)> {
    let visible = |entry: &Option<Arc<Entry<K>>>| {
        entry.as_ref().is_some_and(|entry| entry.object.in_scope(app_id))
    };
    match (visible(&change.old), visible(&change.new)) {
        (false, true) => Some((ResourceEventType::Created, true)),
        (true, true) => Some((ResourceEventType::Updated, true)),
        (true, false) => Some((ResourceEventType::Deleted, false)),
        (false, false) => None,
    }
}

/// The one event that stands for an unsent one and a later one.
pub fn merged(unsent: ResourceEventType, later: ResourceEventType) -> ResourceEventType {
    use ResourceEventType::{Created, Deleted, Updated};
    match (unsent, later) {
        (Created, Updated) => Created,
        (Deleted, Created) => Updated,
        (_, later) => later,
    }
}

/// The unsent events of one stream, in order of the objects' first change.
struct Backlog<K> {
    order: VecDeque<String>,
    events: HashMap<String, Pending<K>>,
}

impl<K> Default for Backlog<K> {
    fn default() -> Self {
        Self { order: VecDeque::new(), events: HashMap::new() }
    }
}

impl<K: CustomResource> Backlog<K> {
    /// Whether the event took the place of one that was not sent yet.
    fn push(&mut self, mut pending: Pending<K>) -> bool {
        let name = pending.delivery.entry.name().to_owned();
        let unsent = self.events.get(&name).map(|unsent| unsent.event);
        if let Some(unsent) = unsent {
            pending.event = merged(unsent, pending.event);
        } else {
            self.order.push_back(name.clone());
        }
        self.events.insert(name, pending);
        unsent.is_some()
    }

    fn pop(&mut self) -> Option<Pending<K>> {
        self.events.remove(&self.order.pop_front()?)
    }
}

struct Subscriber<K> {
    app_id: String,
    backlog: Mutex<Backlog<K>>,
    woken: Notify,
}

/// The streams of one kind.
pub struct Feed<K> {
    namespaces: Mutex<Namespaces<K>>,
}

struct Namespaces<K> {
    next_id: u64,
    /// Events that took the place of one that was not sent yet.
    coalesced: u64,
    subscribers: HashMap<String, HashMap<u64, Arc<Subscriber<K>>>>,
}

impl<K> Default for Feed<K> {
    fn default() -> Self {
        let namespaces = Namespaces { next_id: 0, coalesced: 0, subscribers: HashMap::new() };
        Self { namespaces: Mutex::new(namespaces) }
    }
}

impl<K: CustomResource> Feed<K> {
    /// Begins to collect the events of a namespace for `app_id`, until the answer is dropped.
    pub fn subscribe(self: &Arc<Self>, namespace: &str, app_id: &str) -> Subscription<K> {
        let subscriber = Arc::new(Subscriber {
            app_id: app_id.to_owned(),
            backlog: Mutex::default(),
            woken: Notify::new(),
        });
        let mut namespaces = lock(&self.namespaces);
        let id = namespaces.next_id;
        namespaces.next_id += 1;
        namespaces
            .subscribers
            .entry(namespace.to_owned())
            .or_default()
            .insert(id, subscriber.clone());
        Subscription { feed: self.clone(), namespace: namespace.to_owned(), id, subscriber }
    }

    /// Tells every stream of the namespace that may see the change; never waits.
    pub fn publish(&self, change: &Change<K>) {
        let mut namespaces = lock(&self.namespaces);
        let Namespaces { subscribers, coalesced, .. } = &mut *namespaces;
        let Some(subscribers) = subscribers.get(&change.namespace) else { return };
        let delivery = |entry: &Option<Arc<Entry<K>>>| {
            entry.as_ref().map(|entry| Arc::new(Delivery::new(entry.clone())))
        };
        let (old, new) = (delivery(&change.old), delivery(&change.new));
        for subscriber in subscribers.values() {
            let Some((event, show_new)) = event_for(change, &subscriber.app_id) else { continue };
            let Some(delivery) = (if show_new { &new } else { &old }) else { continue };
            let pending = Pending { event, delivery: delivery.clone() };
            *coalesced += u64::from(lock(&subscriber.backlog).push(pending));
            subscriber.woken.notify_one();
        }
    }

    /// How many streams are open, and how many events they have still to take.
    pub fn streams(&self) -> (usize, usize) {
        let namespaces = lock(&self.namespaces);
        let open = namespaces.subscribers.values().flat_map(HashMap::values);
        open.fold((0, 0), |(streams, waiting), subscriber| {
            (streams + 1, waiting + lock(&subscriber.backlog).events.len())
        })
    }

    /// How many events took the place of one that was not sent yet.
    pub fn coalesced(&self) -> u64 {
        lock(&self.namespaces).coalesced
    }
}

/// One open stream.
pub struct Subscription<K: CustomResource> {
    feed: Arc<Feed<K>>,
    namespace: String,
    id: u64,
    subscriber: Arc<Subscriber<K>>,
}

impl<K: CustomResource> Subscription<K> {
    /// The next event; waits for one. Dropping the future loses nothing.
    pub async fn next(&self) -> Pending<K> {
        loop {
            let woken = self.subscriber.woken.notified();
            let pending = lock(&self.subscriber.backlog).pop();
            match pending {
                Some(pending) => return pending,
                None => woken.await,
            }
        }
    }

    /// Puts an event back that could not be sent, unless the object changed meanwhile.
    pub fn put_back(&self, pending: Pending<K>) {
        let mut backlog = lock(&self.subscriber.backlog);
        if !backlog.events.contains_key(pending.delivery.entry.name()) {
            backlog.push(pending);
        }
    }
}

impl<K: CustomResource> Drop for Subscription<K> {
    fn drop(&mut self) {
        let mut namespaces = lock(&self.feed.namespaces);
        if let Some(subscribers) = namespaces.subscribers.get_mut(&self.namespace) {
            subscribers.remove(&self.id);
            if subscribers.is_empty() {
                namespaces.subscribers.remove(&self.namespace);
            }
        }
    }
}

/// The data behind these locks is consistent after every statement, so a panic elsewhere does not
/// spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use resources::Component;
    use rstest::rstest;
    use serde_json::json;

    use super::*;
    use ResourceEventType::{Created, Deleted, Updated};

    fn entry(name: &str, scopes: &[&str]) -> Arc<Entry<Component>> {
        let object = json!({"metadata": {"name": name, "namespace": "n"}, "scopes": scopes});
        Arc::new(Entry::new(serde_json::from_value(object).unwrap()))
    }

    fn change(name: &str, old: Option<&[&str]>, new: Option<&[&str]>) -> Change<Component> {
        let state = |scopes: Option<&[&str]>| scopes.map(|scopes| entry(name, scopes));
        Change { namespace: "n".to_owned(), old: state(old), new: state(new) }
    }

    /// The scope table of Dapr 1.18, row by row, for app `a`.
    #[rstest]
    #[case::created_in(None, Some(&["a"][..]), Some((Created, true)))]
    #[case::created_unscoped(None, Some(&[][..]), Some((Created, true)))]
    #[case::created_out(None, Some(&["b"][..]), None)]
    #[case::updated_in(Some(&["a"][..]), Some(&["a", "b"][..]), Some((Updated, true)))]
    #[case::entered(Some(&["b"][..]), Some(&["a"][..]), Some((Created, true)))]
    #[case::left(Some(&["a"][..]), Some(&["b"][..]), Some((Deleted, false)))]
    #[case::updated_out(Some(&["b"][..]), Some(&["c"][..]), None)]
    #[case::deleted_in(Some(&["a"][..]), None, Some((Deleted, false)))]
    #[case::deleted_out(Some(&["b"][..]), None, None)]
    fn scopes_decide_the_event(
        #[case] old: Option<&[&str]>,
        #[case] new: Option<&[&str]>,
        #[case] want: Option<(ResourceEventType, bool)>,
    ) {
        assert_eq!(event_for(&change("x", old, new), "a"), want);
    }

    #[rstest]
    #[case(Created, Updated, Created)]
    #[case(Created, Deleted, Deleted)]
    #[case(Updated, Deleted, Deleted)]
    #[case(Updated, Updated, Updated)]
    #[case(Deleted, Created, Updated)]
    fn unsent_events_merge(
        #[case] unsent: ResourceEventType,
        #[case] later: ResourceEventType,
        #[case] want: ResourceEventType,
    ) {
        assert_eq!(merged(unsent, later), want);
    }

    fn drain(subscription: &Subscription<Component>) -> Vec<(ResourceEventType, String)> {
        std::iter::from_fn(|| subscription.next().now_or_never())
            .map(|p| (p.event, p.delivery.entry.name().to_owned()))
            .collect()
    }

    #[test]
    fn each_stream_sees_its_own_types() {
        let feed = Arc::new(Feed::default());
        let (a, b) = (feed.subscribe("n", "a"), feed.subscribe("n", "b"));
        let elsewhere = feed.subscribe("m", "a");
        feed.publish(&change("x", Some(&["a"]), Some(&["a", "b"])));
        assert_eq!(drain(&a), [(Updated, "x".to_owned())]);
        assert_eq!(drain(&b), [(Created, "x".to_owned())]);
        assert!(drain(&elsewhere).is_empty());
    }

    #[test]
    fn slow_stream_keeps_one_entry_per_object_in_order() {
        let feed = Arc::new(Feed::default());
        let stream = feed.subscribe("n", "a");
        feed.publish(&change("x", None, Some(&[])));
        feed.publish(&change("y", Some(&[]), Some(&[])));
        for _ in 0..1000 {
            feed.publish(&change("x", Some(&[]), Some(&[])));
        }
        feed.publish(&change("y", Some(&[]), None));
        assert_eq!(feed.coalesced(), 1001);
        assert_eq!(drain(&stream), [(Created, "x".to_owned()), (Deleted, "y".to_owned())]);
    }

    #[test]
    fn event_put_back_yields_to_a_newer_one() {
        let feed = Arc::new(Feed::default());
        let stream = feed.subscribe("n", "a");
        feed.publish(&change("x", None, Some(&[])));
        let failed = stream.next().now_or_never().unwrap();
        feed.publish(&change("x", Some(&[]), None));
        stream.put_back(failed);
        assert_eq!(drain(&stream), [(Deleted, "x".to_owned())]);
    }

    #[test]
    fn dropped_streams_are_forgotten() {
        let feed = Arc::new(Feed::<Component>::default());
        let stream = feed.subscribe("n", "a");
        assert_eq!(feed.streams(), (1, 0));
        drop(stream);
        assert_eq!(feed.streams(), (0, 0));
    }
}
