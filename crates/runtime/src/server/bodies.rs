//! Bytes of request bodies that have not ended yet: how many a listener holds, and whose. Pure except
//! for the tasks that it wakes and the tokens that it cancels.
//!
//! A body takes room before it is read. An address that holds its share waits, so that flow control
//! stops its peers; an address with less takes the place of the oldest body of the address with most.
//! The oldest body of an address goes on beyond the share, and the oldest of all beyond the total, so
//! that bodies which wait for each other come to an end: what is held exceeds each limit by one body
//! at most.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio_util::sync::CancellationToken;

/// Bytes that a body takes at once: as many as an HTTP/2 frame has by default (RFC 9113 §6.5.2).
/// They stand for the buffers of an empty body too.
pub(super) const CHUNK: usize = 16 * 1024;

/// The unfinished bodies of one listener. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Bodies(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    /// Bytes of all, and of one address.
    limit: usize,
    limit_per_address: usize,
    held: usize,
    next: u64,
    /// All bodies by age.
    all: BTreeMap<u64, IpAddr>,
    addresses: BTreeMap<IpAddr, Address>,
    /// Addresses by bytes.
    ranking: BTreeSet<(usize, IpAddr)>,
    /// Bodies that wait until any other ends.
    waiting: BTreeMap<u64, Waker>,
}

#[derive(Debug, Default)]
struct Address {
    held: usize,
    bodies: BTreeMap<u64, Held>,
    /// Bodies that wait until another of this address ends.
    waiting: BTreeMap<u64, Waker>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    evicted: CancellationToken,
}

/// One unfinished body; dropping it frees its room.
#[derive(Debug)]
pub(super) struct Account {
    bodies: Bodies,
    address: IpAddr,
    number: u64,
    evicted: CancellationToken,
}

impl Bodies {
    pub(super) fn new(limit: usize, limit_per_address: usize) -> Self {
        Self(Arc::new(Mutex::new(Table {
            limit,
            limit_per_address,
            held: 0,
            next: 0,
            all: BTreeMap::new(),
            addresses: BTreeMap::new(),
            ranking: BTreeSet::new(),
            waiting: BTreeMap::new(),
        })))
    }

    /// An account without any room, of a new body from that address.
    pub(super) fn open(&self, address: IpAddr) -> Account {
        let evicted = CancellationToken::new();
        let mut table = self.lock();
        let number = table.next;
        table.next += 1;
        table.all.insert(number, address);
        let body = Held { bytes: 0, evicted: evicted.clone() };
        table.addresses.entry(address).or_default().bodies.insert(number, body);
        drop(table);
        Account { bodies: self.clone(), address, number, evicted }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Cancelled when the body has lost its room to another address.
    pub(super) fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// Takes [`CHUNK`] bytes of room, or waits for them.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        self.bodies.lock().take(self.address, self.number, cx.waker())
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.bodies.lock().remove(self.address, self.number);
    }
}

impl Table {
    fn take(&mut self, key: IpAddr, number: u64, waker: &Waker) -> Poll<()> {
        let Some(address) = self.addresses.get_mut(&key) else { return Poll::Pending };
        if !address.bodies.contains_key(&number) {
            return Poll::Pending; // it was evicted, and its task ends by the token
        }
        let is_oldest =
            address.bodies.first_key_value().is_some_and(|(oldest, _)| *oldest == number);
        let held = address.held + CHUNK;
        if held > self.limit_per_address && !is_oldest {
            address.waiting.insert(number, waker.clone());
            return Poll::Pending;
        }
        while self.held + CHUNK > self.limit && !self.is_oldest_of_all(number) {
            if !self.evict(held) {
                self.waiting.insert(number, waker.clone());
                return Poll::Pending;
            }
        }
        self.waiting.remove(&number);
        if let Some(address) = self.addresses.get_mut(&key) {
            address.waiting.remove(&number);
            if let Some(body) = address.bodies.get_mut(&number) {
                body.bytes += CHUNK;
            }
        }
        self.add(key, CHUNK);
        Poll::Ready(())
    }

    fn is_oldest_of_all(&self, number: u64) -> bool {
        self.all.first_key_value().is_some_and(|(oldest, _)| *oldest == number)
    }

    /// Ends the oldest body with room of the address that holds most, if that is more than `held`.
    fn evict(&mut self, held: usize) -> bool {
        let Some((most, key)) = self.ranking.last().copied() else { return false };
        if most <= held {
            return false;
        }
        let bodies = self.addresses.get(&key).map(|address| &address.bodies);
        let oldest = bodies.and_then(|bodies| bodies.iter().find(|(_, body)| body.bytes > 0));
        let Some((number, body)) = oldest else { return false };
        let (number, evicted) = (*number, body.evicted.clone());
        evicted.cancel();
        self.remove(key, number);
        true
    }

    /// Frees the room of a body; no effect if it is free already.
    fn remove(&mut self, key: IpAddr, number: u64) {
        self.all.remove(&number);
        self.waiting.remove(&number);
        let Some(address) = self.addresses.get_mut(&key) else { return };
        address.waiting.remove(&number);
        let Some(body) = address.bodies.remove(&number) else { return };
        // A woken body that finds no room waits again; one that is gone wakes the next by its end.
        for _ in 0..=body.bytes / CHUNK {
            let Some((_, waker)) = address.waiting.pop_first() else { break };
            waker.wake();
        }
        self.release(key, body.bytes);
        for waker in std::mem::take(&mut self.waiting).into_values() {
            waker.wake();
        }
    }

    fn add(&mut self, key: IpAddr, bytes: usize) {
        self.held += bytes;
        let Some(address) = self.addresses.get_mut(&key) else { return };
        self.ranking.remove(&(address.held, key));
        address.held += bytes;
        self.ranking.insert((address.held, key));
    }

    fn release(&mut self, key: IpAddr, bytes: usize) {
        self.held -= bytes;
        let Some(address) = self.addresses.get_mut(&key) else { return };
        self.ranking.remove(&(address.held, key));
        address.held -= bytes;
        if address.held > 0 {
            self.ranking.insert((address.held, key));
        }
        if address.bodies.is_empty() {
            self.addresses.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests;
