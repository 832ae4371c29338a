//! Bytes of answers and events that sidecars have not read yet, limited per namespace.
//!
//! A message is encoded for each sidecar and stays in memory until its connection has taken it. A
//! client that does not read therefore costs memory: the messages of one namespace share a budget, and
//! a client that holds a part of it for too long is disconnected. Other namespaces are not affected.
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use runtime::LimitMeter;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, interval, timeout},
};
use transport::Peer;

use crate::api::error::ApiError;

/// Largest message that a sidecar reads, in bytes: the default of its gRPC library (Dapr 1.18).
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one permit. Keeps the number of permits within `u32`.
const UNIT: usize = 1024;
/// Interval between checks for clients that do not read.
const CHECK: Duration = Duration::from_secs(5);

/// How much of the operator's memory the sidecars of a namespace may occupy with unread messages.
#[derive(Clone, Copy, Debug)]
pub struct BudgetLimits {
    /// Bytes of unread messages of one namespace; 32 MiB by default: eight of the largest lists, or
    /// an object of 3 KiB to 10,000 sidecars.
    pub namespace_bytes: usize,
    /// How long a list waits for its share; 2 s by default. A sidecar waits 5 s for a response and
    /// retries (Dapr 1.18).
    pub wait: Duration,
    /// How long a client may leave a message unread; 30 s by default.
    pub unread: Duration,
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self {
            namespace_bytes: 32 * 1024 * 1024,
            wait: Duration::from_secs(2),
            unread: Duration::from_secs(30),
        }
    }
}

/// The budgets of all namespaces. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Shared>);

struct Shared {
    limits: BudgetLimits,
    state: Mutex<State>,
    /// Counts messages that found the budget used up.
    exhausted: LimitMeter,
    /// Counts clients that were disconnected.
    unread: LimitMeter,
}

#[derive(Default)]
struct State {
    namespaces: BTreeMap<String, Arc<Semaphore>>,
    next: u64,
    /// Holders of a part of a budget, with the time of the reservation.
    held: BTreeMap<u64, (Instant, Option<Peer>)>,
}

/// A part of a budget. Dropping it returns it.
pub(crate) struct Share {
    budget: Budget,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    pub(crate) fn new(limits: BudgetLimits, exhausted: LimitMeter, unread: LimitMeter) -> Self {
        Self(Arc::new(Shared { limits, state: Mutex::default(), exhausted, unread }))
    }

    /// Waits for a share of `bytes` of the budget of a namespace, first come, first served.
    ///
    /// # Errors
    /// [`ApiError::BudgetExhausted`] after [`BudgetLimits::wait`].
    pub(crate) async fn reserve(
        &self,
        namespace: &str,
        bytes: usize,
        peer: Option<&Peer>,
    ) -> Result<Share, ApiError> {
        let share = timeout(self.0.limits.wait, self.wait_for(namespace, bytes, peer)).await;
        share.map_err(|_| {
            self.0.exhausted.hit();
            ApiError::BudgetExhausted(namespace.to_owned())
        })
    }

    /// As [`Self::reserve`], without a time limit.
    pub(crate) async fn wait_for(
        &self,
        namespace: &str,
        bytes: usize,
        peer: Option<&Peer>,
    ) -> Share {
        let semaphore = self.semaphore(namespace);
        let permits = bytes.min(self.0.limits.namespace_bytes).div_ceil(UNIT);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        loop {
            // The semaphore is never closed, so the second attempt is not needed.
            let Ok(permit) = semaphore.clone().acquire_many_owned(permits).await else { continue };
            let mut state = self.lock();
            let number = state.next;
            state.next += 1;
            state.held.insert(number, (Instant::now(), peer.cloned()));
            drop(state);
            return Share { budget: self.clone(), number, _permit: permit };
        }
    }

    /// Disconnects clients that leave messages unread. Never returns.
    pub(crate) async fn disconnect_stalled(self) {
        let mut ticks = interval(CHECK.min(self.0.limits.unread));
        loop {
            ticks.tick().await;
            for peer in self.stalled(Instant::now()).into_iter().flatten() {
                self.0.unread.hit();
                let id = peer.id.as_ref().map(ToString::to_string).unwrap_or_default();
                tracing::debug!(target: "dapr.operator.api", id, addr = %peer.addr,
                    "sidecar does not read and is disconnected");
                peer.hang_up();
            }
        }
    }

    /// The clients that have left a message unread for too long. Unused budgets are dropped.
    fn stalled(&self, now: Instant) -> Vec<Option<Peer>> {
        let limit = self.0.limits.unread;
        let mut state = self.lock();
        state.namespaces.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let late = |(since, _): &(Instant, _)| now.duration_since(*since) >= limit;
        state.held.values().filter(|held| late(held)).map(|(_, peer)| peer.clone()).collect()
    }

    fn semaphore(&self, namespace: &str) -> Arc<Semaphore> {
        let permits = self.0.limits.namespace_bytes / UNIT;
        let mut state = self.lock();
        let new = || Arc::new(Semaphore::new(permits));
        state.namespaces.entry(namespace.to_owned()).or_insert_with(new).clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.lock().held.remove(&self.number);
    }
}

/// Bytes that a value of this length occupies in a repeated `bytes` field with a number below 16.
pub(crate) fn field_bytes(length: usize) -> usize {
    let bits = (length | 1).ilog2() as usize + 1;
    1 + bits.div_ceil(7) + length
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use prost::Message as _;
    use proto::operator::ListComponentResponse;
    use rstest::rstest;

    use super::*;

    fn budget(namespace_bytes: usize) -> Budget {
        let scope = runtime::Scope::for_test();
        let meter = |limit| scope.limit_meter("test", limit);
        let limits = BudgetLimits { namespace_bytes, ..BudgetLimits::default() };
        Budget::new(limits, meter("unread_bytes"), meter("unread_deadline"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_gets_its_budget_and_not_a_unit_more() {
        let budget = budget(4 * UNIT);
        let first = budget.reserve("shop", 3 * UNIT, None).await.unwrap();
        let _second = budget.reserve("shop", UNIT, None).now_or_never().unwrap().unwrap();
        let refused = budget.reserve("shop", 1, None).await.err().unwrap();
        assert!(matches!(refused, ApiError::BudgetExhausted(namespace) if namespace == "shop"));
        assert!(budget.reserve("bank", 4 * UNIT, None).now_or_never().unwrap().is_ok());
        drop(first);
        assert!(budget.reserve("shop", 3 * UNIT, None).now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_larger_than_the_budget_needs_all_of_it() {
        let budget = budget(4 * UNIT);
        let all = budget.reserve("shop", 5 * UNIT, None).await.unwrap();
        assert!(budget.reserve("shop", 1, None).await.is_err());
        drop(all);
        assert!(budget.reserve("shop", 5 * UNIT, None).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_leave_a_message_unread_until_the_deadline() {
        let budget = budget(4 * UNIT);
        let share = budget.reserve("shop", 1, None).await.unwrap();
        let (tick, unread) = (Duration::from_millis(1), BudgetLimits::default().unread);
        let since = Instant::now();
        assert_eq!(budget.stalled(since + unread.checked_sub(tick).unwrap()).len(), 0);
        assert_eq!(budget.stalled(since + unread).len(), 1);
        drop(share);
        assert_eq!(budget.stalled(since + unread).len(), 0);
        assert!(budget.lock().namespaces.is_empty(), "nothing is kept for a quiet namespace");
    }

    #[rstest]
    fn field_bytes_are_those_of_the_encoding(
        #[values(0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152)] length: usize,
    ) {
        let message = ListComponentResponse { components: vec![vec![0; length].into()] };
        assert_eq!(field_bytes(length), message.encoded_len());
    }
}
