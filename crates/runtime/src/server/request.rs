//! One request: its deadline, the limit of its body, and its count as open until the last byte of
//! its answer is sent.

use std::any::Any;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::time::Instant;
use tower::ServiceExt as _;

use super::activity::{Activity, OpenRequest};
use super::bodies::{Account, Bodies, CHUNK};
use super::limits::Limits;
use super::refusal_limiter::RefusalLimiter;
use super::status::{self, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, is_grpc, refusal};
use crate::metrics::server::{Limit, Meter};

/// [`CHUNK`] for a sum that may be negative.
#[expect(clippy::cast_possible_wrap, reason = "far below the limits of both types")]
const ROOM: i64 = CHUNK as i64;

/// What the requests of a connection share.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) address: IpAddr,
    pub(super) activity: Arc<Activity>,
    /// Open requests of the peer over all its connections.
    pub(super) requests: Arc<AtomicUsize>,
    pub(super) bodies: Bodies,
    pub(super) refusals: Arc<RefusalLimiter>,
    pub(super) limits: Limits,
    /// Requests that the connection may have open.
    pub(super) streams: usize,
    pub(super) meter: Meter,
}

/// Serves one request with the router.
pub(super) async fn serve(
    router: Router,
    mut request: hyper::Request<Incoming>,
    rules: Rules,
) -> Result<Response<Body>, Infallible> {
    let Rules { activity, limits, streams, meter, .. } = &rules;
    let outgoing = Outgoing::default();
    request.extensions_mut().insert(outgoing.clone());
    let latest = Instant::now() + limits.request;
    let path = request.uri().path();
    let (is_streaming, stays_open) = (limits.is_streaming(path), limits.has_streaming_answer(path));
    let open = begin(activity, (!stays_open).then_some(latest), *streams, meter);
    let mut permit = Permit::new(&rules.requests, limits.requests_per_peer);
    let mut response = if permit.is_none() {
        meter.hit(Limit::RequestsPerPeer);
        let text = "this peer has as many requests open as it may";
        let grpc = is_grpc(request.headers());
        refusal(grpc, StatusCode::TOO_MANY_REQUESTS, RESOURCE_EXHAUSTED, text)
    } else if is_streaming {
        router.oneshot(request.map(Body::new)).await?
    } else {
        answer(router, request, &rules, latest).await?
    };
    status::shorten(response.headers_mut());
    if status::is_refusal(response.status(), response.headers())
        && let Some(at) = rules.refusals.reserve(rules.address, Instant::now())
    {
        meter.hit(Limit::Refusals);
        permit = None; // what waits keeps no other request out
        tokio::time::sleep_until(at.min(latest)).await;
    }
    let open = Arc::new(Open { _request: open, _permit: permit });
    Ok(response.map(|body| Body::new(Tracked { body, open, outgoing })))
}

/// One of the open requests of a peer; dropping it ends it.
struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// None beyond the limit.
    fn new(open: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let before = open.fetch_add(1, Ordering::Relaxed);
        let permit = Self(open.clone());
        (before < limit).then_some(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request until the peer has taken its answer.
struct Open {
    _request: OpenRequest,
    _permit: Option<Permit>,
}

/// The answer to a request whose body is no stream; it begins at that deadline at the latest.
async fn answer(
    router: Router,
    request: hyper::Request<Incoming>,
    rules: &Rules,
    deadline: Instant,
) -> Result<Response<Body>, Infallible> {
    let Rules { address, bodies, limits, meter, .. } = rules;
    let grpc = is_grpc(request.headers());
    if request.body().size_hint().lower() > limits.body_bytes as u64 {
        meter.hit(Limit::BodyBytes);
        let text = "the request is larger than this server accepts";
        return Ok(refusal(grpc, StatusCode::PAYLOAD_TOO_LARGE, RESOURCE_EXHAUSTED, text));
    }
    let account = (!request.body().is_end_stream()).then(|| bodies.open(*address));
    let evicted = account.as_ref().map(Account::evicted).unwrap_or_default();
    let counter = meter.clone();
    let request = request.map(|body| {
        let body = Unfinished { body, account, room: 0, waited: false, meter: counter.clone() };
        let body = Limited::new(body, limits.body_bytes);
        Body::new(body.map_err(move |error| {
            if error.is::<LengthLimitError>() {
                counter.hit(Limit::BodyBytes);
            }
            error
        }))
    });
    let answered = tokio::time::timeout_at(deadline, router.oneshot(request));
    match evicted.run_until_cancelled(answered).await {
        Some(Ok(response)) => response,
        Some(Err(_)) => {
            meter.hit(Limit::Request);
            let text = "the request was not complete, or not answered, in time";
            Ok(refusal(grpc, StatusCode::REQUEST_TIMEOUT, DEADLINE_EXCEEDED, text))
        }
        None => {
            meter.hit(Limit::UnfinishedBytes);
            let text = "the server has no room for this request at the moment";
            Ok(refusal(grpc, StatusCode::SERVICE_UNAVAILABLE, RESOURCE_EXHAUSTED, text))
        }
    }
}

/// A body that takes room for its bytes until it ends.
struct Unfinished {
    body: Incoming,
    /// None once the body has ended.
    account: Option<Account>,
    /// Bytes that may be read, less those that were read; the last frame may exceed it.
    room: i64,
    waited: bool,
    meter: Meter,
}

impl hyper::body::Body for Unfinished {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        while let Some(account) = self.account.as_ref().filter(|_| self.room <= 0) {
            if account.poll_room(cx).is_ready() {
                self.room += ROOM;
                continue;
            }
            if !std::mem::replace(&mut self.waited, true) {
                self.meter.hit(Limit::UnfinishedBytes);
            }
            return Poll::Pending;
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            self.room -= i64::try_from(bytes).unwrap_or(i64::MAX);
        }
        if !matches!(frame, Some(Ok(_))) || self.body.is_end_stream() {
            self.account = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Opens a request. The client of the last possible one opens another connection, or waits.
fn begin(
    activity: &Arc<Activity>,
    deadline: Option<Instant>,
    streams: usize,
    meter: &Meter,
) -> OpenRequest {
    let open = activity.begin(deadline);
    if activity.open() == streams {
        meter.hit(Limit::Streams);
    }
    open
}

/// An extension of every request: memory that its answer occupies until the peer has taken the
/// bytes. Cheap to clone.
///
/// HTTP/2 keeps the bytes of an answer for which the peer has no open window, also after the body
/// of the answer has ended.
#[derive(Clone, Default)]
pub struct Outgoing(Arc<Mutex<Kept>>);

type Kept = Vec<Box<dyn Any + Send + Sync>>;

impl Outgoing {
    /// Keeps `value` until the peer has taken the next frame of the answer's body, or the connection
    /// ends. A message that the handler returns or yields right after is in that frame.
    pub fn keep(&self, value: impl Any + Send + Sync) {
        self.lock().push(Box::new(value));
    }

    fn take(&self) -> Kept {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing").finish_non_exhaustive()
    }
}

/// A frame of an answer. The request is open until the peer has taken it.
struct Chunk {
    bytes: Bytes,
    _open: Arc<Open>,
    _kept: Kept,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer. The request is open until it and its frames are dropped.
struct Tracked {
    body: Body,
    open: Arc<Open>,
    outgoing: Outgoing,
}

impl hyper::body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let wrap = |bytes| {
            let (open, kept) = (self.open.clone(), self.outgoing.take());
            Bytes::from_owner(Chunk { bytes, _open: open, _kept: kept })
        };
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame?.map_data(wrap);
            if let Some(trailers) = frame.trailers_mut() {
                status::shorten(trailers);
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
