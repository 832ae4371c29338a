//! The task of one `WatchJobs` stream: results in, deliveries out.

use std::sync::Arc;
use std::time::Duration;

use proto::scheduler::watch_jobs_request::WatchJobRequestType;
use proto::scheduler::{
    WatchJobsRequest, WatchJobsRequestInitial, WatchJobsRequestResultStatus, WatchJobsResponse,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::dispatcher::Dispatcher;
use super::mailbox::{Delivery, Mailbox};
use crate::engine::event::{AckResult, Event, StreamId, Undeliverable};
use crate::error::Refusal;
use crate::metrics::{Metrics, SidecarError};
use crate::store::{Store, keys};
use crate::stored;

/// How long a peer may take to read the end of its stream.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Deliveries after which the engine is told that the transport took them, while more wait.
const TAKEN_STEP: u64 = 64;

/// Where a stream's messages go: one place, so that a record is read when the transport has room
/// for it.
pub(crate) type Outbound = mpsc::Sender<Result<WatchJobsResponse, Status>>;

/// Reads the first message.
///
/// # Errors
/// It is not the one that registers the sidecar, or the stream failed.
pub(crate) async fn first_message(
    inbound: &mut Streaming<WatchJobsRequest>,
) -> Result<WatchJobsRequestInitial, Status> {
    let message = inbound.message().await?.and_then(|message| message.watch_job_request_type);
    match message {
        Some(WatchJobRequestType::Initial(initial)) => Ok(initial),
        Some(WatchJobRequestType::Result(_)) | None => Err(Refusal::NoInitial.into()),
    }
}

/// An open stream.
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) metrics: Metrics,
    pub(crate) ending: CancellationToken,
}

impl Stream {
    /// Serves the stream until either side ends it; the engine learns of the end exactly once.
    pub(crate) async fn run(self, mut inbound: Streaming<WatchJobsRequest>, outbound: Outbound) {
        let end = tokio::select! {
            end = self.read(&mut inbound) => end,
            end = self.write(&outbound) => end,
            () = self.ending.cancelled() => Err(Refusal::Closing.into()),
        };
        self.dispatcher.send(Event::StreamClosed { stream: self.id }).await;
        if let Err(status) = end {
            end_with(&outbound, status).await;
        }
    }

    /// Passes results on; `Ok` when the sidecar ends the stream.
    async fn read(&self, inbound: &mut Streaming<WatchJobsRequest>) -> Result<(), Status> {
        let failed = |refusal: Refusal| {
            self.metrics.sidecar_error(SidecarError::Receive);
            Err(Status::from(refusal))
        };
        loop {
            let message = match inbound.message().await {
                Ok(Some(message)) => message.watch_job_request_type,
                Ok(None) => return Ok(()),
                Err(status) => {
                    self.metrics.sidecar_error(SidecarError::Receive);
                    return Err(status);
                }
            };
            let Some(WatchJobRequestType::Result(result)) = message else {
                return failed(Refusal::NoResult);
            };
            let status = WatchJobsRequestResultStatus::try_from(result.status);
            let outcome = match status {
                Ok(WatchJobsRequestResultStatus::Success) => AckResult::Success,
                Ok(WatchJobsRequestResultStatus::Failed) => AckResult::Failed,
                Err(_) => return failed(Refusal::UnknownStatus(result.status)),
            };
            let ack = Event::Ack { stream: self.id, id: result.id, result: outcome };
            self.dispatcher.send(ack).await;
        }
    }

    /// Sends deliveries as the transport takes them; `Ok` when the sidecar is gone.
    async fn write(&self, outbound: &Outbound) -> Result<(), Status> {
        let mut reported = 0;
        loop {
            let Ok(room) = outbound.reserve().await else { return Ok(()) };
            let delivery = tokio::select! {
                delivery = self.mailbox.next() => delivery,
                () = outbound.closed() => return Ok(()),
            };
            let id = delivery.id;
            match self.load(&delivery).await {
                Ok(message) => room.send(Ok(message)),
                Err(reason) => {
                    let event = Event::Undeliverable { stream: self.id, id, reason };
                    self.dispatcher.send(event).await;
                }
            }
            if self.mailbox.is_empty() || id - reported >= TAKEN_STEP {
                reported = id;
                self.dispatcher.send(Event::Taken { stream: self.id, through: id }).await;
            }
        }
    }

    async fn load(&self, delivery: &Delivery) -> Result<WatchJobsResponse, Undeliverable> {
        let key = keys::job(delivery.key.as_bytes());
        let record = self.store.get(key).await.map_err(|_| Undeliverable::Failed)?;
        let current = record.filter(|record| record.mod_revision == delivery.revision);
        let record = current.ok_or(Undeliverable::Superseded)?;
        // The engine has decoded the same bytes.
        stored::trigger(&delivery.key, delivery.id, &record.value)
            .map_err(|_| Undeliverable::Superseded)
    }
}

/// Ends a stream with a status, unless its peer does not read.
pub(crate) async fn end_with(outbound: &Outbound, status: Status) {
    let _ = tokio::time::timeout(LAST_WORD, outbound.send(Err(status))).await;
}
