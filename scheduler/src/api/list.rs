//! `ListJobs`: one message of any size, written from the store in pieces.
//!
//! The length of a gRPC message comes before it, so the same snapshot is read twice: for the
//! length, then for the bytes. Memory holds one page of records, regardless of the answer's size.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Response, header};
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::encoding::message;
use proto::codec::SmallBuffers;
use proto::scheduler::{ListJobsRequest, NamedJob};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec as _, Streaming};
use tonic::{Code, Status};
use transport::Peer;

use super::{Api, MAX_MESSAGE_BYTES};
use crate::error::Refusal;
use crate::store::{Entry, Scan, Snapshot, StoreError, keys};
use crate::stored::{self, names};

/// Dapr 1.18, `dapr.proto.scheduler.v1.Scheduler`.
pub(super) const METHOD: &str = "/dapr.proto.scheduler.v1.Scheduler/ListJobs";

/// The field `ListJobsResponse.jobs`.
const JOBS: u32 = 1;
/// Bytes before a message: the compression flag and the length.
const HEAD_BYTES: usize = 5;
/// Records in one page of the scan, as Dapr 1.18.
const PAGE: usize = 1_000;
/// Bytes of a piece except its last job.
const PIECE_BYTES: usize = 64 * 1_024;
/// Pieces that are buffered before the peer reads.
const PIECES_AHEAD: usize = 2;
/// Time limit for a peer to take a piece: an open snapshot keeps deleted jobs on disk.
const STALLED: Duration = Duration::from_mins(1);

type Piece = Result<Frame<Bytes>, Infallible>;

impl Api {
    /// Answers a list.
    pub(super) async fn list(&self, request: Request) -> Response<Body> {
        match self.try_list(request).await {
            Ok(body) => {
                let mut response = Response::new(body);
                let grpc = HeaderValue::from_static("application/grpc");
                response.headers_mut().insert(header::CONTENT_TYPE, grpc);
                response
            }
            Err(status) => status.into_http(),
        }
    }

    async fn try_list(&self, request: Request) -> Result<Body, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let decoder = SmallBuffers::<(), ListJobsRequest>::default().decoder();
        let body = request.into_body();
        let mut messages = Streaming::new_request(decoder, body, None, Some(MAX_MESSAGE_BYTES));
        let request = messages.message().await?.unwrap_or_default();
        let metadata = self.check(peer.as_ref(), request.metadata.as_ref(), None)?;
        let prefix = names::list_prefix(&metadata).map_err(Refusal::Name)?;
        let jobs = Jobs {
            snapshot: self.store.snapshot().map_err(Refusal::from)?,
            prefix: keys::job(prefix.as_bytes()),
        };
        let (pieces, body) = mpsc::channel(PIECES_AHEAD);
        let ending = self.ending.clone();
        self.scope.spawn_detached("scheduler-list", async move {
            ending.run_until_cancelled(jobs.write(&pieces)).await;
        });
        Ok(Body::new(StreamBody::new(ReceiverStream::new(body))))
    }
}

/// The jobs of one answer.
struct Jobs {
    snapshot: Arc<dyn Snapshot>,
    prefix: Bytes,
}

/// Why an answer ends early.
enum Stop {
    Gone,
    Failed(Status),
}

impl Jobs {
    /// Sends the answer until it is complete or its reader has disconnected.
    async fn write(&self, pieces: &mpsc::Sender<Piece>) {
        let status = match self.try_write(pieces).await {
            Ok(()) => Status::new(Code::Ok, ""),
            Err(Stop::Failed(status)) => status,
            Err(Stop::Gone) => return,
        };
        let mut trailers = HeaderMap::new();
        // Fails only on a text that is not a header value; gRPC escapes those.
        let _ = status.add_header(&mut trailers);
        let _ = pieces.send(Ok(Frame::trailers(trailers))).await;
    }

    async fn try_write(&self, pieces: &mpsc::Sender<Piece>) -> Result<(), Stop> {
        let mut piece = BytesMut::with_capacity(HEAD_BYTES + PIECE_BYTES);
        piece.put_u8(0);
        piece.put_u32(self.length(pieces).await?);
        let mut after = None;
        loop {
            let page = self.page(after).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            for job in page.iter().filter_map(named) {
                message::encode(JOBS, &job, &mut piece);
                if piece.len() >= PIECE_BYTES {
                    send(pieces, piece.split().freeze()).await?;
                }
            }
        }
        send(pieces, piece.freeze()).await
    }

    /// Bytes of the whole answer.
    async fn length(&self, pieces: &mpsc::Sender<Piece>) -> Result<u32, Stop> {
        let (mut length, mut after) = (0, None);
        loop {
            let page = self.page(after).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.key.clone());
            length += page
                .iter()
                .filter_map(named)
                .map(|j| message::encoded_len(JOBS, &j))
                .sum::<usize>();
            if pieces.is_closed() {
                return Err(Stop::Gone);
            }
        }
        let fits = u32::try_from(length).ok().filter(|_| length <= MAX_MESSAGE_BYTES);
        fits.ok_or_else(|| {
            let text = format!("the list has {length} bytes, more than one message can have");
            Stop::Failed(Status::out_of_range(text))
        })
    }

    /// The page after a key; empty at the end.
    async fn page(&self, after: Option<Bytes>) -> Result<Vec<Entry>, Stop> {
        let scan = Scan { prefix: self.prefix.clone(), after, limit: PAGE };
        let snapshot = self.snapshot.clone();
        let failed = |error: StoreError| Stop::Failed(Refusal::Store(error).into());
        // Fails only when the runtime stops.
        let read = tokio::task::spawn_blocking(move || snapshot.scan(&scan)).await;
        read.map_err(|_| Stop::Gone)?.map_err(failed)
    }
}

/// The job of a record; records that cannot be decoded are left out.
fn named(entry: &Entry) -> Option<NamedJob> {
    let name = keys::job_name(&entry.key)?;
    stored::named_job(std::str::from_utf8(&name).ok()?, &entry.record.value).ok()
}

async fn send(pieces: &mpsc::Sender<Piece>, piece: Bytes) -> Result<(), Stop> {
    match tokio::time::timeout(STALLED, pieces.send(Ok(Frame::data(piece)))).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) | Err(_) => Err(Stop::Gone),
    }
}
