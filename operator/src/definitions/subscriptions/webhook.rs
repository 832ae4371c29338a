//! The conversion webhook: `POST /convert`.
//!
//! The API server does not authenticate to a conversion webhook, so any pod can send a review. Memory
//! is therefore bounded: the bytes of all bodies together, the time to send one, and the number of
//! concurrent conversions.
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use futures::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::definitions::subscriptions::{conversion, crd_patch};

/// Largest review: the API server sends all objects of a list in one.
pub(crate) const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of all bodies that are received or converted at a time.
const MAX_BYTES_IN_PROGRESS: usize = 2 * MAX_BODY_BYTES;
/// Concurrent conversions: each may hold a response of the size of its review.
const MAX_CONVERSIONS: usize = 2;
/// Time to receive a body, including the wait for [`MAX_BYTES_IN_PROGRESS`]. The API server waits 30 s
/// for the response.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

struct Limits {
    bytes: Arc<Semaphore>,
    conversions: Semaphore,
}

impl Limits {
    fn new(bytes: usize) -> Self {
        let bytes = Arc::new(Semaphore::new(bytes));
        Self { bytes, conversions: Semaphore::new(MAX_CONVERSIONS) }
    }
}

/// The routes of the webhook; every other path is 404.
pub(crate) fn router() -> Router {
    routes(Limits::new(MAX_BYTES_IN_PROGRESS))
}

fn routes(limits: Limits) -> Router {
    // The body is limited by `receive`.
    let convert = post(convert).layer(DefaultBodyLimit::disable());
    Router::new().route(crd_patch::PATH, convert).with_state(Arc::new(limits))
}

async fn convert(State(limits): State<Arc<Limits>>, request: Request) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|text| text.to_str().ok());
    let length = length.and_then(|text| text.parse().ok()).unwrap_or(0);
    let received = timeout(BODY_DEADLINE, receive(request.into_body(), length, &limits.bytes));
    let (body, bytes) = match received.await {
        Ok(Ok(received)) => received,
        Ok(Err(status)) => return status.into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    // The semaphore is never closed.
    let _turn = limits.conversions.acquire().await;
    let converted = tokio::task::spawn_blocking(move || conversion::review(&body)).await;
    drop(bytes);
    match converted {
        Ok(Some(response)) => ([(CONTENT_TYPE, "application/json")], response).into_response(),
        Ok(None) => StatusCode::BAD_REQUEST.into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Receives a body. Its bytes are reserved as they arrive, so that a client cannot reserve memory by
/// announcing a length.
async fn receive(
    body: Body,
    length: usize,
    budget: &Arc<Semaphore>,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), StatusCode> {
    if length > MAX_BODY_BYTES {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut chunks = body.into_data_stream();
    // Untouched capacity takes no memory.
    let mut received = Vec::with_capacity(length);
    let mut reserved: Option<OwnedSemaphorePermit> = None;
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| StatusCode::BAD_REQUEST)?;
        if received.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let bytes = u32::try_from(chunk.len()).map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
        let more = budget.clone().acquire_many_owned(bytes).await;
        let more = more.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        match reserved.as_mut() {
            Some(reserved) => reserved.merge(more),
            None => reserved = Some(more),
        }
        received.extend_from_slice(&chunk);
    }
    Ok((received, reserved))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Bytes;
    use futures::stream;
    use tower::ServiceExt as _;

    use super::*;

    const REVIEW: &str = r#"{"request":{"uid":"1"}}"#;

    async fn status(router: Router, body: Body) -> StatusCode {
        let request = Request::post(crd_patch::PATH).body(body).unwrap();
        router.oneshot(request).await.unwrap().status()
    }

    /// A review of this size.
    fn padded(size: usize) -> Body {
        Body::from(format!("{REVIEW}{}", " ".repeat(size - REVIEW.len())))
    }

    /// A body that sends `first` and then nothing.
    fn stalled(first: &'static str) -> Body {
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(first.as_bytes()))]);
        Body::from_stream(first.chain(stream::pending()))
    }

    #[tokio::test]
    async fn size_of_a_body_is_limited() {
        assert_eq!(status(router(), padded(MAX_BODY_BYTES)).await, StatusCode::OK);
        let too_large = status(router(), padded(MAX_BODY_BYTES + 1)).await;
        assert_eq!(too_large, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn time_to_receive_a_body_is_limited() {
        let begin = tokio::time::Instant::now();
        assert_eq!(status(router(), stalled("{")).await, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(begin.elapsed(), BODY_DEADLINE);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_of_all_bodies_are_limited_and_released() {
        let router = routes(Limits::new(REVIEW.len()));
        assert_eq!(status(router.clone(), Body::from(REVIEW)).await, StatusCode::OK);
        // One byte more than is left while another body is received.
        let other = status(router.clone(), stalled("{"));
        let waiting = status(router.clone(), Body::from(REVIEW));
        let (other, waiting) = tokio::join!(other, waiting);
        assert_eq!(other, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(waiting, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(status(router, Body::from(REVIEW)).await, StatusCode::OK, "released");
    }

    #[tokio::test]
    async fn body_without_request_is_a_bad_request() {
        for body in ["", "{}", "[]", "5", r#"{"request":5}"#] {
            assert_eq!(status(router(), Body::from(body)).await, StatusCode::BAD_REQUEST);
        }
        let request = Request::get(crd_patch::PATH).body(Body::empty()).unwrap();
        let status = router().oneshot(request).await.unwrap().status();
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    }
}
