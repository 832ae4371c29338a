//! Bounded reads of Secrets, shared by concurrent callers.
//!
//! When many sidecars start together, their lists need the same Secrets. Callers that wait for the
//! same Secret share one read. A caller that arrives while a read is in progress waits for the next
//! one, so a result is never older than its request. Results are not cached.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, Shared, WeakShared};
use futures::{FutureExt as _, StreamExt as _, stream};
use kubernetes::ObjectKey;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::secrets::resolution::{FetchError, Fetched, SecretData};

/// Timeout of one read, including the wait for a permit. A sidecar waits 5 s for a response (Dapr
/// 1.18).
const LIMIT: Duration = Duration::from_secs(3);
/// Concurrent reads; each holds a Secret of up to 1 MiB.
const MAX_READS: usize = 16;
/// Concurrent reads of one namespace, so that lists in one namespace do not delay those in others.
const MAX_READS_PER_NAMESPACE: usize = 4;

/// The result of one read.
pub(crate) type Outcome = Result<Arc<SecretData>, FetchError>;
type Read = BoxFuture<'static, Outcome>;

/// Reads Secrets for all callers.
#[derive(Clone)]
pub(crate) struct SecretReads(Arc<Reads>);

struct Reads {
    read: Box<dyn Fn(ObjectKey) -> Read + Send + Sync>,
    permits: Semaphore,
    pending: Mutex<Pending>,
}

/// Reads that have not completed.
#[derive(Default)]
struct Pending {
    /// Reads that have not started.
    waiting: BTreeMap<ObjectKey, WeakShared<Read>>,
    namespaces: BTreeMap<String, Namespace>,
}

struct Namespace {
    permits: Arc<Semaphore>,
    /// Reads that wait or are in progress.
    reads: usize,
}

impl SecretReads {
    /// `read` reads one Secret from the API server.
    pub(crate) fn new<F>(read: impl Fn(ObjectKey) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let read = Box::new(move |key| read(key).boxed());
        let permits = Semaphore::new(MAX_READS);
        Self(Arc::new(Reads { read, permits, pending: Mutex::default() }))
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
        stream::iter(names).map(one).buffer_unordered(MAX_READS_PER_NAMESPACE).collect().await
    }

    /// The pending read of `key` that has not started.
    fn one(&self, key: ObjectKey) -> Shared<Read> {
        let mut pending = self.0.pending();
        if let Some(read) = pending.waiting.get(&key).and_then(WeakShared::upgrade) {
            return read;
        }
        let namespace = pending.namespaces.entry(key.namespace.clone()).or_insert_with(|| {
            Namespace { permits: Arc::new(Semaphore::new(MAX_READS_PER_NAMESPACE)), reads: 0 }
        });
        namespace.reads += 1;
        let permits = namespace.permits.clone();
        let registration = Registration { reads: self.0.clone(), key: key.clone() };
        let read = registration.read_with_permits(permits).boxed().shared();
        if let Some(weak) = read.downgrade() {
            pending.waiting.insert(key, weak);
        }
        read
    }
}

/// A read in [`Pending`]; removed when the read completes or all its callers are gone.
struct Registration {
    reads: Arc<Reads>,
    key: ObjectKey,
}

impl Registration {
    async fn read_with_permits(self, namespace: Arc<Semaphore>) -> Outcome {
        // The semaphores are never closed. The permit of the namespace comes first: a namespace has
        // at most that many reads in the queue for the others.
        let _of_namespace = namespace.acquire().await;
        let _permit = self.reads.permits.acquire().await;
        self.reads.pending().waiting.remove(&self.key);
        (self.reads.read)(self.key.clone()).await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut pending = self.reads.pending();
        // A later read of the same key, if there is one, is only no longer shared.
        let waiting = pending.waiting.get(&self.key);
        if waiting.is_some_and(|waiting| waiting.upgrade().is_none()) {
            pending.waiting.remove(&self.key);
        }
        if let Some(namespace) = pending.namespaces.get_mut(&self.key.namespace) {
            namespace.reads -= 1;
            if namespace.reads == 0 {
                pending.namespaces.remove(&self.key.namespace);
            }
        }
    }
}

impl Reads {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;
    use tokio::task::{JoinSet, yield_now};

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

    impl SecretReads {
        fn is_idle(&self) -> bool {
            let pending = self.0.pending();
            pending.waiting.is_empty() && pending.namespaces.is_empty()
        }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn callers_during_a_read_share_the_next_one() {
        let (reads, go, started) = reads();
        let mut all = JoinSet::new();
        let mut enqueue = |name: String| {
            let reads = reads.clone();
            all.spawn(async move { reads.all("n", names(&[&name])).await });
        };
        (0..MAX_READS_PER_NAMESPACE).for_each(|i| enqueue(format!("busy-{i}")));
        yield_now().await;
        (0..5).for_each(|_| enqueue("busy-0".to_owned()));
        yield_now().await;
        assert_eq!(
            started.load(Ordering::Relaxed),
            MAX_READS_PER_NAMESPACE,
            "every permit is taken"
        );
        go.notify_waiters();
        for _ in 0..10 {
            yield_now().await;
        }
        assert_eq!(
            started.load(Ordering::Relaxed),
            MAX_READS_PER_NAMESPACE + 1,
            "five callers share one read"
        );
        go.notify_waiters();
        for fetched in all.join_all().await {
            assert!(fetched.values().all(Result::is_ok));
        }
        assert!(reads.is_idle(), "no result is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn read_that_times_out_fails_alone_and_releases_its_permit() {
        let reads = SecretReads::new(|key: ObjectKey| async move {
            if key.name == "stuck" {
                std::future::pending::<()>().await;
            }
            Ok(Arc::default())
        });
        for _ in 0..=MAX_READS {
            let fetched = reads.all("n", names(&["fine", "stuck"])).await;
            assert!(fetched["fine"].is_ok());
            let error = fetched["stuck"].as_ref().unwrap_err().to_string();
            assert_eq!(error, "read Secret \"stuck\": no response within 3 s");
        }
        assert!(reads.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn lists_in_one_namespace_do_not_delay_those_in_another() {
        let in_progress = Arc::new(Mutex::new((BTreeMap::<String, usize>::new(), 0)));
        let observed = in_progress.clone();
        let reads = SecretReads::new(move |key: ObjectKey| {
            let observed = observed.clone();
            async move {
                {
                    let (current, most) = &mut *observed.lock().unwrap();
                    let reads = current.entry(key.namespace.clone()).or_default();
                    *reads += 1;
                    *most = (*most).max(*reads);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
                *observed.lock().unwrap().0.get_mut(&key.namespace).unwrap() -= 1;
                Ok(Arc::default())
            }
        });
        let mut noisy = JoinSet::new();
        for app in 0..100 {
            let reads = reads.clone();
            let names = (0..100).map(|secret| format!("{app}-{secret}")).collect();
            noisy.spawn(async move { reads.all("noisy", names).await });
        }
        yield_now().await;
        let fetched = reads.all("quiet", names(&["a", "b", "c", "d"])).await;
        assert!(fetched.values().all(Result::is_ok), "{fetched:?}");
        let fetched = reads.all("quiet", names(&["a"])).await;
        assert!(fetched["a"].is_ok());
        noisy.shutdown().await;
        assert_eq!(in_progress.lock().unwrap().1, MAX_READS_PER_NAMESPACE);
        assert!(reads.is_idle());
    }
}
