//! Which peers hold connections, and which gets the next one. Pure except for the tokens that it
//! cancels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Peers that are searched for an idle connection, those with the most connections first. Bounds
/// the work that a refused connection costs.
const CANDIDATES: usize = 8;

/// The state of one connection.
#[derive(Debug, Default)]
pub(super) struct Occupant {
    /// Ends the connection at once.
    pub(super) cut: CancellationToken,
    /// Open requests.
    pub(super) open: AtomicUsize,
}

impl Occupant {
    fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// All slots are taken, and none by an idle connection of a peer with more connections.
    Total,
    /// The peer has reached its limit.
    Peer,
}

/// A limited number of slots, with a smaller limit per peer. Cheap to clone.
#[derive(Debug)]
pub(super) struct Slots<K: Ord + Clone>(Arc<Mutex<Table<K>>>);

#[derive(Debug)]
struct Table<K> {
    limit: usize,
    limit_per_peer: usize,
    total: usize,
    next: u64,
    peers: BTreeMap<K, Peer>,
    /// Peers by number of slots.
    ranking: BTreeSet<(usize, K)>,
}

#[derive(Debug, Default)]
struct Peer {
    /// By age.
    slots: BTreeMap<u64, Arc<Occupant>>,
    /// Open requests of all.
    requests: Arc<AtomicUsize>,
}

/// A slot that is held; dropping it frees it.
#[derive(Debug)]
pub(super) struct Slot<K: Ord + Clone> {
    slots: Slots<K>,
    key: K,
    number: u64,
    /// Open requests of the peer over all its connections.
    pub(super) requests: Arc<AtomicUsize>,
    /// A connection was closed for this one.
    pub(super) evicted: bool,
}

impl<K: Ord + Clone> Clone for Slots<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Ord + Clone> Slots<K> {
    pub(super) fn new(limit: usize, limit_per_peer: usize) -> Self {
        Self(Arc::new(Mutex::new(Table {
            limit,
            limit_per_peer,
            total: 0,
            next: 0,
            peers: BTreeMap::new(),
            ranking: BTreeSet::new(),
        })))
    }

    /// Takes a slot for a new connection of `key`. When all are taken, the oldest idle connection of
    /// the peer with the most connections is closed for it, if that peer has more than `key`.
    pub(super) fn take(&self, key: K, occupant: Arc<Occupant>) -> Result<Slot<K>, Full> {
        let mut table = self.lock();
        let held = table.held(&key);
        if held >= table.limit_per_peer {
            return Err(Full::Peer);
        }
        let evicted = table.total >= table.limit;
        if evicted && !table.evict(held) {
            return Err(Full::Total);
        }
        let (number, requests) = table.insert(key.clone(), occupant);
        drop(table);
        Ok(Slot { slots: self.clone(), key, number, requests, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, Table<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone> Table<K> {
    fn held(&self, key: &K) -> usize {
        self.peers.get(key).map_or(0, |peer| peer.slots.len())
    }

    fn insert(&mut self, key: K, occupant: Arc<Occupant>) -> (u64, Arc<AtomicUsize>) {
        let number = self.next;
        self.next += 1;
        self.total += 1;
        let Peer { slots, requests } = self.peers.entry(key.clone()).or_default();
        slots.insert(number, occupant);
        self.ranking.remove(&(slots.len() - 1, key.clone()));
        self.ranking.insert((slots.len(), key));
        (number, requests.clone())
    }

    /// Frees a slot; no effect if it is free already.
    fn remove(&mut self, key: &K, number: u64) {
        let Some(Peer { slots, .. }) = self.peers.get_mut(key) else { return };
        if slots.remove(&number).is_none() {
            return;
        }
        self.total -= 1;
        let left = slots.len();
        self.ranking.remove(&(left + 1, key.clone()));
        if left == 0 {
            self.peers.remove(key);
        } else {
            self.ranking.insert((left, key.clone()));
        }
    }

    /// Closes an idle connection of a peer that holds more than `held`; returns false if there is
    /// none.
    fn evict(&mut self, held: usize) -> bool {
        let idle = |key: &K| {
            let slots = &self.peers.get(key)?.slots;
            let (number, occupant) = slots.iter().find(|(_, occupant)| occupant.is_idle())?;
            Some((key.clone(), *number, occupant.clone()))
        };
        let mut ranked = self.ranking.iter().rev().take(CANDIDATES);
        let found = ranked.find_map(|(count, key)| if *count > held { idle(key) } else { None });
        let Some((key, number, occupant)) = found else { return false };
        self.remove(&key, number);
        occupant.cut.cancel();
        true
    }
}

impl<K: Ord + Clone> Drop for Slot<K> {
    fn drop(&mut self) {
        self.slots.lock().remove(&self.key, self.number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn busy() -> Arc<Occupant> {
        Arc::new(Occupant { open: AtomicUsize::new(1), ..Occupant::default() })
    }

    fn idle() -> Arc<Occupant> {
        Arc::default()
    }

    #[test]
    fn a_peer_gets_as_many_slots_as_it_may_and_one_again_when_one_is_freed() {
        let slots = Slots::new(10, 3);
        let mut held: Vec<_> = (0..3).map(|_| slots.take("a", busy()).unwrap()).collect();
        assert_eq!(slots.take("a", busy()).unwrap_err(), Full::Peer);
        assert!(slots.take("b", busy()).is_ok(), "another peer is not affected");
        held.pop();
        held.push(slots.take("a", busy()).unwrap());
        assert_eq!(slots.take("a", busy()).unwrap_err(), Full::Peer);
    }

    #[test]
    fn all_slots_can_be_taken_and_no_more() {
        let slots = Slots::new(2, 2);
        let _held = [slots.take(1, busy()).unwrap(), slots.take(2, busy()).unwrap()];
        assert_eq!(slots.take(3, busy()).unwrap_err(), Full::Total);
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_idle_connection_of_the_largest_peer() {
        let slots = Slots::new(4, 4);
        let occupants = [busy(), idle(), idle()];
        let held: Vec<_> =
            occupants.iter().map(|o| slots.take("flood", o.clone()).unwrap()).collect();
        let other = idle();
        let _other = slots.take("quiet", other.clone()).unwrap();
        let new = slots.take("new", idle()).unwrap();
        assert!(new.evicted);
        let cut: Vec<bool> = occupants.iter().map(|o| o.cut.is_cancelled()).collect();
        assert_eq!((cut, other.cut.is_cancelled()), (vec![false, true, false], false));
        drop(held); // freeing the slot of a closed connection has no effect
        assert_eq!(slots.lock().total, 2);
    }

    #[test]
    fn peers_of_equal_size_do_not_displace_each_other() {
        let slots = Slots::new(4, 4);
        let _held: Vec<_> = ["a", "a", "b", "b"].map(|key| slots.take(key, idle()).unwrap()).into();
        assert_eq!(slots.take("a", idle()).unwrap_err(), Full::Total);
        assert!(slots.take("c", idle()).unwrap().evicted);
    }

    proptest! {
        #[test]
        fn counts_and_ranking_follow_what_is_held(moves in proptest::collection::vec((0_u8..6, any::<bool>()), 0..200)) {
            let slots = Slots::new(8, 4);
            let mut held: Vec<(Slot<u8>, Arc<Occupant>)> = Vec::new();
            for (key, frees) in moves {
                if frees && !held.is_empty() {
                    held.remove(usize::from(key) % held.len());
                } else {
                    let occupant = if key % 2 == 0 { idle() } else { busy() };
                    if let Ok(slot) = slots.take(key, occupant.clone()) {
                        held.push((slot, occupant));
                    }
                }
                held.retain(|(_, occupant)| !occupant.cut.is_cancelled());
                let table = slots.lock();
                prop_assert_eq!(table.total, held.len());
                prop_assert!(table.total <= 8);
                let counted: BTreeSet<(usize, u8)> = table.peers.iter().map(|(k, peer)| (peer.slots.len(), *k)).collect();
                prop_assert!(counted.iter().all(|(count, _)| (1..=4).contains(count)));
                prop_assert_eq!(&counted, &table.ranking);
            }
        }
    }
}
