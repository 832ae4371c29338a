//! What a list or a watch event changes: objects that exist in a new state, and objects that no
//! longer exist. Pure.
//!
//! A list does not name the objects that were deleted while no watch was open: they are those that
//! were known before and that the list did not contain. [`ListDiff`] finds them for a cache of any
//! shape; [`Store`] is the cache for readers that need complete lists only.

use std::collections::{BTreeMap, BTreeSet};

use crate::watch::{FailureKind, WatchEvent};

/// What a watch event changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListChange<K, V> {
    /// Nothing.
    Unchanged,
    /// The object exists, in this state.
    Apply(K, V),
    /// These objects no longer exist.
    Remove(Vec<K>),
}

/// Turns the events of a watch into changes of single objects.
#[derive(Debug)]
pub struct ListDiff<K> {
    /// The objects that the current list has contained so far; `None` outside of a list.
    listed: Option<BTreeSet<K>>,
    synced: bool,
}

impl<K> Default for ListDiff<K> {
    fn default() -> Self {
        Self { listed: None, synced: false }
    }
}

impl<K: Ord + Clone> ListDiff<K> {
    /// The change that `event` makes to a cache with the keys `known`. Objects of a list are
    /// applied one by one as they arrive, and what the list did not contain is removed at its end,
    /// so that memory does not hold a list twice. `known` is read at the end of a list only. A kind that is not served has no objects.
    pub fn apply<V>(
        &mut self,
        event: WatchEvent<(K, V)>,
        known: impl IntoIterator<Item = K>,
    ) -> ListChange<K, V> {
        match event {
            WatchEvent::Init => self.listed = Some(BTreeSet::new()),
            WatchEvent::InitApply((key, object)) | WatchEvent::Apply((key, object)) => {
                self.keep(key.clone());
                return ListChange::Apply(key, object);
            }
            WatchEvent::Delete((key, _)) => return ListChange::Remove(vec![key]),
            WatchEvent::InitDone => {
                self.synced = true;
                if let Some(listed) = self.listed.take() {
                    let gone = known.into_iter().filter(|key| !listed.contains(key));
                    return ListChange::Remove(gone.collect());
                }
            }
            WatchEvent::Failed(failure) if failure.kind == FailureKind::NotServed => {
                (self.listed, self.synced) = (None, true);
                return ListChange::Remove(known.into_iter().collect());
            }
            WatchEvent::Failed(_) => {}
        }
        ListChange::Unchanged
    }

    /// The current list contains an object that its cache keeps in its former state, for example
    /// because the new one cannot be decoded.
    pub fn keep(&mut self, key: K) {
        if let Some(listed) = &mut self.listed {
            listed.insert(key);
        }
    }

    /// Whether the first list is complete.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether a list is under way.
    pub fn is_listing(&self) -> bool {
        self.listed.is_some()
    }
}

/// The objects of a watch, which change all at once when a list is complete: readers never see
/// objects of two lists together.
#[derive(Debug)]
pub struct Store<K, V> {
    objects: BTreeMap<K, V>,
    diff: ListDiff<K>,
    /// Objects of the current list.
    pending: Vec<(K, Option<V>)>,
}

impl<K, V> Default for Store<K, V> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), diff: ListDiff::default(), pending: Vec::new() }
    }
}

impl<K: Ord + Clone, V: PartialEq> Store<K, V> {
    /// Applies an event; an object of value `None` is not kept. Returns whether the first list is
    /// complete and an object differs, or whether the event completed the first list.
    pub fn apply(&mut self, event: WatchEvent<(K, Option<V>)>) -> bool {
        let was_synced = self.is_synced();
        let restarts = match &event {
            WatchEvent::Init => true,
            WatchEvent::Failed(failure) => failure.kind == FailureKind::NotServed,
            _ => false,
        };
        if restarts {
            self.pending.clear();
        }
        let change = self.diff.apply(event, self.objects.keys().cloned());
        let mut differs = self.is_synced() && !was_synced;
        if !self.diff.is_listing() {
            for (key, object) in std::mem::take(&mut self.pending) {
                differs |= self.put(key, object);
            }
        }
        match change {
            ListChange::Apply(key, object) if self.diff.is_listing() => {
                self.pending.push((key, object));
            }
            ListChange::Apply(key, object) => differs |= self.put(key, object),
            ListChange::Remove(keys) => {
                for key in keys {
                    differs |= self.objects.remove(&key).is_some();
                }
            }
            ListChange::Unchanged => {}
        }
        differs && self.is_synced()
    }

    fn put(&mut self, key: K, object: Option<V>) -> bool {
        match object {
            Some(object) => {
                let same = self.objects.get(&key) == Some(&object);
                self.objects.insert(key, object);
                !same
            }
            None => self.objects.remove(&key).is_some(),
        }
    }

    /// All objects by key, of one complete list and the changes since.
    pub fn objects(&self) -> &BTreeMap<K, V> {
        &self.objects
    }

    /// Whether the first list is complete; before that the store is empty.
    pub fn is_synced(&self) -> bool {
        self.diff.is_synced()
    }
}

#[cfg(test)]
mod tests {
    use WatchEvent::{Apply, Delete, Failed, Init, InitApply, InitDone};
    use rstest::rstest;
    use testkit::Choice;

    use super::*;
    use crate::watch::WatchFailure;

    type Event = WatchEvent<(u32, Option<u32>)>;

    fn failed(kind: FailureKind) -> Event {
        Failed(WatchFailure { kind, message: String::new() })
    }

    fn object(key: u32, value: u32) -> (u32, Option<u32>) {
        (key, Some(value))
    }

    #[rstest]
    #[case::first_list(&[Init, InitApply(object(1, 1)), InitDone], &[(1, 1)])]
    #[case::created(&[Init, InitDone, Apply(object(1, 1))], &[(1, 1)])]
    #[case::changed(&[Init, InitApply(object(1, 1)), InitDone, Apply(object(1, 2))], &[(1, 2)])]
    #[case::deleted(&[Init, InitApply(object(1, 1)), InitDone, Delete(object(1, 1))], &[])]
    #[case::missing_in_a_new_list(&[Init, InitApply(object(1, 1)), InitApply(object(2, 1)), InitDone,
        Init, InitApply(object(2, 2)), InitDone], &[(2, 2)])]
    #[case::list_started_twice(&[Init, InitApply(object(1, 1)), failed(FailureKind::Transient), Init,
        InitApply(object(2, 1)), InitDone], &[(2, 1)])]
    #[case::not_served_any_more_within_a_list(&[Init, InitApply(object(1, 1)), InitDone, Init,
        InitApply(object(2, 1)), failed(FailureKind::NotServed)], &[])]
    #[case::not_served_any_more(&[Init, InitApply(object(1, 1)), InitDone,
        failed(FailureKind::NotServed)], &[])]
    #[case::served_again(&[failed(FailureKind::NotServed), Init, InitApply(object(1, 1)), InitDone],
        &[(1, 1)])]
    #[case::not_kept(&[Init, InitApply((1, None)), InitDone, Apply(object(2, 1)), Apply((2, None))],
        &[])]
    #[case::expired(&[Init, InitApply(object(1, 1)), InitDone, failed(FailureKind::Expired)],
        &[(1, 1)])]
    fn events_lead_to_objects(#[case] events: &[Event], #[case] want: &[(u32, u32)]) {
        let mut store = Store::default();
        for event in events {
            store.apply(event.clone());
        }
        assert_eq!(store.objects().clone().into_iter().collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_store_changes_when_a_list_is_complete() {
        let mut store = Store::default();
        assert!(!store.apply(Init));
        assert!(!store.apply(InitApply(object(1, 1))));
        assert!(store.objects().is_empty() && !store.is_synced());
        assert!(store.apply(InitDone));
        assert!(store.is_synced());
        for event in [Init, InitApply(object(2, 1))] {
            assert!(!store.apply(event));
            assert_eq!(store.objects().keys().collect::<Vec<_>>(), [&1], "the former list");
        }
        assert!(store.apply(InitDone));
        assert_eq!(store.objects().keys().collect::<Vec<_>>(), [&2]);
        for event in [Init, InitApply(object(2, 1)), InitDone, Apply(object(2, 1))] {
            assert!(!store.apply(event), "nothing differs");
        }
        assert!(!store.apply(Delete(object(7, 1))), "it was not known");
    }

    #[test]
    fn an_empty_first_list_is_a_change() {
        let mut store = Store::<u32, u32>::default();
        assert!(!store.apply(Init));
        assert!(store.apply(InitDone));
        let mut absent = Store::<u32, u32>::default();
        assert!(absent.apply(failed(FailureKind::NotServed)));
    }

    #[test]
    fn an_object_that_its_cache_keeps_is_not_removed() {
        let mut diff = ListDiff::default();
        diff.apply::<()>(Init, []);
        diff.keep(1);
        let change = diff.apply::<()>(InitDone, [1, 2]);
        assert_eq!(change, ListChange::Remove(vec![2]));
    }

    /// An API server whose history is lost now and then, watched over lists that fail half-way.
    #[test]
    fn any_sequence_of_lists_and_events_ends_with_the_objects_of_the_server() {
        for seed in 0..200 {
            let mut choice = Choice::new(seed);
            let mut server = BTreeMap::new();
            let mut cache = BTreeMap::<u32, u32>::new();
            let (mut diff, mut store) = (ListDiff::default(), Store::default());
            for step in 0..60 {
                let mut events: Vec<Event> = Vec::new();
                if step == 0 || choice.below(6) == 0 {
                    // No watch was open: any change is possible.
                    for key in 0..8 {
                        change(&mut server, key, &mut choice);
                    }
                    if choice.below(3) == 0 {
                        let part = choice.below(4);
                        events.push(Init);
                        let listed = server.iter().take(part);
                        events.extend(listed.map(|(key, value)| InitApply(object(*key, *value))));
                        events.push(failed(FailureKind::Transient));
                    }
                    events.push(Init);
                    events.extend(server.iter().map(|(k, v)| InitApply(object(*k, *v))));
                    events.push(InitDone);
                } else {
                    let key = u32::try_from(choice.below(8)).unwrap();
                    let before = server.get(&key).copied();
                    change(&mut server, key, &mut choice);
                    events.push(match (before, server.get(&key)) {
                        (_, Some(value)) => Apply(object(key, *value)),
                        (Some(value), None) => Delete(object(key, value)),
                        (None, None) => failed(FailureKind::Transient),
                    });
                }
                for event in events {
                    store.apply(event.clone());
                    match diff.apply(event, cache.keys().copied()) {
                        ListChange::Apply(key, value) => {
                            cache.insert(key, value.unwrap());
                        }
                        ListChange::Remove(keys) => keys.iter().for_each(|key| {
                            cache.remove(key);
                        }),
                        ListChange::Unchanged => {}
                    }
                }
                assert_eq!(cache, server, "seed {seed}, step {step}");
                assert_eq!(*store.objects(), server, "seed {seed}, step {step}");
            }
        }
    }

    fn change(server: &mut BTreeMap<u32, u32>, key: u32, choice: &mut Choice) {
        match choice.below(3) {
            0 => {
                server.remove(&key);
            }
            1 => *server.entry(key).or_default() += 1,
            _ => {}
        }
    }
}
