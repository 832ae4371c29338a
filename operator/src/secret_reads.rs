//! Reads of Secrets, a few at a time, shared by all who ask before a read begins.
//!
//! When many sidecars start together, each of their lists needs the same Secrets. Those that wait
//! for a turn share one read. Who asks while a read is under way waits for the next: the answer
//! that he gets is never older than his question. Nothing is kept after the last of them.
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
    cache::Key,
    secrets::{FetchError, Fetched, SecretData},
};

/// Limit of one read with its wait for a turn. Sidecars wait 5 s for an answer (Dapr 1.18).
const LIMIT: Duration = Duration::from_secs(3);
/// Reads under way at once: each holds a Secret of up to a megabyte.
const TURNS: usize = 16;

/// What one read comes to.
pub type Outcome = Result<Arc<SecretData>, FetchError>;
type Read = BoxFuture<'static, Outcome>;
type Waiting = BTreeMap<Key, WeakShared<Read>>;

/// The reads of all calls.
#[derive(Clone)]
pub struct SecretReads(Arc<Reads>);

struct Reads {
    read: Box<dyn Fn(Key) -> Read + Send + Sync>,
    turns: Semaphore,
    /// Those that have not begun.
    waiting: Mutex<Waiting>,
}

impl SecretReads {
    /// Reads with `read`.
    pub fn new<F>(read: impl Fn(Key) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let read = Box::new(move |key| read(key).boxed());
        let (turns, waiting) = (Semaphore::new(TURNS), Mutex::default());
        Self(Arc::new(Reads { read, turns, waiting }))
    }

    /// Secrets of a namespace; one that fails leaves the others alone.
    pub async fn all(&self, namespace: &str, names: BTreeSet<String>) -> Fetched {
        let one = |name: String| async {
            let key = Key { namespace: namespace.to_owned(), name: name.clone() };
            let outcome = timeout(LIMIT, self.one(key)).await.unwrap_or_else(|_| {
                let reason = format!("no answer within {} s", LIMIT.as_secs());
                Err(FetchError::Failed { name: name.clone(), reason })
            });
            (name, outcome)
        };
        stream::iter(names).map(one).buffer_unordered(TURNS).collect().await
    }

    /// A read of `key` that has not begun.
    fn one(&self, key: Key) -> Shared<Read> {
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

    async fn in_turn(self, key: Key) -> Outcome {
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

    /// Reads that end when `go` is notified, and how many have begun.
    fn reads() -> (SecretReads, Arc<Notify>, Arc<AtomicUsize>) {
        let (go, begun) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (gate, count) = (go.clone(), begun.clone());
        let reads = SecretReads::new(move |key: Key| {
            let gate = gate.clone();
            let version = count.fetch_add(1, Ordering::Relaxed);
            async move {
                gate.notified().await;
                Ok(Arc::new([(key.name, version.to_be_bytes().to_vec())].into()))
            }
        });
        (reads, go, begun)
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_during_a_read_shares_the_next_with_all_who_wait() {
        let (reads, go, begun) = reads();
        let mut all = JoinSet::new();
        let mut ask = |name: String| {
            let reads = reads.clone();
            all.spawn(async move { reads.all("n", names(&[&name])).await });
        };
        (0..TURNS).for_each(|i| ask(format!("busy-{i}")));
        yield_now().await;
        (0..5).for_each(|_| ask("busy-0".to_owned()));
        yield_now().await;
        assert_eq!(begun.load(Ordering::Relaxed), TURNS, "every turn is taken");
        go.notify_waiters();
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(begun.load(Ordering::Relaxed), TURNS + 1, "five share one read");
        go.notify_waiters();
        for fetched in all.join_all().await {
            assert!(fetched.values().all(Result::is_ok));
        }
        assert!(reads.0.waiting().is_empty(), "nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_without_answer_fails_alone_and_its_turn_is_free_again() {
        let reads = SecretReads::new(|key: Key| async move {
            if key.name == "stuck" {
                std::future::pending::<()>().await;
            }
            Ok(Arc::default())
        });
        for _ in 0..=TURNS {
            let fetched = reads.all("n", names(&["fine", "stuck"])).await;
            assert!(fetched["fine"].is_ok());
            let error = fetched["stuck"].as_ref().unwrap_err().to_string();
            assert_eq!(error, "read Secret \"stuck\": no answer within 3 s");
        }
        assert!(reads.0.waiting().is_empty());
    }
}
