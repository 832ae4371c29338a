//! Reads logs of containers from the API server: with the token of the user, or with the
//! credentials of the dashboard where all users see the same.

use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::api::LogParams;
use kube::client::Body;
use kube::core::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::model::log::{Following, Log};

/// Newest lines that are read.
const MAX_LINES: i64 = 500;
/// Bytes that are read.
const MAX_BYTES: usize = 1024 * 1024;
/// Time limit of one log.
const LIMIT: Duration = Duration::from_secs(10);
/// Logs that are read at the same time; more wait.
const AT_ONCE: usize = 8;
/// Pages that follow a log at the same time; further ones do not follow.
const FOLLOWERS: usize = 64;

/// A container of a pod that is known: no request names another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) namespace: String,
    pub(crate) pod: String,
    pub(crate) container: String,
}

/// Why there is no log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LogError {
    #[error(
        "the right to read it is missing: verb get for pods/log in namespace {0}, of the user with --auth=token, else of the dashboard's ServiceAccount (chart value logs)"
    )]
    Forbidden(String),
    #[error("the API server does not have it: {0}")]
    Unavailable(String),
    #[error(
        "its last {MAX_LINES} lines have more than {MAX_BYTES} bytes, or it breaks off: use kubectl logs"
    )]
    Body,
    #[error("{FOLLOWERS} pages follow logs already: load the page again to see new lines")]
    Full,
}

/// Reads logs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Logs {
    client: Client,
    slots: Arc<Semaphore>,
    followers: Arc<Semaphore>,
}

impl std::fmt::Debug for Logs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logs")
    }
}

impl Logs {
    /// With `--auth=token` a client without credentials.
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
        }
    }

    /// The newest lines.
    ///
    /// # Errors
    /// [`LogError`]: the right is missing, or there is no such log.
    pub(crate) async fn read(
        &self,
        place: &Place,
        user: Option<&HeaderValue>,
    ) -> Result<Log, LogError> {
        let tail_lines = Some(MAX_LINES);
        let params = LogParams { tail_lines, timestamps: true, ..LogParams::default() };
        let read = async {
            let _slot = self.slots.acquire().await; // never closed
            let body = self.send(place, user, params).await?.into_body();
            let body = Limited::new(body, MAX_BYTES).collect().await;
            Ok(Log::read(&body.map_err(|_| LogError::Body)?.to_bytes()))
        };
        let late = |_| LogError::Unavailable(format!("no answer within {LIMIT:?}"));
        tokio::time::timeout(LIMIT, read).await.map_err(late)?
    }

    /// An item when there are lines after the time `seen`, at most one in each `interval`; ends with
    /// the container. The last line is read again, which shows whether there are others since, and
    /// makes the API server answer although the container writes nothing.
    ///
    /// # Errors
    /// As [`Logs::read`], and [`LogError::Full`].
    pub(crate) async fn watch(
        &self,
        place: &Place,
        user: Option<&HeaderValue>,
        seen: Option<String>,
        interval: Duration,
    ) -> Result<impl Stream<Item = ()> + use<>, LogError> {
        let permit = self.followers.clone().try_acquire_owned().map_err(|_| LogError::Full)?;
        let tail_lines = Some(1);
        let params =
            LogParams { follow: true, tail_lines, timestamps: true, ..LogParams::default() };
        let body = self.send(place, user, params).await?.into_body();
        let followed = Followed { body, following: Following::after(seen), _permit: permit };
        Ok(stream::unfold(followed, move |followed| new_lines(followed, interval)))
    }

    async fn send(
        &self,
        place: &Place,
        user: Option<&HeaderValue>,
        params: LogParams,
    ) -> Result<Response<Body>, LogError> {
        let unavailable = |error| LogError::Unavailable(kubernetes::api_text(&error));
        let params = LogParams { container: Some(place.container.clone()), ..params };
        let pods = format!("/api/v1/namespaces/{}/pods", place.namespace);
        let request = Request::new(pods).logs(&place.pod, &params);
        let mut request =
            request.map_err(|error| LogError::Unavailable(error.to_string()))?.map(Body::from);
        if let Some(user) = user {
            request.headers_mut().insert(header::AUTHORIZATION, user.clone());
        }
        let answer = self.client.send(request).await.map_err(unavailable)?;
        match answer.status() {
            StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED => {
                Err(LogError::Forbidden(place.namespace.clone()))
            }
            status if status.is_success() => Ok(answer),
            status => Err(LogError::Unavailable(format!("it answers {status}"))),
        }
    }
}

/// A log that a page follows.
struct Followed {
    body: Body,
    following: Following,
    _permit: OwnedSemaphorePermit,
}

impl Followed {
    /// The next frame: whether it has new lines; `None` at the end.
    async fn next(&mut self) -> Option<bool> {
        let frame = self.body.frame().await?.ok()?;
        Some(frame.data_ref().is_some_and(|bytes| self.following.has_new(bytes)))
    }
}

/// Waits for new lines and takes all that come within the interval.
async fn new_lines(mut followed: Followed, interval: Duration) -> Option<((), Followed)> {
    while !followed.next().await? {}
    let more = async { while followed.next().await.is_some() {} };
    let _ = tokio::time::timeout(interval, more).await;
    Some(((), followed))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::StreamExt as _;
    use rstest::rstest;
    use tower::{BoxError, service_fn};

    use super::*;

    fn place() -> Place {
        let [namespace, pod, container] = ["shop", "cart-0", "daprd"].map(str::to_owned);
        Place { namespace, pod, container }
    }

    /// An API server that answers so, and what it was asked.
    fn logs(status: u16, body: impl Into<Bytes>) -> (Logs, Arc<std::sync::Mutex<Vec<String>>>) {
        let (body, asked) = (body.into(), Arc::<std::sync::Mutex<Vec<String>>>::default());
        let seen = asked.clone();
        let service = service_fn(move |request: http::Request<Body>| {
            let token = request.headers().get(header::AUTHORIZATION);
            let token = token.and_then(|value| value.to_str().ok()).unwrap_or("none");
            seen.lock().unwrap().push(format!("{} {token}", request.uri()));
            let answer = Response::builder().status(status).body(Body::from(body.to_vec()));
            std::future::ready(answer.map_err(BoxError::from))
        });
        (Logs::new(Client::new(service, "default")), asked)
    }

    #[tokio::test]
    async fn the_container_is_asked_for_with_the_users_token() {
        let (logs, asked) = logs(200, "level=info msg=a\n");
        let user = HeaderValue::from_static("Bearer t");
        assert_eq!(logs.read(&place(), Some(&user)).await.unwrap().text, "level=info msg=a\n");
        logs.read(&place(), None).await.unwrap();
        let path = "/api/v1/namespaces/shop/pods/cart-0/log?&container=daprd&tailLines=500&timestamps=true";
        assert_eq!(*asked.lock().unwrap(), [format!("{path} Bearer t"), format!("{path} none")]);
    }

    #[rstest]
    #[case(403, "pods/log in namespace shop")]
    #[case(401, "pods/log in namespace shop")]
    #[case(404, "404")]
    #[tokio::test]
    async fn a_refusal_says_what_is_missing(#[case] status: u16, #[case] words: &str) {
        let error = logs(status, "{}").0.read(&place(), None).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }

    #[tokio::test]
    async fn a_log_of_the_limit_is_read_and_one_byte_more_is_not() {
        let of = |bytes: usize| logs(200, vec![b'a'; bytes]).0;
        assert_eq!(of(MAX_BYTES).read(&place(), None).await.unwrap().text.len(), MAX_BYTES + 1);
        let past = of(MAX_BYTES + 1).read(&place(), None).await;
        assert_eq!(past.unwrap_err(), LogError::Body);
    }

    const LAST: &str = "2026-11-29T10:00:00.1Z";

    /// What a page that has this last line hears of a container that wrote `LAST` and ended.
    async fn told(seen: Option<&str>) -> Vec<()> {
        let (logs, asked) = logs(200, format!("{LAST} level=info msg=a\n"));
        let seen = seen.map(str::to_owned);
        let lines = logs.watch(&place(), None, seen, Duration::ZERO).await.unwrap();
        assert!(asked.lock().unwrap().first().unwrap().contains("follow=true&tailLines=1&"));
        lines.collect().await
    }

    #[tokio::test]
    async fn lines_between_the_page_and_its_watch_are_told() {
        assert_eq!(told(Some("2026-11-29T10:00:00.0Z")).await, [()]);
        assert_eq!(told(None).await, [()], "the log was empty");
        assert_eq!(told(Some(LAST)).await, [], "the page has this line");
    }

    #[tokio::test]
    async fn the_number_of_followers_is_limited() {
        let (logs, _) = logs(200, "");
        let watch = async || logs.watch(&place(), None, None, Duration::ZERO).await;
        let mut followers = Vec::new();
        for _ in 0..FOLLOWERS {
            followers.push(watch().await.unwrap());
        }
        assert_eq!(watch().await.err(), Some(LogError::Full));
        drop(followers.pop());
        assert!(watch().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn logs_at_the_same_time_and_their_time_are_limited() {
        let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        let service = service_fn(move |_: http::Request<Body>| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            std::future::pending::<Result<Response<Body>, BoxError>>()
        });
        let logs = Logs::new(Client::new(service, "default"));
        let place = place();
        let start = tokio::time::Instant::now();
        let all = futures::future::join_all((0..=AT_ONCE).map(|_| logs.read(&place, None)));
        tokio::pin!(all);
        let almost = LIMIT.saturating_sub(Duration::from_millis(1));
        assert!(tokio::time::timeout(almost, &mut all).await.is_err(), "within the time limit");
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), AT_ONCE);
        let answers = all.await;
        assert!(answers.iter().all(|a| matches!(a, Err(LogError::Unavailable(_)))), "{answers:?}");
        assert_eq!(start.elapsed(), LIMIT);
    }
}
