//! Deliveries that the transport has not taken yet: only keys, no payload.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::engine::shard::Shard;
use crate::membership::epoch::Epoch;

/// One delivery of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// `WatchJobsResponse.id`.
    pub(crate) id: u64,
    /// Key of the job, without prefix.
    pub(crate) key: Arc<str>,
    /// `mod_revision` of the job record.
    pub(crate) revision: u64,
    /// The shard of the job.
    pub(crate) shard: Shard,
    /// The epoch of the shard in which the engine chose it.
    pub(crate) epoch: Epoch,
}

/// The queue of one stream. The engine limits it to a window of deliveries that were not taken.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    waiting: Mutex<VecDeque<Delivery>>,
    filled: Notify,
}

impl Mailbox {
    /// Appends a delivery. Never waits.
    pub(crate) fn push(&self, delivery: Delivery) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(delivery);
        self.filled.notify_one();
    }

    /// The next delivery. Cancelling it loses none.
    pub(crate) async fn next(&self) -> Delivery {
        loop {
            let filled = self.filled.notified();
            if let Some(delivery) = self.pop() {
                return delivery;
            }
            filled.await;
        }
    }

    /// True when nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// A delivery that is already waiting.
    pub(crate) fn pop(&self) -> Option<Delivery> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn deliveries_come_in_order_and_wake_the_reader() {
        let mailbox = Mailbox::default();
        let delivery = |id| {
            let shard = Shard::default();
            Delivery { id, key: "k".into(), revision: 1, shard, epoch: 1 }
        };
        let fill = async {
            tokio::task::yield_now().await;
            mailbox.push(delivery(1));
            mailbox.push(delivery(2));
        };
        let read = async { [mailbox.next().await.id, mailbox.next().await.id] };
        assert_eq!(tokio::join!(read, fill).0, [1, 2]);
        assert!(mailbox.is_empty());
    }
}
