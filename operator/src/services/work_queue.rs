//! The queue of Services to reconcile: deduplicated, with back-off after failures.
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kubernetes::ObjectKey;

/// Delay after the first failed write.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// Longest delay after failed writes, before jitter.
const LONGEST_DELAY: Duration = Duration::from_mins(5);

/// Keys to reconcile and the time at which each is ready. Bounded by the number of Services and
/// workloads: a key is queued at most once.
#[derive(Default)]
pub(crate) struct WorkQueue {
    ready_at: BTreeMap<ObjectKey, Instant>,
    failures: BTreeMap<ObjectKey, u32>,
}

impl WorkQueue {
    /// Queues a changed object for immediate reconciliation and resets its back-off.
    pub(crate) fn push(&mut self, key: ObjectKey, now: Instant) {
        self.failures.remove(&key);
        self.ready_at.insert(key, now);
    }

    /// Queues an object for a resync; one that is queued already keeps its time.
    pub(crate) fn push_resync(&mut self, key: ObjectKey, now: Instant) {
        self.ready_at.entry(key).or_insert(now);
    }

    /// Removes and returns the keys that are ready.
    pub(crate) fn pop_ready(&mut self, now: Instant) -> Vec<ObjectKey> {
        let ready: Vec<_> = self
            .ready_at
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &ready {
            self.ready_at.remove(key);
        }
        ready
    }

    /// When the next key is ready.
    pub(crate) fn next_ready(&self) -> Option<Instant> {
        self.ready_at.values().min().copied()
    }

    /// The key was reconciled: resets its back-off.
    pub(crate) fn reconciled(&mut self, key: &ObjectKey) {
        self.failures.remove(key);
    }

    /// The reconciliation failed: queues the key with back-off. `draw` is a random number in `[0, 1)`.
    pub(crate) fn failed(&mut self, key: ObjectKey, now: Instant, draw: f64) {
        let failures = self.failures.entry(key.clone()).or_default();
        let delay = FIRST_DELAY.saturating_mul(1 << (*failures).min(16)).min(LONGEST_DELAY);
        *failures += 1;
        self.ready_at.insert(key, now + delay.mul_f64(1.0 + draw));
    }
}

#[cfg(test)]
mod tests {
    use runtime::clock;

    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey { namespace: "n".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn delay_doubles_after_each_failure_until_the_object_changes() {
        let mut queue = WorkQueue::default();
        let now = clock::monotonic();
        let mut delays = Vec::new();
        for _ in 0..12 {
            queue.failed(key("a-dapr"), now, 0.0);
            delays.push(queue.next_ready().unwrap().duration_since(now).as_millis());
        }
        assert_eq!(&delays[..4], [500, 1000, 2000, 4000]);
        assert_eq!(delays.last(), Some(&300_000));
        queue.push(key("a-dapr"), now);
        assert_eq!(queue.pop_ready(now), [key("a-dapr")]);
        queue.failed(key("a-dapr"), now, 0.0);
        assert_eq!(queue.next_ready().unwrap().duration_since(now).as_millis(), 500);
    }

    #[test]
    fn resync_does_not_shorten_a_back_off() {
        let mut queue = WorkQueue::default();
        let now = clock::monotonic();
        queue.failed(key("a-dapr"), now, 0.0);
        queue.push_resync(key("a-dapr"), now);
        queue.push_resync(key("b-dapr"), now);
        assert_eq!(queue.pop_ready(now), [key("b-dapr")]);
        queue.reconciled(&key("a-dapr"));
        assert_eq!(queue.pop_ready(now + FIRST_DELAY), [key("a-dapr")]);
    }
}
