//! Token reviews that are asked for more than once are made once.
//!
//! That is sound because nothing but the token is part of the question: the audiences are always the
//! same, and what the request claims is compared with the answer afterwards, each time anew. Only
//! good answers are used again, and for a few seconds: a sidecar that asks again after a lost answer,
//! or whose container restarts. A pod that was deleted meanwhile gets no certificate, because the
//! pod is looked up for every request. The API server itself keeps its answers longer than we do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::pod_identity::{Refusal, TokenOwner};

/// Answers are forgotten after one to two of these.
const GENERATION: Duration = Duration::from_secs(2);
/// A question that is older is asked anew: whoever waits for its answer waits no more.
const PENDING: Duration = Duration::from_secs(2);
/// Answers kept of one generation; above that each request asks for itself. About 300 bytes each.
const MAX_KEPT: usize = 16_384;

/// What a review says.
pub type Answer = Result<Arc<TokenOwner>, ReviewFailure>;

/// A question that is under way or answered; may be waited for by several.
pub type Asked = Shared<BoxFuture<'static, Answer>>;

/// Why nobody is known by a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReviewFailure {
    /// The API server, or the token itself, says no.
    Refused(Refusal),
    /// The API server did not answer.
    Unavailable(String),
}

/// The reviews of the last moments.
#[derive(Default)]
pub struct TokenReviews {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    young: HashMap<Key, Review>,
    old: HashMap<Key, Review>,
    turned: Option<Instant>,
}

/// The token's SHA-256: no token stays in memory longer than its request.
type Key = [u8; 32];

#[derive(Clone)]
struct Review {
    asked: Instant,
    answer: Asked,
}

impl Review {
    fn is_usable(&self, now: Instant) -> bool {
        match self.answer.peek() {
            Some(answer) => answer.is_ok(),
            None => now.duration_since(self.asked) < PENDING,
        }
    }
}

impl TokenReviews {
    /// The answer for `token`: one that is under way or just came, or that of `ask`.
    ///
    /// Dropping the future is safe; others who wait for the same answer go on with it.
    pub fn review(&self, token: &str, ask: impl FnOnce() -> BoxFuture<'static, Answer>) -> Asked {
        let key: Key = Sha256::digest(token.as_bytes()).into();
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.turn(now);
        let known = kept.young.get(&key).or_else(|| kept.old.get(&key));
        if let Some(review) = known.filter(|review| review.is_usable(now)) {
            return review.answer.clone();
        }
        let answer = ask().shared();
        if kept.young.len() < MAX_KEPT {
            kept.young.insert(key, Review { asked: now, answer: answer.clone() });
        }
        answer
    }
}

impl Kept {
    fn turn(&mut self, now: Instant) {
        let turned = *self.turned.get_or_insert(now);
        let age = now.duration_since(turned);
        if age >= GENERATION {
            let young = std::mem::take(&mut self.young);
            self.old = if age >= GENERATION * 2 { HashMap::new() } else { young };
            self.turned = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::oneshot;

    fn owner(pod: &str) -> Arc<TokenOwner> {
        Arc::new(TokenOwner {
            namespace: "shop".to_owned(),
            service_account: "default".to_owned(),
            pod: pod.to_owned(),
            pod_uid: None,
        })
    }

    #[derive(Default)]
    struct Api {
        asked: Arc<AtomicUsize>,
    }

    impl Api {
        fn answer(&self, answer: Answer) -> impl FnOnce() -> BoxFuture<'static, Answer> + use<> {
            let asked = self.asked.clone();
            move || {
                asked.fetch_add(1, Ordering::Relaxed);
                async move { answer }.boxed()
            }
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn good_answers_are_used_again_for_seconds_and_no_longer() {
        let (reviews, api) = (TokenReviews::default(), Api::default());
        let good = || api.answer(Ok(owner("a")));
        assert_eq!(reviews.review("t", good()).await, Ok(owner("a")));
        assert_eq!(reviews.review("t", good()).await, Ok(owner("a")));
        assert_eq!(api.asked(), 1);
        assert_eq!(reviews.review("u", api.answer(Ok(owner("b")))).await, Ok(owner("b")));
        assert_eq!(api.asked(), 2, "another token is another question");
        tokio::time::advance(GENERATION * 2).await;
        reviews.review("t", good()).await.unwrap();
        assert_eq!(api.asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn bad_answers_are_not() {
        let (reviews, api) = (TokenReviews::default(), Api::default());
        for failure in [
            ReviewFailure::Refused(Refusal::NotAuthenticated),
            ReviewFailure::Unavailable("down".to_owned()),
        ] {
            let answer = reviews.review("t", api.answer(Err(failure.clone()))).await;
            assert_eq!(answer, Err(failure));
        }
        assert_eq!(reviews.review("t", api.answer(Ok(owner("a")))).await, Ok(owner("a")));
        assert_eq!(api.asked(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_at_the_same_time_share_one_question() {
        let reviews = TokenReviews::default();
        let (tell, told) = oneshot::channel::<()>();
        let pending = async move {
            let _ = told.await;
            Ok(owner("a"))
        };
        let first = reviews.review("t", || pending.boxed());
        let api = Api::default();
        let second = reviews.review("t", api.answer(Ok(owner("never"))));
        drop(first);
        tell.send(()).unwrap();
        assert_eq!(second.await, Ok(owner("a")), "the first caller's end is not the answer's");
        assert_eq!(api.asked(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_hangs_is_asked_anew() {
        let (reviews, api) = (TokenReviews::default(), Api::default());
        let _hangs = reviews.review("t", || std::future::pending().boxed());
        tokio::time::advance(PENDING).await;
        assert_eq!(reviews.review("t", api.answer(Ok(owner("a")))).await, Ok(owner("a")));
        assert_eq!(api.asked(), 1);
    }
}
