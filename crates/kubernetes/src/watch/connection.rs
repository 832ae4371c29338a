//! The client of one watch. It detects what `kube::runtime::watcher` does not report: watches that
//! end at once or in the middle of an answer, and API servers that do not stream lists or may have
//! lost a part of their history.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
use runtime::chain;
use serde_json::Value;

/// In the query of every watch.
const WATCH: &str = "watch=true";
/// In the query of a watch that starts with the list (Kubernetes, streaming lists).
const STREAMED: &str = "sendInitialEvents=true";
/// A shorter watch did not do its work: a new list replaces it, after a pause.
const SHORT_WATCH: Duration = Duration::from_secs(1);
/// Time from the start of a short watch to that list.
const SHORT_WATCH_PAUSE: Duration = Duration::from_secs(2);
/// Longest answer to [`Check::request`]: one object of metadata in a list. Kubernetes limits the
/// annotations of an object to 256 KiB, and managed fields are of the same order.
const MAX_CHECK_BYTES: usize = 2 * 1024 * 1024;
/// Time limit of that answer.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// The answer to a request of a watch.
type Answer = Response<UnsyncBoxBody<Bytes, Broken>>;

/// The connection broke in the middle of an answer. It has no source, because `kube` takes a source
/// that is an early end for the regular end of a watch.
#[derive(Debug, thiserror::Error)]
#[error("the connection to the API server broke in the middle of an answer")]
struct Broken;

/// The monotonic clock, which follows tokio's in tests.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The outcome of the previous watch request after the list.
#[derive(Clone, Copy, Debug, Default)]
enum Previous {
    /// There was none.
    #[default]
    None,
    /// It was rejected or not answered.
    Failed,
    /// A watch started then, and has ended.
    Started(Instant),
}

/// `client`, for one watch. A watch request whose predecessor ended within [`SHORT_WATCH`], and a
/// resumed one whose resource version the API server does not confirm, are answered with
/// `410 Gone`, which makes `kube::runtime::watcher` list again. `streaming` is cleared when the API
/// server rejects a streamed list.
pub(super) fn watching(client: &Client, streaming: Arc<AtomicBool>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let (client, previous) = (client.clone(), Arc::new(Mutex::new(Previous::default())));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, previous, streaming) = (client.clone(), previous.clone(), streaming.clone());
        async move {
            let query = request.uri().query().unwrap_or_default();
            if !query.contains(WATCH) {
                return client.send(request).await.map(complete);
            }
            let streamed = query.contains(STREAMED);
            let set = |new| {
                std::mem::replace(
                    &mut *previous.lock().unwrap_or_else(PoisonError::into_inner),
                    new,
                )
            };
            let former = set(Previous::Failed);
            let pause = pause_before_watch(former, now());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
                return gone("the previous watch ended at once");
            }
            let is_resumed = !streamed && !matches!(former, Previous::None);
            if is_resumed && !Check::of(&request).passes(&client).await? {
                return gone("the API server does not confirm the resource version");
            }
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                set(Previous::Started(now()));
            } else if streamed && answer.status() == StatusCode::UNPROCESSABLE_ENTITY {
                streaming.store(false, Ordering::Relaxed);
            }
            Ok(complete(answer))
        }
    });
    Client::new(service, namespace)
}

/// `answer`, whose body ends with an error unless it is complete.
fn complete(answer: Response<Body>) -> Answer {
    let broken = |cause| {
        tracing::debug!("read an answer of the API server: {}", chain(&cause));
        Broken
    };
    answer.map(|body| body.map_err(broken).boxed_unsync())
}

/// The pause before what replaces the previous watch; zero after a watch of normal length.
/// `kube::runtime::watcher` opens the next watch without a pause, which would be a request storm
/// against an API server that ends watches at once.
fn pause_before_watch(previous: Previous, now: Instant) -> Duration {
    let Previous::Started(start) = previous else { return Duration::ZERO };
    let age = now.saturating_duration_since(start);
    if age < SHORT_WATCH { SHORT_WATCH_PAUSE.saturating_sub(age) } else { Duration::ZERO }
}

/// Whether the API server has reached the resource version that a watch resumes from. One that was
/// restored from a backup may not have: it would then send nothing until it has.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    path: String,
    resource_version: Option<u64>,
}

impl Check {
    fn of(request: &Request<Body>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let version = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let selector = query.split('&').find(|pair| pair.starts_with("fieldSelector="));
        let mut path = format!("{}?limit=1", request.uri().path());
        if let Some(selector) = selector {
            path = format!("{path}&{selector}");
        }
        Self { path, resource_version: version.and_then(|version| version.parse().ok()) }
    }

    /// A request without a resource version is answered from the storage itself, so a replica of
    /// the API server that lags behind does not answer with an older version.
    fn request(&self) -> http::Result<Request<Body>> {
        const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        Request::get(&self.path).header(http::header::ACCEPT, METADATA).body(Body::empty())
    }

    /// Whether the history of the API server is known to contain the resource version. An API server
    /// that has just started may reject the request, and accept a watch that then stays silent.
    ///
    /// # Errors
    /// There was no answer.
    async fn passes(&self, client: &Client) -> kube::Result<bool> {
        let (Some(resumed), Ok(request)) = (self.resource_version, self.request()) else {
            return Ok(false);
        };
        let current = tokio::time::timeout(CHECK_LIMIT, version_of_list(client, request)).await;
        let current = current.unwrap_or(Ok(None))?;
        Ok(current.is_some_and(|current| current >= resumed))
    }
}

/// The resource version of the requested list; `None` if the request is rejected, or the version
/// cannot be read or compared.
async fn version_of_list(client: &Client, request: Request<Body>) -> kube::Result<Option<u64>> {
    let answer = client.send(request).await?;
    if !answer.status().is_success() {
        return Ok(None);
    }
    let body = http_body_util::Limited::new(answer.into_body(), MAX_CHECK_BYTES);
    let Ok(body) = body.collect().await else { return Ok(None) };
    let list: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let version = list.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    Ok(version.and_then(|version| version.parse().ok()))
}

/// The answer to a watch from a resource version that the API server does not have.
fn gone(message: &str) -> kube::Result<Answer> {
    let status = Status::failure(message, "Expired").with_code(410);
    let body = serde_json::to_vec(&status).map_err(kube::Error::SerdeError)?;
    let answer = Response::builder().status(StatusCode::GONE);
    answer.body(body.into()).map(complete).map_err(kube::Error::HttpError)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::after_a_long_watch(60_000, 0)]
    #[case::after_one_of_the_limit(1000, 0)]
    #[case::after_a_short_watch(999, 1001)]
    #[case::after_none_at_all(0, 2000)]
    fn a_new_list_after_a_short_watch_waits(#[case] age: u64, #[case] want: u64) {
        let start = now();
        let later = start + Duration::from_millis(age);
        let pause = pause_before_watch(Previous::Started(start), later);
        assert_eq!(pause, Duration::from_millis(want));
    }

    #[rstest]
    #[case::first(Previous::None)]
    #[case::after_a_rejected_watch(Previous::Failed)]
    fn a_watch_without_a_predecessor_does_not_wait(#[case] previous: Previous) {
        assert_eq!(pause_before_watch(previous, now()), Duration::ZERO);
    }

    #[rstest]
    #[case::all(
        "/apis/g/v1/things?&watch=true&resourceVersion=12",
        "/apis/g/v1/things?limit=1",
        Some(12)
    )]
    #[case::one(
        "/api/v1/pods?fieldSelector=metadata.name%3Da&watch=true&resourceVersion=7",
        "/api/v1/pods?limit=1&fieldSelector=metadata.name%3Da",
        Some(7)
    )]
    #[case::opaque("/api/v1/pods?watch=true&resourceVersion=abc", "/api/v1/pods?limit=1", None)]
    fn the_check_asks_for_the_version_of_the_watched_list(
        #[case] watch: &str,
        #[case] path: &str,
        #[case] resource_version: Option<u64>,
    ) {
        let request = Request::get(watch).body(Body::empty()).unwrap();
        assert_eq!(Check::of(&request), Check { path: path.to_owned(), resource_version });
    }
    #[rstest]
    #[case::at_the_limit(0, Some(7))]
    #[case::above_it(1, None)]
    #[tokio::test]
    async fn the_answer_to_a_check_may_be_as_large_as_the_limit(
        #[case] above: usize,
        #[case] want: Option<u64>,
    ) {
        let list = |filling: usize| {
            let filling = "x".repeat(filling);
            format!(r#"{{"metadata":{{"resourceVersion":"7","continue":"{filling}"}}}}"#)
        };
        let body = list(MAX_CHECK_BYTES - list(0).len() + above);
        let service = tower::service_fn(move |_: Request<Body>| {
            let answer = Response::new(Body::from(body.clone().into_bytes()));
            std::future::ready(Ok::<_, kube::Error>(answer))
        });
        let request = Request::get("/").body(Body::empty()).unwrap();
        let version = version_of_list(&Client::new(service, "n"), request).await.unwrap();
        assert_eq!(version, want);
    }
}
