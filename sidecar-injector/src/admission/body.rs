//! Reads request bodies within limits: bytes of one body, bytes of all bodies, time.
//!
//! Any pod in the cluster can send requests. The budget bounds the memory of bodies that are being
//! received. Small bodies and large bodies have separate budgets, so that large bodies do not delay
//! ordinary reviews of a few kilobytes.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::BadRequest;

/// Largest body. The API server stores objects of at most 1.5 MiB and a review contains two.
pub(crate) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Time for a body to arrive. The API server stops waiting after 10 seconds by default.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Up to this size a body counts as small. The review of an ordinary pod has 5 to 20 KiB.
const SMALL_BODY_BYTES: usize = 64 * 1024;
/// Requests whose bodies are received at once: 16 MiB of small bodies. An API server runs at most
/// 200 mutating requests at once by default.
const MAX_CONCURRENT_REQUESTS: usize = 256;
/// Bytes of all large bodies that are received at once: two of the largest.
const MAX_LARGE_BODY_BYTES: usize = 2 * MAX_BODY_BYTES;
/// Unit of the budget for large bodies; a permit count is 32 bits.
const UNIT_BYTES: usize = 1024;

/// Memory for bodies of all requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BodyBudget {
    requests: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

/// A body that was received, and its share of the budget until it is dropped.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    pub(crate) bytes: Bytes,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Default for BodyBudget {
    fn default() -> Self {
        Self {
            requests: Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS)),
            large: Arc::new(Semaphore::new(MAX_LARGE_BODY_BYTES / UNIT_BYTES)),
        }
    }
}

impl BodyBudget {
    /// Receives a body. Waits for the budget if other requests use it.
    ///
    /// # Errors
    /// [`BadRequest::TooLarge`]; [`BadRequest::TooSlow`] if the body or the budget is not available
    /// in time; [`BadRequest::EmptyBody`].
    pub(crate) async fn receive(
        &self,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<ReceivedBody, BadRequest> {
        tokio::time::timeout(BODY_TIMEOUT, self.read(headers, body))
            .await
            .map_err(|_| BadRequest::TooSlow)?
    }

    async fn read(&self, headers: &HeaderMap, mut body: Body) -> Result<ReceivedBody, BadRequest> {
        let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let expected = match announced {
            Some(length) if length > MAX_BODY_BYTES => return Err(BadRequest::TooLarge),
            Some(length) => length,
            None => MAX_BODY_BYTES,
        };
        let request = acquire(&self.requests, 1).await?;
        let mut large = None;
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BadRequest::EmptyBody)?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > MAX_BODY_BYTES {
                return Err(BadRequest::TooLarge);
            }
            if bytes.len() + data.len() > SMALL_BODY_BYTES && large.is_none() {
                // All at once: requests that each hold a part would wait for each other.
                large = Some(acquire(&self.large, expected.div_ceil(UNIT_BYTES)).await?);
            }
            bytes.extend_from_slice(&data);
        }
        if bytes.is_empty() {
            return Err(BadRequest::EmptyBody);
        }
        Ok(ReceivedBody { bytes: bytes.into(), _permits: (request, large) })
    }
}

async fn acquire(
    budget: &Arc<Semaphore>,
    units: usize,
) -> Result<OwnedSemaphorePermit, BadRequest> {
    let units = u32::try_from(units).unwrap_or(u32::MAX);
    // The semaphores are never closed.
    Arc::clone(budget).acquire_many_owned(units).await.map_err(|_| BadRequest::TooSlow)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;
    use rstest::rstest;

    use super::*;

    fn announcing(length: usize) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_LENGTH, length.into())])
    }

    #[rstest]
    #[case::largest(MAX_BODY_BYTES, None)]
    #[case::too_large(MAX_BODY_BYTES + 1, Some(BadRequest::TooLarge))]
    #[tokio::test]
    async fn bounds_the_bytes_of_a_body(#[case] length: usize, #[case] want: Option<BadRequest>) {
        for headers in [announcing(length), HeaderMap::new()] {
            let got = BodyBudget::default().receive(&headers, Body::from(vec![0; length])).await;
            assert_eq!(got.err(), want);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_share_a_budget_and_small_bodies_do_not_wait_for_it() {
        let budget = BodyBudget::default();
        let headers = HeaderMap::new();
        let large = || budget.receive(&headers, Body::from(vec![0; SMALL_BODY_BYTES + 1]));
        let held = (large().await.unwrap(), large().await.unwrap());
        assert_eq!(large().await.err(), Some(BadRequest::TooSlow));
        let small = Body::from(vec![0; SMALL_BODY_BYTES]);
        assert!(budget.receive(&HeaderMap::new(), small).await.is_ok());
        drop(held);
        assert!(large().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn bounds_the_number_of_bodies() {
        let budget = BodyBudget::default();
        let headers = HeaderMap::new();
        let small = || budget.receive(&headers, Body::from("{}"));
        let mut held = Vec::new();
        for _ in 0..MAX_CONCURRENT_REQUESTS {
            held.push(small().await.unwrap());
        }
        assert_eq!(small().await.err(), Some(BadRequest::TooSlow));
        held.pop();
        assert!(small().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_in_time_is_rejected() {
        let endless = futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from("{")) })
            .chain(futures::stream::pending());
        let got =
            BodyBudget::default().receive(&HeaderMap::new(), Body::from_stream(endless)).await;
        assert_eq!(got.err(), Some(BadRequest::TooSlow));
    }
}
