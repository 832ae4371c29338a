//! The client of one watch. It detects what `kube::runtime::watcher` does not report: watches that
//! end at once, and API servers that do not stream lists or have lost a part of their history.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use kube::core::Status;
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
/// Time limit of that answer. The watch is opened without it, or fails for the same reason.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// The monotonic clock, which follows tokio's in tests.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// `client`, for one watch. A watch request whose predecessor ended within [`SHORT_WATCH`], or
/// whose resource version the API server has not reached yet, is answered with `410 Gone`, which
/// makes `kube::runtime::watcher` list again. `streaming` is cleared when the API server rejects a
/// streamed list.
pub(super) fn watching(client: &Client, streaming: Arc<AtomicBool>) -> Client {
    let namespace = client.default_namespace().to_owned();
    let (client, started) = (client.clone(), Arc::new(Mutex::new(None::<Instant>)));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, started, streaming) = (client.clone(), started.clone(), streaming.clone());
        async move {
            let query = request.uri().query().unwrap_or_default();
            if !query.contains(WATCH) {
                return client.send(request).await;
            }
            let streamed = query.contains(STREAMED);
            let lock = || started.lock().unwrap_or_else(PoisonError::into_inner);
            let former = lock().take();
            let pause = pause_before_watch(former, now());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
                return gone("the previous watch ended at once");
            }
            if former.is_some() && Check::of(&request).fails(&client).await {
                return gone("the API server has another history");
            }
            let answer = client.send(request).await?;
            if answer.status().is_success() {
                *lock() = Some(now());
            } else if streamed && answer.status() == StatusCode::UNPROCESSABLE_ENTITY {
                streaming.store(false, Ordering::Relaxed);
            }
            Ok(answer)
        }
    });
    Client::new(service, namespace)
}

/// The pause before what replaces a watch that started at `former` and has ended; zero after a
/// watch of normal length. `kube::runtime::watcher` opens the next watch without a pause, which
/// would be a request storm against an API server that ends watches at once.
fn pause_before_watch(former: Option<Instant>, now: Instant) -> Duration {
    match former.map(|former| now.saturating_duration_since(former)) {
        Some(age) if age < SHORT_WATCH => SHORT_WATCH_PAUSE.saturating_sub(age),
        _ => Duration::ZERO,
    }
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

    /// Whether the history of the API server ends before the resource version. An answer that
    /// does not say so is no reason to list again.
    async fn fails(&self, client: &Client) -> bool {
        let (Some(resumed), Ok(request)) = (self.resource_version, self.request()) else {
            return false;
        };
        let current = async {
            let answer = client.send(request).await.ok()?;
            if !answer.status().is_success() {
                return None;
            }
            let body = http_body_util::Limited::new(answer.into_body(), MAX_CHECK_BYTES);
            let bytes = body.collect().await.ok()?.to_bytes();
            let list: Value = serde_json::from_slice(&bytes).ok()?;
            list.pointer("/metadata/resourceVersion")?.as_str()?.parse::<u64>().ok()
        };
        let current = tokio::time::timeout(CHECK_LIMIT, current).await.ok().flatten();
        current.is_some_and(|current| current < resumed)
    }
}

/// The answer to a watch from a resource version that the API server does not have.
fn gone(message: &str) -> kube::Result<Response<Body>> {
    let status = Status::failure(message, "Expired").with_code(410);
    let body = serde_json::to_vec(&status).map_err(kube::Error::SerdeError)?;
    let answer = Response::builder().status(StatusCode::GONE);
    answer.body(body.into()).map_err(kube::Error::HttpError)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::first(None, 0)]
    #[case::after_a_long_watch(Some(60_000), 0)]
    #[case::after_one_of_the_limit(Some(1000), 0)]
    #[case::after_a_short_watch(Some(999), 1001)]
    #[case::after_none_at_all(Some(0), 2000)]
    fn a_new_list_after_a_short_watch_waits(#[case] age: Option<u64>, #[case] want: u64) {
        let start = now();
        let later = start + Duration::from_millis(age.unwrap_or_default());
        let pause = pause_before_watch(age.map(|_| start), later);
        assert_eq!(pause, Duration::from_millis(want));
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
}
