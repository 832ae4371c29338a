//! The task of one `WatchJobs` stream: results in, deliveries out.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt as _, StreamExt as _, future, stream};
use prost::Message as _;
use proto::scheduler::watch_jobs_request::WatchJobRequestType;
use proto::scheduler::{
    WatchJobsRequest, WatchJobsRequestInitial, WatchJobsRequestResultStatus, WatchJobsResponse,
};
use runtime::clock;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::dispatcher::Dispatcher;
use super::mailbox::{Delivery, Mailbox};
use crate::engine::event::{AckResult, Event, StreamId, Undeliverable};
use crate::error::Refusal;
use crate::membership::fence::Fence;
use crate::metrics::{Metrics, SidecarError};
use crate::store::{Store, keys};
use crate::stored;

/// Time limit for a peer to read the end of its stream.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Deliveries after which the engine gets a report of those that the transport took, while more
/// wait.
const TAKEN_STEP: u64 = 64;

/// Results that are passed on together.
pub(super) const RESULTS: usize = 64;

/// Deliveries that the transport gets together.
const DELIVERIES: u64 = 64;
/// Bytes of such messages except the last.
const BATCH_BYTES: usize = 64 << 10;
/// After this time no further record is read: a store on another machine answers one read at a
/// time.
const BATCH_TIME: Duration = Duration::from_millis(1);

/// Messages that the transport gets together, or the status that ends the stream.
type Part = Result<Vec<WatchJobsResponse>, Status>;

/// A message of a sidecar, or why none arrives any more.
type Inbound = Result<WatchJobsRequest, Status>;

/// The sender of a stream's messages.
pub(crate) type Outbound = mpsc::Sender<Part>;

/// Creates the channel of a stream's messages. It has one slot, so that records are read when the
/// transport has room for them.
pub(crate) fn outbound()
-> (Outbound, impl futures::Stream<Item = Result<WatchJobsResponse, Status>>) {
    let (outbound, parts) = mpsc::channel(1);
    let messages = |part: Part| match part {
        Ok(messages) => stream::iter(messages).map(Ok).left_stream(),
        Err(end) => stream::once(future::ready(Err(end))).right_stream(),
    };
    (outbound, ReceiverStream::new(parts).flat_map(messages))
}

/// Reads the first message.
///
/// # Errors
/// It does not register the sidecar, or the stream failed.
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
    pub(crate) fence: Arc<Fence>,
    pub(crate) metrics: Metrics,
    /// Cancelled when the process stops and answers that were under way have come.
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
        if !self.mailbox.is_empty() && !self.ending.is_cancelled() {
            self.metrics.sidecar_error(SidecarError::Send);
        }
        self.dispatcher.send(Event::StreamClosed { stream: self.id }).await;
        if let Err(status) = end {
            end_with(&outbound, status).await;
        }
    }

    /// Passes results on; `Ok` when the sidecar ends the stream.
    async fn read(&self, inbound: &mut Streaming<WatchJobsRequest>) -> Result<(), Status> {
        loop {
            let first = inbound.next().await;
            // Before further results are collected: those are lost when the stream ends meanwhile.
            let room = self.dispatcher.room().await;
            let (results, end) = self.collect(first, inbound);
            if !results.is_empty() {
                room.send_all(results);
            }
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Results that have arrived, up to [`RESULTS`], and how the stream ends if it does.
    fn collect(
        &self,
        first: Option<Inbound>,
        inbound: &mut (impl futures::Stream<Item = Inbound> + Unpin),
    ) -> (Vec<Event>, Option<Result<(), Status>>) {
        let (mut results, mut next) = (Vec::new(), Some(first));
        while let Some(message) = next {
            match self.result(message) {
                Ok(Some(result)) => results.push(result),
                Ok(None) => return (results, Some(Ok(()))),
                Err(status) => return (results, Some(Err(status))),
            }
            let more = results.len() < RESULTS;
            next = if more { inbound.next().now_or_never() } else { None };
        }
        (results, None)
    }

    /// The result in a message; `None` at the end of the stream.
    fn result(&self, message: Option<Inbound>) -> Result<Option<Event>, Status> {
        let message = message.transpose().inspect_err(|_| self.receive_failed())?;
        let Some(message) = message else {
            return Ok(None);
        };
        let result = result_of(self.id, &message);
        Ok(Some(result.inspect_err(|_| self.receive_failed())?))
    }

    fn receive_failed(&self) {
        self.metrics.sidecar_error(SidecarError::Receive);
    }

    /// Sends deliveries as the transport takes them; `Ok` when the sidecar has disconnected.
    async fn write(&self, outbound: &Outbound) -> Result<(), Status> {
        let mut reported = 0;
        loop {
            let Ok(room) = outbound.reserve().await else { return Ok(()) };
            let first = tokio::select! {
                delivery = self.mailbox.next() => delivery,
                () = outbound.closed() => return Ok(()),
            };
            let Batch { loaded, through } = self.load_batch(first).await;
            // Checked after the reads, which may be slow, and with nothing to wait for before the
            // handover.
            let open = self.fence.is_open(clock::monotonic());
            let is_current =
                |(delivery, _): &Loaded| open && self.fence.admits(delivery.shard, delivery.epoch);
            let (current, late): (Vec<_>, Vec<_>) = loaded.into_iter().partition(is_current);
            if !current.is_empty() {
                room.send(Ok(current.into_iter().map(|(_, message)| message).collect()));
            }
            for (delivery, _) in late {
                self.report_undeliverable(delivery.id, Undeliverable::Failed).await;
            }
            if self.mailbox.is_empty() || through - reported >= TAKEN_STEP {
                reported = through;
                self.dispatcher.send(Event::Taken { stream: self.id, through }).await;
            }
        }
    }

    /// Reads the records of deliveries, beginning with `first`, for one handover to the transport.
    async fn load_batch(&self, first: Delivery) -> Batch {
        let (begun, first_id) = (Instant::now(), first.id);
        let mut batch = Batch { loaded: Vec::new(), through: first.id };
        let (mut bytes, mut next) = (0, Some(first));
        while let Some(delivery) = next {
            batch.through = delivery.id;
            match self.load(&delivery).await {
                Ok(message) => {
                    bytes += message.encoded_len();
                    batch.loaded.push((delivery, message));
                }
                Err(reason) => self.report_undeliverable(delivery.id, reason).await,
            }
            let is_full = is_full(bytes, batch.through - first_id + 1);
            let is_late = begun.elapsed() >= BATCH_TIME;
            next = if is_full || is_late { None } else { self.mailbox.pop() };
        }
        batch
    }

    async fn report_undeliverable(&self, id: u64, reason: Undeliverable) {
        self.dispatcher.send(Event::Undeliverable { stream: self.id, id, reason }).await;
    }

    async fn load(&self, delivery: &Delivery) -> Result<WatchJobsResponse, Undeliverable> {
        let key = keys::job(delivery.key.as_bytes());
        let value = if let Some(value) = self.store.cached(&key, delivery.revision) {
            value
        } else {
            let record = self.store.get(key).await.map_err(|_| Undeliverable::Failed)?;
            let current = record.filter(|record| record.mod_revision == delivery.revision);
            current.ok_or(Undeliverable::Superseded)?.value
        };
        // The engine has decoded the same bytes.
        stored::trigger(&delivery.key, delivery.id, &value).map_err(|_| Undeliverable::Superseded)
    }
}

type Loaded = (Delivery, WatchJobsResponse);

/// Messages that are handed over together.
struct Batch {
    loaded: Vec<Loaded>,
    /// The last delivery whose record was read.
    through: u64,
}

/// Whether the transport gets so many bytes and deliveries at once.
fn is_full(bytes: usize, deliveries: u64) -> bool {
    bytes >= BATCH_BYTES || deliveries >= DELIVERIES
}

/// The result in a message.
fn result_of(stream: StreamId, message: &WatchJobsRequest) -> Result<Event, Refusal> {
    let Some(WatchJobRequestType::Result(result)) = &message.watch_job_request_type else {
        return Err(Refusal::NoResult);
    };
    let outcome = match WatchJobsRequestResultStatus::try_from(result.status) {
        Ok(WatchJobsRequestResultStatus::Success) => AckResult::Success,
        Ok(WatchJobsRequestResultStatus::Failed) => AckResult::Failed,
        Err(_) => return Err(Refusal::UnknownStatus(result.status)),
    };
    Ok(Event::Ack { stream, id: result.id, result: outcome })
}

/// Ends a stream with a status, unless its peer does not read.
pub(crate) async fn end_with(outbound: &Outbound, status: Status) {
    let _ = tokio::time::timeout(LAST_WORD, outbound.send(Err(status))).await;
}

#[cfg(test)]
mod tests;
