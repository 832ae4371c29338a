//! The bounded queue of orders of one stream; newer orders replace older ones.
//!
//! A stream whose client does not read uses bounded memory: unwritten orders of superseded rounds
//! are dropped. The rest is in the order that sidecars rely on:
//!
//! - `update` and `unlock` follow a `lock` of their own version;
//! - `unlock` follows an `update`; only sidecars before 1.17 get an `unlock` in its place for a
//!   superseded `lock`, because 1.15 dead-locks on two `lock`s in a row;
//! - those sidecars never get an `unlock` without a `lock` before it, on which 1.15 crashes;
//! - a `lock` is never of a lower version than the one before.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::rounds::message::Step;
use crate::rounds::table::Table;

/// An order to a sidecar. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Order {
    /// Prepare for the table of this version.
    Lock(u64),
    /// Store this table.
    Update(Arc<Table>),
    /// Continue with the table of this version.
    Unlock(u64),
}

impl Order {
    /// The step of the order.
    pub fn step(&self) -> Step {
        match self {
            Self::Lock(_) => Step::Lock,
            Self::Update(_) => Step::Update,
            Self::Unlock(_) => Step::Unlock,
        }
    }

    /// The version of its table.
    pub fn version(&self) -> u64 {
        match self {
            Self::Lock(version) | Self::Unlock(version) => *version,
            Self::Update(table) => table.version(),
        }
    }
}

/// The queue of one stream. Holds at most one round and one pairing `unlock`: four orders.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The sidecar needs each `lock` paired with an `unlock`.
    paired: bool,
    queue: VecDeque<Order>,
    /// The version that was locked last, queued orders included.
    locked: Option<u64>,
    /// The version of a `lock` that was written without its `unlock`.
    open: Option<u64>,
}

impl Outbox {
    /// An empty queue; `paired` for sidecars before 1.17.
    pub fn new(paired: bool) -> Self {
        Self { paired, ..Self::default() }
    }

    /// Queues an order and drops those that it supersedes; drops the order itself if it is
    /// superseded.
    pub fn push(&mut self, order: Order) {
        let version = order.version();
        if matches!(order, Order::Lock(_)) {
            if self.locked.is_some_and(|locked| version < locked) {
                return;
            }
            self.queue.clear();
            if let Some(open) = self.open.filter(|_| self.paired) {
                self.queue.push_back(Order::Unlock(open));
            }
            self.locked = Some(version);
        } else if self.locked != Some(version) {
            return;
        }
        self.queue.push_back(order);
    }

    /// Takes the next order to write.
    pub fn pop(&mut self) -> Option<Order> {
        let order = self.queue.pop_front()?;
        match &order {
            Order::Lock(version) => self.open = Some(*version),
            Order::Unlock(_) => self.open = None,
            Order::Update(_) => {}
        }
        Some(order)
    }

    /// The number of queued orders.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether the queue is empty.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(step: u8, version: u64) -> Order {
        match step {
            0 => Order::Lock(version),
            1 => Order::Update(Arc::new(Table::new(version, []))),
            _ => Order::Unlock(version),
        }
    }

    fn shown(outbox: &mut Outbox) -> Vec<String> {
        std::iter::from_fn(|| outbox.pop())
            .map(|o| format!("{}{}", o.step().to_string().to_lowercase(), o.version()))
            .collect()
    }

    #[test]
    fn a_client_that_does_not_read_finds_only_the_newest_round() {
        for paired in [false, true] {
            let mut outbox = Outbox::new(paired);
            for version in 1..=50 {
                (0..3).for_each(|step| outbox.push(order(step, version)));
            }
            assert_eq!(shown(&mut outbox), ["lock50", "update50", "unlock50"], "paired {paired}");
        }
    }

    #[test]
    fn a_superseded_lock_is_paired_for_sidecars_that_need_it() {
        for (paired, want) in
            [(true, &["unlock1", "lock2", "update2"][..]), (false, &["lock2", "update2"])]
        {
            let mut outbox = Outbox::new(paired);
            outbox.push(order(0, 1));
            assert_eq!(outbox.pop().map(|o| o.version()), Some(1));
            outbox.push(order(1, 1));
            outbox.push(order(0, 2));
            outbox.push(order(1, 2));
            assert_eq!(shown(&mut outbox), want, "paired {paired}");
        }
    }

    proptest! {
        /// The core sends steps of one version in order, and versions ascending; the transport
        /// takes orders at any time. Stale orders are added to show that they are dropped.
        #[test]
        fn whatever_is_written_is_in_an_order_that_sidecars_accept(
            paired: bool,
            moves in proptest::collection::vec((0_u8..5, 0_u64..3), 0..200),
        ) {
            let mut outbox = Outbox::new(paired);
            let (mut version, mut step) = (0, 0);
            let mut written: Vec<Order> = Vec::new();
            for (kind, back) in moves {
                match kind {
                    0 => { version += 1; step = 1; outbox.push(order(0, version)); }
                    1 if (1..=2).contains(&step) => { outbox.push(order(step, version)); step += 1; }
                    2 if back > 0 => outbox.push(order(1 + (kind % 2), version.saturating_sub(back))),
                    _ => written.extend(outbox.pop()),
                }
                prop_assert!(outbox.len() <= 4);
            }
            let (mut last_lock, mut open) = (None, false);
            for pair in std::iter::once(None).chain(written.iter().map(Some)).zip(&written) {
                let (before, order) = pair;
                match order {
                    Order::Lock(v) => {
                        prop_assert!(last_lock < Some(*v));
                        prop_assert!(!(paired && open), "two locks in a row");
                        (last_lock, open) = (Some(*v), true);
                    }
                    Order::Update(t) => prop_assert_eq!(last_lock, Some(t.version())),
                    Order::Unlock(v) => {
                        prop_assert!(open, "unlock without lock");
                        prop_assert_eq!(last_lock, Some(*v));
                        let updated = matches!(before, Some(Order::Update(t)) if t.version() == *v);
                        prop_assert!(updated || paired, "unlock without update");
                        open = false;
                    }
                }
            }
        }
    }
}
