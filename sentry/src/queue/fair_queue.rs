//! A bounded queue with two levels of round robin: over peer addresses, then over namespaces of one
//! address. Within one namespace of one address the order is first in, first out.
//!
//! The peer address comes first because the namespace of a request is not authenticated yet: a
//! client that invents namespaces competes only with itself.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;

/// The peer address that fairness is based on: an IPv4 address or an IPv6 /64 network, because one
/// host can use every address of its /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PeerKey(Option<IpAddr>);

impl PeerKey {
    /// The key of an address; all requests without an address share one key.
    pub(crate) fn new(address: Option<IpAddr>) -> Self {
        const NETWORK: u128 = !0 << 64;
        Self(address.map(|address| match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & NETWORK).into()),
            v4 @ IpAddr::V4(_) => v4,
        }))
    }
}

/// What a request is queued under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct QueueKey {
    /// Address of the client.
    pub(crate) peer: PeerKey,
    /// The namespace that the request names; not authenticated.
    pub(crate) namespace: String,
}

/// Queues of `T` by key that are served in turn.
#[derive(Debug)]
struct RoundRobin<K, Q> {
    queues: HashMap<K, Q>,
    /// Keys with waiting entries, the next one first.
    order: VecDeque<K>,
}

impl<K, Q> Default for RoundRobin<K, Q> {
    fn default() -> Self {
        Self { queues: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, Q: Default> RoundRobin<K, Q> {
    fn entry(&mut self, key: K) -> &mut Q {
        self.queues.entry(key).or_insert_with_key(|key| {
            self.order.push_back(key.clone());
            Q::default()
        })
    }

    /// Takes one entry from the first queue and moves that queue to the end.
    fn pop<T>(
        &mut self,
        pop: impl FnOnce(&mut Q) -> Option<T>,
        is_empty: impl FnOnce(&Q) -> bool,
    ) -> Option<T> {
        let key = self.order.pop_front()?;
        let queue = self.queues.get_mut(&key)?;
        let entry = pop(queue);
        if is_empty(queue) {
            self.queues.remove(&key);
        } else {
            self.order.push_back(key);
        }
        entry
    }

    /// Takes one entry from the longest queue.
    fn evict<T>(
        &mut self,
        len: impl Fn(&Q) -> usize,
        evict: impl FnOnce(&mut Q) -> Option<T>,
    ) -> Option<T> {
        let longest = self.queues.iter().max_by_key(|(_, queue)| len(queue))?;
        let key = longest.0.clone();
        let queue = self.queues.get_mut(&key)?;
        let entry = evict(queue);
        if len(queue) == 0 {
            self.queues.remove(&key);
            self.order.retain(|other| *other != key);
        }
        entry
    }
}

/// The namespaces of one peer.
#[derive(Debug)]
struct PeerQueue<T> {
    namespaces: RoundRobin<String, VecDeque<T>>,
    len: usize,
}

impl<T> Default for PeerQueue<T> {
    fn default() -> Self {
        Self { namespaces: RoundRobin::default(), len: 0 }
    }
}

impl<T> PeerQueue<T> {
    fn push(&mut self, namespace: String, entry: T) {
        self.namespaces.entry(namespace).push_back(entry);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<T> {
        let entry = self.namespaces.pop(VecDeque::pop_front, VecDeque::is_empty);
        self.len -= usize::from(entry.is_some());
        entry
    }

    /// Removes the newest entry of the longest namespace.
    fn evict(&mut self) -> Option<T> {
        let entry = self.namespaces.evict(VecDeque::len, VecDeque::pop_back);
        self.len -= usize::from(entry.is_some());
        entry
    }

    fn namespace_len(&self, namespace: &str) -> usize {
        self.namespaces.queues.get(namespace).map_or(0, VecDeque::len)
    }

    fn longest_namespace(&self) -> usize {
        self.namespaces.queues.values().map(VecDeque::len).max().unwrap_or_default()
    }
}

/// A bounded queue that is fair to peer addresses first and to namespaces second.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    peers: RoundRobin<PeerKey, PeerQueue<T>>,
    len: usize,
    capacity: usize,
}

/// The outcome of [`FairQueue::push`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Pushed<T> {
    /// The entry was queued.
    Queued,
    /// The queue was full. The entry was queued and this one, the newest of the longest queue, was
    /// evicted.
    Evicted(T),
    /// The queue was full and no other queue is longer. The entry was not queued.
    Full(T),
}

impl<T> FairQueue<T> {
    /// An empty queue for at most `capacity` entries.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { peers: RoundRobin::default(), len: 0, capacity }
    }

    pub(crate) fn push(&mut self, key: QueueKey, entry: T) -> Pushed<T> {
        let evicted = if self.len < self.capacity {
            None
        } else if let Some(evicted) = self.make_room(&key) {
            Some(evicted)
        } else {
            return Pushed::Full(entry);
        };
        self.peers.entry(key.peer).push(key.namespace, entry);
        self.len += 1;
        evicted.map_or(Pushed::Queued, Pushed::Evicted)
    }

    /// Evicts an entry of a peer that has more than this one would have, or else of a longer
    /// namespace of the same peer.
    fn make_room(&mut self, key: &QueueKey) -> Option<T> {
        let own = self.peers.queues.get(&key.peer);
        let own_len = own.map_or(0, |queue| queue.len);
        let longest = self.peers.queues.values().map(|queue| queue.len).max()?;
        let evicted = if longest > own_len + 1 {
            self.peers.evict(|queue| queue.len, PeerQueue::evict)
        } else if own.is_some_and(|queue| {
            queue.longest_namespace() > queue.namespace_len(&key.namespace) + 1
        }) {
            self.peers.queues.get_mut(&key.peer)?.evict()
        } else {
            None
        };
        self.len -= usize::from(evicted.is_some());
        evicted
    }

    /// Takes the next entry.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let entry = self.peers.pop(PeerQueue::pop, |queue| queue.len == 0);
        self.len -= usize::from(entry.is_some());
        entry
    }

    /// The number of queued entries.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn key(peer: u8, namespace: &str) -> QueueKey {
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, peer));
        QueueKey { peer: PeerKey::new(Some(address)), namespace: namespace.to_owned() }
    }

    fn drain(queue: &mut FairQueue<i32>) -> Vec<i32> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn namespaces_of_one_peer_take_turns() {
        let mut queue = FairQueue::new(10);
        for (namespace, entry) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            assert_eq!(queue.push(key(1, namespace), entry), Pushed::Queued);
        }
        assert_eq!(drain(&mut queue), [1, 4, 5, 2, 6, 3]);
    }

    #[test]
    fn invented_namespaces_gain_no_turns_over_another_peer() {
        let mut queue = FairQueue::new(100);
        for n in 0..50 {
            queue.push(key(1, &format!("invented-{n}")), n);
        }
        queue.push(key(2, "shop"), 1000);
        queue.push(key(2, "shop"), 1001);
        let order = drain(&mut queue);
        assert_eq!(order.get(..4), Some(&[0, 1000, 1, 1001][..]));
    }

    #[test]
    fn a_full_queue_evicts_from_the_longest_peer_then_namespace() {
        let mut queue = FairQueue::new(4);
        for entry in 1..=4 {
            queue.push(key(1, "greedy"), entry);
        }
        assert_eq!(queue.push(key(1, "greedy"), 5), Pushed::Full(5));
        assert_eq!(queue.push(key(1, "modest"), 6), Pushed::Evicted(4));
        assert_eq!(queue.push(key(2, "modest"), 7), Pushed::Evicted(3));
        assert_eq!(queue.push(key(2, "modest"), 8), Pushed::Evicted(2), "three against one");
        assert_eq!(queue.push(key(2, "modest"), 9), Pushed::Full(9), "two against two");
        assert_eq!(queue.len(), 4);
        assert_eq!(drain(&mut queue), [1, 7, 6, 8]);
    }

    #[rstest]
    #[case::same_network("fd00::1", "fd00::ffff", true)]
    #[case::other_network("fd00::1", "fd00:0:0:1::1", false)]
    #[case::mapped("::ffff:10.0.0.1", "10.0.0.1", true)]
    #[case::other_v4("10.0.0.1", "10.0.0.2", false)]
    fn one_host_has_one_key(#[case] a: IpAddr, #[case] b: IpAddr, #[case] same: bool) {
        assert_eq!(PeerKey::new(Some(a)) == PeerKey::new(Some(b)), same);
    }

    const PEERS: u8 = 4;
    const NAMESPACES: u8 = 3;

    type Entry = (u8, u8, usize);

    /// What the queue must contain, and how often each waiting peer was passed over.
    #[derive(Default)]
    struct Model {
        inside: BTreeSet<Entry>,
        passed_over: BTreeMap<u8, u8>,
    }

    impl Model {
        fn pushed(&mut self, entry: Entry, pushed: &Pushed<Entry>) {
            match pushed {
                Pushed::Queued => assert!(self.inside.insert(entry)),
                Pushed::Evicted(gone) => {
                    assert!(self.inside.remove(gone) && self.inside.insert(entry));
                }
                Pushed::Full(same) => assert_eq!(*same, entry),
            }
        }

        fn popped(&mut self, entry: Option<Entry>) {
            let Some(entry) = entry else { return assert!(self.inside.is_empty()) };
            assert!(self.inside.remove(&entry));
            let waiting: BTreeSet<u8> = self.inside.iter().map(|(peer, ..)| *peer).collect();
            self.passed_over.retain(|peer, _| waiting.contains(peer) && *peer != entry.0);
            for peer in waiting.into_iter().filter(|peer| *peer != entry.0) {
                *self.passed_over.entry(peer).or_default() += 1;
            }
            assert!(self.passed_over.values().all(|turns| *turns < PEERS), "a peer starves");
        }
    }

    proptest! {
        /// For any order of pushes and pops: no entry is lost or returned twice, the bound holds,
        /// and a waiting peer is passed over at most once by each other peer.
        #[test]
        fn is_fair_and_loses_no_entry(
            steps in prop::collection::vec(prop::option::of((0..PEERS, 0..NAMESPACES)), 1..200),
            capacity in 1_usize..20,
        ) {
            let (mut queue, mut model) = (FairQueue::new(capacity), Model::default());
            for (n, step) in steps.into_iter().enumerate() {
                if let Some((peer, namespace)) = step {
                    let entry = (peer, namespace, n);
                    let pushed = queue.push(key(peer, &namespace.to_string()), entry);
                    model.pushed(entry, &pushed);
                } else {
                    model.popped(queue.pop());
                }
                prop_assert!(queue.len() <= capacity);
                prop_assert_eq!(queue.len(), model.inside.len());
            }
        }
    }
}
