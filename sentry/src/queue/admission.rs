//! Admits a bounded number of requests at a time; the others wait in a [`FairQueue`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::fair_queue::{FairQueue, Pushed, QueueKey};

/// Admits requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AdmissionQueue {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    free: usize,
    queue: FairQueue<oneshot::Sender<AdmissionPermit>>,
}

/// The request was not admitted: the queue is full, or its wait timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sentry has too many requests at the moment")]
pub(crate) struct QueueFull;

/// The right to be processed. Dropping it admits the next request.
#[derive(Debug)]
pub(crate) struct AdmissionPermit {
    queue: Option<AdmissionQueue>,
}

impl AdmissionQueue {
    /// Admits `concurrent` requests at a time and queues at most `waiting`.
    pub(crate) fn new(concurrent: usize, waiting: usize) -> Self {
        let state = State { free: concurrent, queue: FairQueue::new(waiting) };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits for a permit, at most `timeout`. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// [`QueueFull`] immediately when the queue is full, or when `timeout` expires.
    pub(crate) async fn admit(
        &self,
        key: QueueKey,
        timeout: Duration,
    ) -> Result<AdmissionPermit, QueueFull> {
        let admitted = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Ok(self.permit());
            }
            let (admit, admitted) = oneshot::channel();
            // An evicted request sees its channel close.
            if matches!(state.queue.push(key, admit), Pushed::Full(_)) {
                return Err(QueueFull);
            }
            admitted
        };
        match tokio::time::timeout(timeout, admitted).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(QueueFull),
        }
    }

    fn permit(&self) -> AdmissionPermit {
        AdmissionPermit { queue: Some(self.clone()) }
    }

    /// Gives a released permit to the next request that still waits.
    fn release(&self) {
        loop {
            let next = {
                let mut state = self.lock();
                let Some(next) = state.queue.pop() else {
                    state.free += 1;
                    return;
                };
                next
            };
            match next.send(self.permit()) {
                Ok(()) => return,
                // The request was cancelled. Its permit must not call `release` again.
                Err(mut permit) => permit.queue = None,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.release();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::PeerKey;

    const LONG: Duration = Duration::from_mins(1);

    fn key() -> QueueKey {
        QueueKey { peer: PeerKey::new(None), namespace: "shop".to_owned() }
    }

    #[tokio::test]
    async fn a_released_permit_goes_to_a_waiting_request() {
        let queue = AdmissionQueue::new(1, 8);
        let first = queue.admit(key(), LONG).await.unwrap();
        let waits = queue.admit(key(), LONG);
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        drop(first);
        let second = waits.await.unwrap();
        assert_eq!(queue.admit(key(), Duration::ZERO).await.unwrap_err(), QueueFull);
        drop(second);
        let third = queue.admit(key(), Duration::ZERO).await;
        assert!(third.is_ok(), "a cancelled request keeps no permit");
    }

    #[tokio::test]
    async fn the_queue_is_full_at_its_limit_and_not_before() {
        let queue = AdmissionQueue::new(1, 2);
        let _held = queue.admit(key(), LONG).await.unwrap();
        let mut waiting = [(); 2].map(|()| Box::pin(queue.admit(key(), LONG)));
        for request in &mut waiting {
            assert!(futures::poll!(request.as_mut()).is_pending());
        }
        assert_eq!(queue.admit(key(), LONG).await.unwrap_err(), QueueFull);
    }
}
