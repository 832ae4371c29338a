//! Distribution of the changes of one kind to the update streams of sidecars.
//!
//! Each stream holds at most one pending event per object. A slow sidecar therefore costs memory in
//! proportion to the number of changed objects, and receives the latest state of each.
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::operator::ResourceEventType;
use resources::CustomResource;
use tokio::sync::{Notify, OnceCell};

use crate::cache::objects::{Change, Entry};
use crate::secrets::resolution::FillError;

/// One state of an object and its JSON, resolved once and shared by all streams.
pub(crate) struct ResolvedEvent<K> {
    pub(crate) entry: Arc<Entry<K>>,
    /// The JSON of the event, with Secrets resolved; empty until the first stream needs it.
    pub(crate) body: OnceCell<Result<Bytes, FillError>>,
}

impl<K> ResolvedEvent<K> {
    pub(crate) fn new(entry: Arc<Entry<K>>) -> Self {
        Self { entry, body: OnceCell::new() }
    }
}

/// One event for one sidecar.
pub(crate) struct StreamEvent<K> {
    /// The change from the point of view of the sidecar's scope.
    pub(crate) event: ResourceEventType,
    /// The state to send.
    pub(crate) resolved: Arc<ResolvedEvent<K>>,
}

/// The event that `app_id` receives for a change, and whether it carries the new state (else the
/// old one). An object that leaves the scope is deleted, one that enters it is created (Dapr 1.18).
pub(crate) fn event_for<K: CustomResource>(
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

/// The event that replaces a pending event and a later one.
pub(crate) fn coalesced(unsent: ResourceEventType, later: ResourceEventType) -> ResourceEventType {
    use ResourceEventType::{Created, Deleted, Updated};
    match (unsent, later) {
        (Created, Updated) => Created,
        (Deleted, Created) => Updated,
        (_, later) => later,
    }
}

/// The pending events of one stream, in order of the first change of each object.
struct PendingEvents<K> {
    order: VecDeque<String>,
    events: HashMap<String, StreamEvent<K>>,
}

impl<K> Default for PendingEvents<K> {
    fn default() -> Self {
        Self { order: VecDeque::new(), events: HashMap::new() }
    }
}

impl<K: CustomResource> PendingEvents<K> {
    /// Adds an event; returns whether it replaced a pending one.
    fn push(&mut self, mut event: StreamEvent<K>) -> bool {
        let name = event.resolved.entry.name().to_owned();
        let unsent = self.events.get(&name).map(|unsent| unsent.event);
        if let Some(unsent) = unsent {
            event.event = coalesced(unsent, event.event);
        } else {
            self.order.push_back(name.clone());
        }
        self.events.insert(name, event);
        unsent.is_some()
    }

    fn pop(&mut self) -> Option<StreamEvent<K>> {
        self.events.remove(&self.order.pop_front()?)
    }
}

struct Subscriber<K> {
    app_id: String,
    pending_events: Mutex<PendingEvents<K>>,
    woken: Notify,
}

/// Publishes the changes of one kind to its streams.
pub(crate) struct Broadcaster<K> {
    namespaces: Mutex<Namespaces<K>>,
}

struct Namespaces<K> {
    next_id: u64,
    /// Events that replaced a pending one.
    coalesced: u64,
    subscribers: HashMap<String, HashMap<u64, Arc<Subscriber<K>>>>,
}

impl<K> Default for Broadcaster<K> {
    fn default() -> Self {
        let namespaces = Namespaces { next_id: 0, coalesced: 0, subscribers: HashMap::new() };
        Self { namespaces: Mutex::new(namespaces) }
    }
}

impl<K: CustomResource> Broadcaster<K> {
    /// Collects the events of a namespace for `app_id` until the subscription is dropped.
    pub(crate) fn subscribe(self: &Arc<Self>, namespace: &str, app_id: &str) -> Subscription<K> {
        let subscriber = Arc::new(Subscriber {
            app_id: app_id.to_owned(),
            pending_events: Mutex::default(),
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
        Subscription { broadcaster: self.clone(), namespace: namespace.to_owned(), id, subscriber }
    }

    /// Adds the change to every stream of its namespace that has the object in scope. Never waits.
    pub(crate) fn publish(&self, change: &Change<K>) {
        let mut namespaces = lock(&self.namespaces);
        let Namespaces { subscribers, coalesced, .. } = &mut *namespaces;
        let Some(subscribers) = subscribers.get(&change.namespace) else { return };
        let resolved = |entry: &Option<Arc<Entry<K>>>| {
            entry.as_ref().map(|entry| Arc::new(ResolvedEvent::new(entry.clone())))
        };
        let (old, new) = (resolved(&change.old), resolved(&change.new));
        for subscriber in subscribers.values() {
            let Some((event, show_new)) = event_for(change, &subscriber.app_id) else { continue };
            let Some(resolved) = (if show_new { &new } else { &old }) else { continue };
            let event = StreamEvent { event, resolved: resolved.clone() };
            *coalesced += u64::from(lock(&subscriber.pending_events).push(event));
            subscriber.woken.notify_one();
        }
    }

    /// Number of open streams and of events pending on them.
    pub(crate) fn streams(&self) -> (usize, usize) {
        let namespaces = lock(&self.namespaces);
        let open = namespaces.subscribers.values().flat_map(HashMap::values);
        open.fold((0, 0), |(streams, waiting), subscriber| {
            (streams + 1, waiting + lock(&subscriber.pending_events).events.len())
        })
    }

    /// Number of events that replaced a pending one.
    pub(crate) fn coalesced(&self) -> u64 {
        lock(&self.namespaces).coalesced
    }
}

/// One open stream.
pub(crate) struct Subscription<K: CustomResource> {
    broadcaster: Arc<Broadcaster<K>>,
    namespace: String,
    id: u64,
    subscriber: Arc<Subscriber<K>>,
}

impl<K: CustomResource> Subscription<K> {
    /// Waits for the next event. Cancel safe: dropping the future loses no event.
    pub(crate) async fn next(&self) -> StreamEvent<K> {
        loop {
            let woken = self.subscriber.woken.notified();
            let event = lock(&self.subscriber.pending_events).pop();
            match event {
                Some(event) => return event,
                None => woken.await,
            }
        }
    }

    /// Returns an event that could not be sent, unless the object changed in the meantime.
    pub(crate) fn put_back(&self, event: StreamEvent<K>) {
        let mut pending_events = lock(&self.subscriber.pending_events);
        if !pending_events.events.contains_key(event.resolved.entry.name()) {
            pending_events.push(event);
        }
    }
}

impl<K: CustomResource> Drop for Subscription<K> {
    fn drop(&mut self) {
        let mut namespaces = lock(&self.broadcaster.namespaces);
        if let Some(subscribers) = namespaces.subscribers.get_mut(&self.namespace) {
            subscribers.remove(&self.id);
            if subscribers.is_empty() {
                namespaces.subscribers.remove(&self.namespace);
            }
        }
    }
}

/// The data behind these locks is consistent after every statement, so a poisoned lock is usable.
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
        assert_eq!(coalesced(unsent, later), want);
    }

    fn drain(subscription: &Subscription<Component>) -> Vec<(ResourceEventType, String)> {
        std::iter::from_fn(|| subscription.next().now_or_never())
            .map(|p| (p.event, p.resolved.entry.name().to_owned()))
            .collect()
    }

    #[test]
    fn each_stream_sees_its_own_types() {
        let broadcaster = Arc::new(Broadcaster::default());
        let (a, b) = (broadcaster.subscribe("n", "a"), broadcaster.subscribe("n", "b"));
        let elsewhere = broadcaster.subscribe("m", "a");
        broadcaster.publish(&change("x", Some(&["a"]), Some(&["a", "b"])));
        assert_eq!(drain(&a), [(Updated, "x".to_owned())]);
        assert_eq!(drain(&b), [(Created, "x".to_owned())]);
        assert!(drain(&elsewhere).is_empty());
    }

    #[test]
    fn slow_stream_keeps_one_entry_per_object_in_order() {
        let broadcaster = Arc::new(Broadcaster::default());
        let stream = broadcaster.subscribe("n", "a");
        broadcaster.publish(&change("x", None, Some(&[])));
        broadcaster.publish(&change("y", Some(&[]), Some(&[])));
        for _ in 0..1000 {
            broadcaster.publish(&change("x", Some(&[]), Some(&[])));
        }
        broadcaster.publish(&change("y", Some(&[]), None));
        assert_eq!(broadcaster.coalesced(), 1001);
        assert_eq!(drain(&stream), [(Created, "x".to_owned()), (Deleted, "y".to_owned())]);
    }

    #[test]
    fn event_put_back_yields_to_a_newer_one() {
        let broadcaster = Arc::new(Broadcaster::default());
        let stream = broadcaster.subscribe("n", "a");
        broadcaster.publish(&change("x", None, Some(&[])));
        let failed = stream.next().now_or_never().unwrap();
        broadcaster.publish(&change("x", Some(&[]), None));
        stream.put_back(failed);
        assert_eq!(drain(&stream), [(Deleted, "x".to_owned())]);
    }

    #[test]
    fn dropped_streams_are_forgotten() {
        let broadcaster = Arc::new(Broadcaster::<Component>::default());
        let stream = broadcaster.subscribe("n", "a");
        assert_eq!(broadcaster.streams(), (1, 0));
        drop(stream);
        assert_eq!(broadcaster.streams(), (0, 0));
    }
}
