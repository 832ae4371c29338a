//! Bounded reads of Secrets, shared by concurrent callers.
//!
//! When many sidecars start together, their lists need the same Secrets. Callers that wait for the
//! same Secret share one read. A caller that arrives while a read is in progress waits for the next
//! one, so a result is never older than its request. Results are not cached.
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, Shared, WeakShared},
    stream,
};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    key::ObjectKey,
    secrets::resolution::{FetchError, Fetched, SecretData},
};

/// Timeout of one read, including the wait for a permit. A sidecar waits 5 s for a response (Dapr
/// 1.18).
const LIMIT: Duration = Duration::from_secs(3);
/// Concurrent reads; each holds a Secret of up to 1 MiB.
const TURNS: usize = 16;

/// The result of one read.
pub(crate) type Outcome = Result<Arc<SecretData>, FetchError>;
type Read = BoxFuture<'static, Outcome>;
type Waiting = BTreeMap<ObjectKey, WeakShared<Read>>;

/// Reads Secrets for all callers.
#[derive(Clone)]
pub(crate) struct SecretReads(Arc<Reads>);

struct Reads {
    read: Box<dyn Fn(ObjectKey) -> Read + Send + Sync>,
    turns: Semaphore,
    /// Reads that have not started.
    waiting: Mutex<Waiting>,
}

impl SecretReads {
    /// `read` reads one Secret from the API server.
    pub(crate) fn new<F>(read: impl Fn(ObjectKey) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let read = Box::new(move |key| read(key).boxed());
        let (turns, waiting) = (Semaphore::new(TURNS), Mutex::default());
        Self(Arc::new(Reads { read, turns, waiting }))
    }

    /// Reads Secrets of a namespace. A failed read does not affect the others.
    pub(crate) async fn all(&self, namespace: &str, names: BTreeSet<String>) -> Fetched {
        let one = |name: String| async {
            let key = ObjectKey { namespace: namespace.to_owned(), name: name.clone() };
            let outcome = timeout(LIMIT, self.one(key)).await.unwrap_or_else(|_| {
                let reason = format!("no response within {} s", LIMIT.as_secs());
                Err(FetchError::Failed { name: name.clone(), reason })
            });
            (name, outcome)
        };
        stream::iter(names).map(one).buffer_unordered(TURNS).collect().await
    }

    /// The pending read of `key` that has not started.
    fn one(&self, key: ObjectKey) -> Shared<Read> {
        let mut waiting = self.0.waiting();
        if let Some(read) = waiting.get(&key).and_then(WeakShared::upgrade) {
            return read;
        }
        let read = self.clone().in_turn(key.clone()).boxed().shared();
        if let Some(weak) = read.downgrade() {
            waiting.retain(|_, left| left.upgrade().is_some());
            waiting.insert(key, weak);
        }
        read
    }

    async fn in_turn(self, key: ObjectKey) -> Outcome {
        // The semaphore is never closed.
        let _turn = self.0.turns.acquire().await;
        self.0.waiting().remove(&key);
        (self.0.read)(key).await
    }
}

impl Reads {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        sync::Notify,
        task::{JoinSet, yield_now},
    };

    use super::*;

    /// Reads that complete when `go` is notified, and the number of started reads.
    fn reads() -> (SecretReads, Arc<Notify>, Arc<AtomicUsize>) {
        let (go, started) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (gate, count) = (go.clone(), started.clone());
        let reads = SecretReads::new(move |key: ObjectKey| {
            let gate = gate.clone();
            let version = count.fetch_add(1, Ordering::Relaxed);
            async move {
                gate.notified().await;
                Ok(Arc::new([(key.name, version.to_be_bytes().to_vec())].into()))
            }
        });
        (reads, go, started)
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn callers_during_a_read_share_the_next_one() {
        let (reads, go, started) = reads();
        let mut all = JoinSet::new();
        let mut ask = |name: String| {
            let reads = reads.clone();
            all.spawn(async move { reads.all("n", names(&[&name])).await });
        };
        (0..TURNS).for_each(|i| ask(format!("busy-{i}")));
        yield_now().await;
        (0..5).for_each(|_| ask("busy-0".to_owned()));
        yield_now().await;
        assert_eq!(started.load(Ordering::Relaxed), TURNS, "every permit is taken");
        go.notify_waiters();
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(started.load(Ordering::Relaxed), TURNS + 1, "five callers share one read");
        go.notify_waiters();
        for fetched in all.join_all().await {
            assert!(fetched.values().all(Result::is_ok));
        }
        assert!(reads.0.waiting().is_empty(), "no result is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn read_that_times_out_fails_alone_and_releases_its_permit() {
        let reads = SecretReads::new(|key: ObjectKey| async move {
            if key.name == "stuck" {
                std::future::pending::<()>().await;
            }
            Ok(Arc::default())
        });
        for _ in 0..=TURNS {
            let fetched = reads.all("n", names(&["fine", "stuck"])).await;
            assert!(fetched["fine"].is_ok());
            let error = fetched["stuck"].as_ref().unwrap_err().to_string();
            assert_eq!(error, "read Secret \"stuck\": no response within 3 s");
        }
        assert!(reads.0.waiting().is_empty());
    }
}
