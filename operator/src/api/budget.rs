//! Bytes of answers and events that sidecars have not read yet, limited per app and namespace.
//!
//! A message is encoded for each sidecar and stays in memory until its connection has taken it. A
//! client that does not read therefore costs memory: the messages of one namespace share a budget, of
//! which one app gets a part, and a client that holds a part of it for too long is disconnected. Other
//! namespaces are not affected, and other apps of the namespace have the rest.
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::LimitMeter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, interval, timeout};
use transport::Peer;

use crate::api::access::Caller;
use crate::api::error::ApiError;
use crate::api::limits::ApiLimits;

/// Largest message that a sidecar reads, in bytes: the default of its gRPC library (Dapr 1.18).
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of one permit. Keeps the number of permits within `u32`.
const UNIT: usize = 1024;
/// Interval between checks for clients that do not read.
const CHECK: Duration = Duration::from_secs(5);

/// The budgets of all namespaces. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Budget(Arc<Shared>);

struct Shared {
    limits: ApiLimits,
    state: Mutex<State>,
    /// Counts messages that found the budget used up.
    exhausted: LimitMeter,
    /// Counts clients that were disconnected.
    unread: LimitMeter,
}

#[derive(Default)]
struct State {
    namespaces: BTreeMap<String, Arc<Semaphore>>,
    /// By namespace and app id.
    apps: BTreeMap<(String, String), Arc<Semaphore>>,
    next: u64,
    /// Holders of a part of a budget, with the time of the reservation.
    held: BTreeMap<u64, (Instant, Option<Peer>)>,
}

/// A part of a budget. Dropping it returns it.
pub(crate) struct Share {
    budget: Budget,
    number: u64,
    /// Of the app and of the namespace.
    _permits: [OwnedSemaphorePermit; 2],
}

impl Budget {
    pub(crate) fn new(limits: ApiLimits, exhausted: LimitMeter, unread: LimitMeter) -> Self {
        Self(Arc::new(Shared { limits, state: Mutex::default(), exhausted, unread }))
    }

    /// Waits for a share of `bytes` of the budgets of the caller's app and namespace, first come, first
    /// served.
    ///
    /// # Errors
    /// [`ApiError::BudgetExhausted`] after [`ApiLimits::wait`].
    pub(crate) async fn reserve(&self, caller: &Caller, bytes: usize) -> Result<Share, ApiError> {
        let share = timeout(self.0.limits.wait, self.wait_for(caller, bytes)).await;
        share.map_err(|_| {
            self.0.exhausted.hit();
            ApiError::BudgetExhausted(caller.namespace.clone())
        })
    }

    /// As [`Self::reserve`], without a time limit.
    pub(crate) async fn wait_for(&self, caller: &Caller, bytes: usize) -> Share {
        let ApiLimits { app_bytes, namespace_bytes, .. } = self.0.limits;
        let [app, namespace] = self.semaphores(caller);
        // In this order, calls of an app that wait for its part do not hold up other apps.
        let permits = [
            permits(app, bytes.min(app_bytes)).await,
            permits(namespace, bytes.min(namespace_bytes)).await,
        ];
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.held.insert(number, (Instant::now(), caller.peer.clone()));
        drop(state);
        Share { budget: self.clone(), number, _permits: permits }
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
        state.apps.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let late = |(since, _): &(Instant, _)| now.duration_since(*since) >= limit;
        state.held.values().filter(|held| late(held)).map(|(_, peer)| peer.clone()).collect()
    }

    /// Those of the caller's app and namespace.
    fn semaphores(&self, caller: &Caller) -> [Arc<Semaphore>; 2] {
        let ApiLimits { app_bytes, namespace_bytes, .. } = self.0.limits;
        let new = |bytes: usize| Arc::new(Semaphore::new(bytes / UNIT));
        let Caller { namespace, app_id, .. } = caller;
        let mut state = self.lock();
        let app = state.apps.entry((namespace.clone(), app_id.clone()));
        let app = app.or_insert_with(|| new(app_bytes)).clone();
        let all = state.namespaces.entry(namespace.clone());
        [app, all.or_insert_with(|| new(namespace_bytes)).clone()]
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the permits of these bytes.
async fn permits(semaphore: Arc<Semaphore>, bytes: usize) -> OwnedSemaphorePermit {
    let permits = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
    loop {
        // The semaphore is never closed, so the second attempt is not needed.
        let Ok(permit) = semaphore.clone().acquire_many_owned(permits).await else { continue };
        return permit;
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

    /// Budgets of a namespace and of an app in units.
    fn budget(namespace: usize, app: usize) -> Budget {
        let scope = runtime::Scope::for_test();
        let meter = |limit| scope.limit_meter("test", limit);
        let (namespace_bytes, app_bytes) = (namespace * UNIT, app * UNIT);
        let limits = ApiLimits { namespace_bytes, app_bytes, ..ApiLimits::DEFAULT };
        Budget::new(limits, meter("unread_bytes"), meter("unread_deadline"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_gets_its_budget_and_not_a_unit_more() {
        let budget = budget(4, 3);
        let [orders, cart] = ["orders", "cart"].map(|app| Caller::for_test("shop", app));
        let first = budget.reserve(&orders, 3 * UNIT).await.unwrap();
        let _second = budget.reserve(&cart, UNIT).now_or_never().unwrap().unwrap();
        let refused = budget.reserve(&cart, 1).await.err().unwrap();
        assert!(matches!(refused, ApiError::BudgetExhausted(namespace) if namespace == "shop"));
        let bank = Caller::for_test("bank", "orders");
        assert!(budget.reserve(&bank, 3 * UNIT).now_or_never().unwrap().is_ok());
        drop(first);
        assert!(budget.reserve(&cart, 2 * UNIT).now_or_never().unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_gets_its_part_and_leaves_the_rest_to_others_while_it_waits() {
        let budget = budget(4, 2);
        let [orders, cart] = ["orders", "cart"].map(|app| Caller::for_test("shop", app));
        let first = budget.reserve(&orders, 2 * UNIT).now_or_never().unwrap().unwrap();
        let mut waiting = Box::pin(budget.wait_for(&orders, 1));
        assert!(waiting.as_mut().now_or_never().is_none(), "the app has its part");
        let _rest = budget.reserve(&cart, 2 * UNIT).now_or_never().unwrap().unwrap();
        drop(first);
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_larger_than_the_budget_needs_all_of_it() {
        let budget = budget(4, 4);
        let orders = Caller::for_test("shop", "orders");
        let all = budget.reserve(&orders, 5 * UNIT).await.unwrap();
        assert!(budget.reserve(&orders, 1).await.is_err());
        drop(all);
        assert!(budget.reserve(&orders, 5 * UNIT).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_leave_a_message_unread_until_the_deadline() {
        let budget = budget(4, 4);
        let share = budget.reserve(&Caller::for_test("shop", "orders"), 1).await.unwrap();
        let (tick, unread) = (Duration::from_millis(1), ApiLimits::DEFAULT.unread);
        let since = Instant::now();
        assert_eq!(budget.stalled(since + unread.checked_sub(tick).unwrap()).len(), 0);
        assert_eq!(budget.stalled(since + unread).len(), 1);
        drop(share);
        assert_eq!(budget.stalled(since + unread).len(), 0);
        let state = budget.lock();
        let kept = (state.namespaces.len(), state.apps.len());
        assert_eq!(kept, (0, 0), "nothing is kept for a quiet namespace");
    }

    #[rstest]
    fn field_bytes_are_those_of_the_encoding(
        #[values(0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152)] length: usize,
    ) {
        let message = ListComponentResponse { components: vec![vec![0; length].into()] };
        assert_eq!(field_bytes(length), message.encoded_len());
    }
}
