//! Shares token reviews: concurrent and repeated reviews of one token are sent once.
//!
//! That is safe because a review depends on the token alone. The audiences are always the same, and
//! every request is compared with the result on its own. Only successful results are cached, for a
//! few seconds: for a sidecar that repeats a lost request, or whose container restarts. A pod that
//! was deleted in the meantime gets no certificate, because every request reads its pod. The API
//! server's own cache of results is longer.
//!
//! A review is a task of its own and holds its permit until it ends. A cancelled request therefore
//! does not raise the number of open reviews.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use runtime::Scope;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;

use super::pod_identity::{Refusal, TokenOwner};

/// Results are cached for one to two generations.
const GENERATION: Duration = Duration::from_secs(2);
/// An open review older than this is not shared: the requests that wait for it have timed out.
const SHARE_OPEN_FOR: Duration = Duration::from_secs(2);
/// Limit of cached reviews per generation, about 300 bytes each. Above it reviews are not shared.
const MAX_CACHED: usize = 16_384;
/// Limit of open token reviews. The API server limits and queues requests of all its clients.
pub(crate) const MAX_OPEN_REVIEWS: usize = 64;
/// Timeout of one review. Longer than a client waits: its retry finds the result.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) type ReviewResult = Result<Arc<TokenOwner>, ReviewFailure>;

/// An open or completed review that several requests can wait for.
type SharedReview = Shared<BoxFuture<'static, ReviewResult>>;

/// Why a review has no owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReviewFailure {
    /// The token was rejected.
    Refused(Refusal),
    /// The API server failed or did not respond.
    Unavailable(String),
}

/// Recent and open reviews.
pub(crate) struct TokenReviews {
    cache: Mutex<Cache>,
    open: Arc<Semaphore>,
    scope: Scope,
}

#[derive(Default)]
struct Cache {
    current: HashMap<Key, Review>,
    previous: HashMap<Key, Review>,
    rotated: Option<Instant>,
}

/// SHA-256 of the token: tokens are not kept in memory.
type Key = [u8; 32];

#[derive(Clone)]
struct Review {
    started: Instant,
    result: SharedReview,
}

impl Review {
    fn is_shareable(&self, now: Instant) -> bool {
        match self.result.peek() {
            Some(result) => result.is_ok(),
            None => now.duration_since(self.started) < SHARE_OPEN_FOR,
        }
    }
}

impl TokenReviews {
    /// Runs its reviews as tasks of `scope`.
    pub(crate) fn new(scope: Scope) -> Self {
        let open = Arc::new(Semaphore::new(MAX_OPEN_REVIEWS));
        Self { cache: Mutex::default(), open, scope }
    }

    /// The result for `token`: that of a shared review, or of a new one by `send`.
    ///
    /// Cancel safe: a started review continues for other requests.
    pub(crate) async fn review(
        &self,
        token: &str,
        send: impl FnOnce() -> BoxFuture<'static, ReviewResult>,
    ) -> ReviewResult {
        let key: Key = Sha256::digest(token.as_bytes()).into();
        if let Some(result) = self.shared(&key) {
            return result.await;
        }
        let Ok(permit) = self.open.clone().acquire_owned().await else {
            return Err(ReviewFailure::Unavailable("token review: sentry is stopping".to_owned()));
        };
        // Another request may have started it meanwhile.
        let shared = self.shared(&key);
        let result = shared.unwrap_or_else(|| self.start(key, permit, send()));
        result.await
    }

    fn shared(&self, key: &Key) -> Option<SharedReview> {
        let now = Instant::now();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.rotate(now);
        let known = cache.current.get(key).or_else(|| cache.previous.get(key));
        known.filter(|review| review.is_shareable(now)).map(|review| review.result.clone())
    }

    fn start(
        &self,
        key: Key,
        permit: OwnedSemaphorePermit,
        work: BoxFuture<'static, ReviewResult>,
    ) -> SharedReview {
        let (sender, receiver) = oneshot::channel();
        self.scope.spawn_detached("token-review", async move {
            let timed_out = || ReviewFailure::Unavailable("token review: timed out".to_owned());
            let result = tokio::time::timeout(REVIEW_TIMEOUT, work).await;
            drop(permit);
            // No request may be waiting any more.
            let _ = sender.send(result.unwrap_or_else(|_| Err(timed_out())));
        });
        let aborted = || ReviewFailure::Unavailable("token review: aborted".to_owned());
        let result: SharedReview =
            receiver.map(move |sent| sent.unwrap_or_else(|_| Err(aborted()))).boxed().shared();
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.current.len() < MAX_CACHED {
            let review = Review { started: Instant::now(), result: result.clone() };
            cache.current.insert(key, review);
        }
        result
    }
}

impl Cache {
    fn rotate(&mut self, now: Instant) {
        let rotated = *self.rotated.get_or_insert(now);
        let age = now.duration_since(rotated);
        if age >= GENERATION {
            let current = std::mem::take(&mut self.current);
            self.previous = if age >= GENERATION * 2 { HashMap::new() } else { current };
            self.rotated = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn owner(pod: &str) -> Arc<TokenOwner> {
        Arc::new(TokenOwner {
            namespace: "shop".to_owned(),
            service_account: "default".to_owned(),
            pod: pod.to_owned(),
            pod_uid: None,
        })
    }

    fn reviews() -> TokenReviews {
        TokenReviews::new(Scope::for_test())
    }

    /// An API server that counts the reviews it receives, and those that are open.
    #[derive(Default)]
    struct Api {
        received: Arc<AtomicUsize>,
        open: Arc<AtomicUsize>,
    }

    impl Api {
        fn answer(
            &self,
            result: ReviewResult,
        ) -> impl FnOnce() -> BoxFuture<'static, ReviewResult> + use<> {
            let received = self.received.clone();
            move || {
                received.fetch_add(1, Ordering::SeqCst);
                async move { result }.boxed()
            }
        }

        /// A review that is never answered.
        fn hang(&self) -> impl FnOnce() -> BoxFuture<'static, ReviewResult> + use<> {
            let open = OpenReview::new(&self.open);
            move || {
                async move {
                    let _open = open;
                    std::future::pending().await
                }
                .boxed()
            }
        }

        fn received(&self) -> usize {
            self.received.load(Ordering::SeqCst)
        }
    }

    struct OpenReview(Arc<AtomicUsize>);

    impl OpenReview {
        fn new(open: &Arc<AtomicUsize>) -> Self {
            open.fetch_add(1, Ordering::SeqCst);
            Self(open.clone())
        }
    }

    impl Drop for OpenReview {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn caches_successful_results_for_seconds() {
        let (reviews, api) = (reviews(), Api::default());
        let success = || api.answer(Ok(owner("a")));
        assert_eq!(reviews.review("t", success()).await, Ok(owner("a")));
        assert_eq!(reviews.review("t", success()).await, Ok(owner("a")));
        assert_eq!(api.received(), 1);
        assert_eq!(reviews.review("u", api.answer(Ok(owner("b")))).await, Ok(owner("b")));
        assert_eq!(api.received(), 2, "another token is another review");
        tokio::time::advance(GENERATION * 2).await;
        reviews.review("t", success()).await.unwrap();
        assert_eq!(api.received(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_cache_failures() {
        let (reviews, api) = (reviews(), Api::default());
        for failure in [
            ReviewFailure::Refused(Refusal::NotAuthenticated),
            ReviewFailure::Unavailable("down".to_owned()),
        ] {
            let result = reviews.review("t", api.answer(Err(failure.clone()))).await;
            assert_eq!(result, Err(failure));
        }
        assert_eq!(reviews.review("t", api.answer(Ok(owner("a")))).await, Ok(owner("a")));
        assert_eq!(api.received(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_requests_share_a_review_that_outlives_the_first() {
        let (reviews, api) = (reviews(), Api::default());
        let (respond, response) = oneshot::channel::<()>();
        let open = async move {
            let _ = response.await;
            Ok(owner("a"))
        };
        let mut first = Box::pin(reviews.review("t", || open.boxed()));
        assert!(futures::poll!(first.as_mut()).is_pending());
        let second = reviews.review("t", api.answer(Ok(owner("never"))));
        drop(first);
        respond.send(()).unwrap();
        assert_eq!(second.await, Ok(owner("a")));
        assert_eq!(api.received(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_open_review_is_not_shared() {
        let (reviews, api) = (reviews(), Api::default());
        let mut hangs = Box::pin(reviews.review("t", api.hang()));
        assert!(futures::poll!(hangs.as_mut()).is_pending());
        tokio::time::advance(SHARE_OPEN_FOR).await;
        assert_eq!(reviews.review("t", api.answer(Ok(owner("a")))).await, Ok(owner("a")));
        assert_eq!(api.received(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn cancelled_requests_do_not_raise_the_number_of_open_reviews() {
        let (reviews, api) = (reviews(), Api::default());
        for n in 0..MAX_OPEN_REVIEWS * 4 {
            let token = format!("token-{n}");
            let mut request = Box::pin(reviews.review(&token, api.hang()));
            assert!(futures::poll!(request.as_mut()).is_pending());
            drop(request);
            tokio::task::yield_now().await;
        }
        assert_eq!(api.open.load(Ordering::SeqCst), MAX_OPEN_REVIEWS);
        let waiting = reviews.review("one-more", api.answer(Ok(owner("a"))));
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending(), "it waits for a permit");
        tokio::time::advance(REVIEW_TIMEOUT).await;
        assert_eq!(waiting.await, Ok(owner("a")), "reviews time out and release their permits");
    }
}
