//! Asks the API server what the owner of a token may see, with that token.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use crate::model::Snapshot;
use crate::model::access::{MAX_QUESTIONS, Right, Visible};

/// How long an answer of the API server is valid.
const FRESH: Duration = Duration::from_secs(30);
/// Answers that are kept, of all users: those of eight with rights in single namespaces only, or of
/// thousands with rights in all. Reviews of further users are repeated for each page.
const MAX_KEPT: usize = 8 * MAX_QUESTIONS;
/// Concurrent reviews for one page.
const PER_PAGE: usize = 32;
/// Concurrent reviews, each on a separate connection.
const AT_ONCE: usize = 2 * PER_PAGE;
/// Time limit of the reviews for one page. Answers until then are kept, so the next page continues.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const MAX_BYTES: usize = 64 * 1024;
const PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Why the rights of a user are unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReviewError {
    /// The API server does not accept the token.
    #[error("the API server does not accept this token")]
    Unauthorized,
    /// The API server does not answer; contains the reason, for the log.
    #[error("the API server does not say what this user may see: {0}")]
    Unavailable(String),
}

/// A token by its hash: the token itself is not kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct User([u8; 32]);

impl User {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// Whether a user has a right in a namespace, or in all if it is empty.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Question {
    user: User,
    right: Right,
    namespace: String,
}

/// Asks, and keeps answers for 30 seconds. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reviews {
    /// Without credentials of its own.
    client: Client,
    slots: Arc<Semaphore>,
    kept: Arc<Mutex<Kept>>,
}

impl fmt::Debug for Reviews {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reviews")
    }
}

impl Reviews {
    /// `client` has no credentials, so that its own rights never answer, and no connection that
    /// users share: the API server closes the HTTP/2 connection of a request whose token it
    /// refuses.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, slots: Arc::new(Semaphore::new(AT_ONCE)), kept: Arc::default() }
    }

    /// The part of the snapshot that the owner of the token may see. `now` decides which answers
    /// are still valid.
    ///
    /// # Errors
    /// [`ReviewError`]: the token is not accepted, or the API server does not answer.
    pub(crate) async fn restrict(
        &self,
        token: &str,
        all: &Snapshot,
        now: Instant,
    ) -> Result<Snapshot, ReviewError> {
        let late = |_| ReviewError::Unavailable(format!("no answer within {LIMIT:?}"));
        let rights = tokio::time::timeout(LIMIT, self.rights(token, all, now)).await;
        Ok(rights.map_err(late)??.restrict(all))
    }

    async fn rights(
        &self,
        token: &str,
        all: &Snapshot,
        now: Instant,
    ) -> Result<Visible, ReviewError> {
        let asking = Asking::new(self, token, now)?;
        self.lock().forget_old(now);
        let mut visible = Visible::default();
        let mut everywhere = Right::all().map(|right| (right, String::new()));
        // Alone, so that a token that is not accepted costs one review.
        asking.ask(everywhere.by_ref().take(1).collect(), &mut visible).await?;
        asking.ask(everywhere.collect(), &mut visible).await?;
        let single = visible.open_questions(all);
        asking.ask(single, &mut visible).await?;
        Ok(visible)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reviews for one page.
struct Asking<'a> {
    reviews: &'a Reviews,
    user: User,
    authorization: HeaderValue,
    now: Instant,
}

impl<'a> Asking<'a> {
    fn new(reviews: &'a Reviews, token: &str, now: Instant) -> Result<Self, ReviewError> {
        let authorization = HeaderValue::try_from(format!("Bearer {token}"));
        let mut authorization = authorization.map_err(|_| ReviewError::Unauthorized)?;
        authorization.set_sensitive(true);
        Ok(Self { reviews, user: User::of(token), authorization, now })
    }

    /// Grants the rights of the answers. After a failure no more questions are sent.
    async fn ask(
        &self,
        questions: Vec<(Right, String)>,
        visible: &mut Visible,
    ) -> Result<(), ReviewError> {
        let mut open = Vec::new();
        for (right, namespace) in questions {
            let question = Question { user: self.user, right, namespace };
            let kept = self.reviews.lock().get(&question, self.now);
            match kept {
                Some(true) => visible.grant(right, question.namespace),
                Some(false) => {}
                None => open.push(question),
            }
        }
        for batch in open.chunks(PER_PAGE) {
            // Each answer is kept at once: the rest of the batch may be late or fail.
            let answers = join_all(batch.iter().map(async |question| {
                let may = self.review(question).await?;
                self.reviews.lock().put(question.clone(), may, self.now);
                Ok(may)
            }));
            for (question, may) in batch.iter().zip(complete(answers.await)?) {
                if may {
                    visible.grant(question.right, question.namespace.clone());
                }
            }
        }
        Ok(())
    }

    async fn review(&self, question: &Question) -> Result<bool, ReviewError> {
        let _slot = self.reviews.slots.acquire().await; // never closed
        let (status, body) = self.send(question).await.map_err(ReviewError::Unavailable)?;
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ReviewError::Unauthorized),
            status if status.is_success() => {
                let answer: Value = serde_json::from_slice(&body)
                    .map_err(|error| ReviewError::Unavailable(error.to_string()))?;
                Ok(answer.pointer("/status/allowed") == Some(&Value::Bool(true)))
            }
            status => Err(ReviewError::Unavailable(format!("it answers {status}"))),
        }
    }

    async fn send(&self, question: &Question) -> Result<(StatusCode, Bytes), String> {
        let client = &self.reviews.client;
        let answer = match client.send(self.request(question)?).await {
            // A review changes nothing, and an idle connection may close as it is used again.
            Err(_) => client.send(self.request(question)?).await,
            answer => answer,
        };
        let answer = answer.map_err(|error| kubernetes::api_text(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }

    fn request(&self, question: &Question) -> Result<Request<Body>, String> {
        let review = json!({"apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": question.right.attributes(&question.namespace)}});
        Request::post(PATH)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, self.authorization.clone())
            .body(Body::from(review.to_string().into_bytes()))
            .map_err(|error| error.to_string())
    }
}

/// All answers, or the reason for a missing one: a refused token explains every other failure.
fn complete(answers: Vec<Result<bool, ReviewError>>) -> Result<Vec<bool>, ReviewError> {
    if answers.contains(&Err(ReviewError::Unauthorized)) {
        return Err(ReviewError::Unauthorized);
    }
    answers.into_iter().collect()
}

/// Answers of the last 30 seconds.
#[derive(Default)]
struct Kept(BTreeMap<Question, (Instant, bool)>);

impl Kept {
    fn get(&self, question: &Question, now: Instant) -> Option<bool> {
        let (at, may) = self.0.get(question)?;
        (now.saturating_duration_since(*at) < FRESH).then_some(*may)
    }

    fn forget_old(&mut self, now: Instant) {
        self.0.retain(|_, (at, _)| now.saturating_duration_since(*at) < FRESH);
    }

    /// Keeps an answer if there is room.
    fn put(&mut self, question: Question, may: bool, now: Instant) {
        if self.0.len() < MAX_KEPT {
            self.0.insert(question, (now, may));
        }
    }
}

#[cfg(test)]
mod tests;
