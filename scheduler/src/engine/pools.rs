//! All pools and their rotation: namespaces take turns, and the pools of a namespace take turns.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::event::Share;
use super::job::Target;
use super::pool::{Pool, PoolId};

/// Deliveries of one pool before the next one has its turn.
pub(super) const QUANTUM: usize = 16;

/// The pools of the process.
#[derive(Debug, Default)]
pub(super) struct Pools {
    by_key: HashMap<(Arc<str>, Target), PoolId>,
    slots: Vec<Option<Pool>>,
    free: Vec<PoolId>,
    /// Namespaces with a listed pool, in the order of their turns.
    namespaces: VecDeque<Arc<str>>,
    /// Listed pools of each namespace, in the order of their turns.
    listed: HashMap<Arc<str>, VecDeque<PoolId>>,
}

impl Pools {
    /// The pool of a target, created on first use. The caller releases it.
    pub(super) fn acquire(&mut self, namespace: &Arc<str>, target: Target) -> PoolId {
        let key = (Arc::clone(namespace), target);
        if let Some(id) = self.by_key.get(&key).copied() {
            self.refer(id);
            return id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            PoolId(u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 pools"))
        });
        let mut pool = Pool::new(Arc::clone(namespace), key.1.clone());
        pool.references = 1;
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            *slot = Some(pool);
        }
        self.by_key.insert(key, id);
        id
    }

    /// Adds a reference to a pool that has one.
    pub(super) fn refer(&mut self, id: PoolId) {
        if let Some(pool) = self.get_mut(id) {
            pool.references += 1;
        }
    }

    /// Drops a reference. The pool is removed with the last one.
    pub(super) fn release(&mut self, id: PoolId) {
        let Some(pool) = self.get_mut(id) else { return };
        pool.references -= 1;
        if pool.references > 0 {
            return;
        }
        let key = (Arc::clone(&pool.namespace), pool.target.clone());
        self.unlist(id);
        self.by_key.remove(&key);
        if let Some(slot) = self.slots.get_mut(id.0 as usize) {
            *slot = None;
        }
        self.free.push(id);
    }

    pub(super) fn get(&self, id: PoolId) -> Option<&Pool> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Pool> {
        self.slots.iter().flatten()
    }

    /// Applies another share of the limits to all pools.
    pub(super) fn share_changed(&mut self, share: Share) {
        let ids: Vec<PoolId> = self.by_key.values().copied().collect();
        for id in ids {
            if let Some(pool) = self.get_mut(id) {
                pool.share_changed(share);
            }
            self.list(id, share);
        }
    }

    /// Gives a pool a turn if it has a job for a stream.
    pub(super) fn list(&mut self, id: PoolId, share: Share) {
        let Some(pool) = self.get_mut(id) else { return };
        if pool.listed || !pool.is_ready(share) {
            return;
        }
        pool.listed = true;
        let namespace = Arc::clone(&pool.namespace);
        let queue = self.listed.entry(Arc::clone(&namespace)).or_default();
        if queue.is_empty() {
            self.namespaces.push_back(namespace);
        }
        queue.push_back(id);
    }

    fn unlist(&mut self, id: PoolId) {
        let Some(pool) = self.get_mut(id).filter(|pool| pool.listed) else { return };
        let namespace = Arc::clone(&pool.namespace);
        if let Some(queue) = self.listed.get_mut(&namespace) {
            queue.retain(|other| *other != id);
            if queue.is_empty() {
                self.listed.remove(&namespace);
                self.namespaces.retain(|other| *other != namespace);
            }
        }
    }

    /// The next pool of the rotation. It must be listed again for its next turn.
    pub(super) fn next_turn(&mut self) -> Option<PoolId> {
        let namespace = self.namespaces.pop_front()?;
        let queue = self.listed.get_mut(&namespace)?;
        let id = queue.pop_front()?;
        if queue.is_empty() {
            self.listed.remove(&namespace);
        } else {
            self.namespaces.push_back(namespace);
        }
        if let Some(pool) = self.get_mut(id) {
            pool.listed = false;
        }
        Some(id)
    }

    pub(super) fn has_turns(&self) -> bool {
        !self.namespaces.is_empty()
    }
}
