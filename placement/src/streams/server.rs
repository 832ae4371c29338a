//! The gRPC service: one bidirectional stream per sidecar.
//!
//! The response body is our own, so that all streams share one encoded table; tonic's generated
//! code would copy it for each. Reading is tonic's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, header};
use axum::routing::post;
use proto::placement::Host;
use runtime::Scope;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::codec::{Codec as _, Streaming};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use transport::Peer;

use crate::election::Role;
use crate::rounds::encoding::Encoding;
use crate::rounds::event::{Event, Rules};
use crate::rounds::message::{Message, StreamId};
use crate::streams::admit::{Access, Admission};
use crate::streams::error::End;
use crate::streams::handle::MembershipHandle;
use crate::streams::limits::{FIRST_MESSAGE, MAX_MESSAGE_BYTES};
use crate::streams::mailbox::{Frames, Mailbox};
use crate::streams::wire::Format;

/// Dapr 1.18, `dapr.proto.placement.v1.Placement`.
pub(crate) const METHOD: &str = "/dapr.proto.placement.v1.Placement/ReportDaprStatus";

/// gRPC headers for the encodings that a client accepts, and for the encoding of a message.
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";
const CONTENT_ENCODING: &str = "grpc-encoding";

/// How long a peer may take to read the end of its stream before its connection is cut. A peer that
/// does not read would otherwise keep it.
const READ_END: Duration = Duration::from_secs(1);

/// Delay between the end of a stream and that of its connection.
const LINGER: Duration = Duration::from_millis(250);

/// A sidecar whose stream was refused dials the next replica at once, hundreds of times per second
/// during an election. So while no leader is known, its stream waits up to this time.
const HOLD: Duration = Duration::from_secs(2);

/// Sidecars before 1.17 abandon a round after this time.
const LEGACY_LIMIT: Duration = Duration::from_secs(15);

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) membership: MembershipHandle,
    pub(crate) rules: Rules,
    pub(crate) replication_factor: i64,
    /// Clients must present a certificate.
    pub(crate) tls: bool,
    pub(crate) scope: Scope,
    /// Cancelled when the process stops and another replica leads.
    pub(crate) ending: CancellationToken,
    /// `--id` of this replica.
    pub(crate) id: Arc<str>,
    pub(crate) roles: watch::Receiver<Role>,
    pub(crate) streams: Arc<AtomicU64>,
}

impl Service {
    /// The routes of the gRPC port.
    pub(crate) fn router(self) -> Router {
        let unimplemented = async || Status::unimplemented("").into_http::<Body>();
        Router::new()
            .route(METHOD, post(async move |request| self.open(request).await))
            .fallback(unimplemented)
    }

    async fn open(self, request: Request) -> Response<Body> {
        let peer = request.extensions().get::<Peer>().cloned();
        let answer = match self.clone().admit(request).await {
            Ok(Some(mailbox)) => return respond(mailbox),
            Ok(None) => Status::new(Code::Ok, "").into_http(),
            Err(status) => status.into_http(),
        };
        if let Some(peer) = peer {
            self.scope.spawn_detached("placement-refusal", retire(peer, self.ending));
        }
        answer
    }

    /// Waits while no leader is known.
    ///
    /// # Errors
    /// Another replica leads, or there is still no leader.
    async fn lead(&mut self) -> Result<(), End> {
        let known = self.roles.wait_for(|role| *role != Role::Unknown);
        let role = tokio::select! {
            () = self.ending.cancelled() => return Err(End::Refused),
            role = tokio::time::timeout(HOLD, known) => role,
        };
        match role {
            Ok(Ok(role)) if matches!(*role, Role::Leader { .. }) => Ok(()),
            _ => Err(End::NotLeader { id: self.id.to_string() }),
        }
    }

    /// Reads and checks the first message and registers the stream. `None`: the client ended it
    /// without a message. Cancel safe: the membership has no record of the stream until it
    /// registers, and then its task exists.
    async fn admit(mut self, request: Request) -> Result<Option<Arc<Mailbox>>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let access = if self.tls {
            Access::of(peer.as_ref().and_then(|p| p.id.as_ref()))
        } else {
            Access::Unproven
        };
        let mut admission = Admission::new(access);
        let accepted = request.headers().get(ACCEPT_ENCODING).and_then(|list| list.to_str().ok());
        let encoding = Encoding::accepted(accepted);
        let decoder = ProstCodec::<(), Host>::default().decoder();
        let mut inbound =
            Streaming::new_request(decoder, request.into_body(), None, Some(MAX_MESSAGE_BYTES));
        let Some(first) = self.first_message(&mut inbound).await? else { return Ok(None) };
        let message = Message::from(first);
        admission.check(&message).map_err(|refusal| {
            let id = &message.host.app_id;
            tracing::info!(target: "dapr.placement.server", id, "Refused a stream: {refusal}");
            Status::from(&refusal)
        })?;
        let format = Format { replication_factor: self.replication_factor, encoding };
        Ok(Some(self.start(peer, admission, inbound, message, format)))
    }

    /// The first message of a stream, once this replica leads; `None` if the client ended the
    /// stream without one. A scheduler of Dapr 1.19 looks for placement with such streams, and gets
    /// its answer without waiting for a leader.
    ///
    /// # Errors
    /// This replica does not lead, the message is invalid or late, or the process stops.
    async fn first_message(
        &mut self,
        inbound: &mut Streaming<Host>,
    ) -> Result<Option<Host>, Status> {
        let ending = self.ending.clone();
        let first = in_time(inbound);
        let (mut first, mut lead) = (std::pin::pin!(first), std::pin::pin!(self.lead()));
        let early = tokio::select! {
            biased;
            outcome = &mut lead => {
                outcome?;
                None
            }
            message = &mut first => Some(message?),
        };
        match early {
            Some(None) => Ok(None),
            Some(message) => {
                lead.await?;
                Ok(message)
            }
            None if ending.is_cancelled() => Err(End::Refused.into()),
            None => tokio::select! {
                () = ending.cancelled() => Err(End::Stopped.into()),
                message = first => message,
            },
        }
    }

    /// Starts the task that owns the stream; registers its start and its end, once each.
    fn start(
        self,
        peer: Option<Peer>,
        admission: Admission,
        inbound: Streaming<Host>,
        message: Message,
        format: Format,
    ) -> Arc<Mailbox> {
        let host = &message.host;
        tracing::info!(target: "dapr.placement.server",
            "Received status report connection from new namespace={} id={} host={}",
            host.namespace, host.app_id, host.name);
        if message.is_legacy() && self.rules.round_timeout >= LEGACY_LIMIT {
            tracing::warn!(target: "dapr.placement.server", id = host.app_id,
                "A sidecar before 1.17 abandons a round after {LEGACY_LIMIT:?}: keep --disseminate-timeout below");
        }
        let stream = StreamId(self.streams.fetch_add(1, Ordering::Relaxed));
        let mailbox = Mailbox::new(message.is_legacy(), format);
        let task = Stream {
            id: stream,
            membership: self.membership,
            ending: self.ending,
            admission,
            mailbox: mailbox.clone(),
            peer,
        };
        self.scope.spawn_detached("placement-stream", task.run(message, inbound));
        mailbox
    }
}

/// Sidecars open a connection for each stream and leave it open afterwards. It is closed with a
/// delay, because data still in flight from the peer would turn the answer into a reset.
async fn retire(peer: Peer, ending: CancellationToken) {
    ending.run_until_cancelled(tokio::time::sleep(LINGER)).await;
    peer.retire();
}

fn respond(mailbox: Arc<Mailbox>) -> Response<Body> {
    let encoding = mailbox.encoding();
    let mut response = Response::new(Body::new(Frames::new(mailbox)));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
    if encoding == Encoding::Gzip {
        // Allows frames to be compressed; those of `lock` and `unlock` are not.
        let gzip = HeaderValue::from_static(Encoding::GZIP);
        response.headers_mut().insert(CONTENT_ENCODING, gzip);
    }
    response
}

/// The task of one stream.
struct Stream {
    id: StreamId,
    membership: MembershipHandle,
    ending: CancellationToken,
    admission: Admission,
    mailbox: Arc<Mailbox>,
    peer: Option<Peer>,
}

impl Stream {
    async fn run(mut self, first: Message, mut inbound: Streaming<Host>) {
        let (stream, mailbox) = (self.id, self.mailbox.clone());
        let registered = self.membership.register(stream, first, mailbox.clone()).await.is_ok();
        let end = if registered { self.read(&mut inbound).await } else { End::Stopped.into() };
        let addr = self.peer.as_ref().map(|p| p.addr.to_string()).unwrap_or_default();
        if end.code() == Code::Ok {
            tracing::debug!(target: "dapr.placement.server", "{addr} ended its stream");
        } else {
            tracing::info!(target: "dapr.placement.server",
                "Closing connection to {addr}: {}", end.message());
        }
        mailbox.end(end);
        // Fails only when the membership has stopped, and with it every count.
        let _ = self.membership.send_event(Event::Closed { stream }).await;
        drop(inbound);
        let read = tokio::time::timeout(READ_END, mailbox.gone()).await;
        let Some(peer) = self.peer else { return };
        if read.is_err() {
            tracing::info!(target: "dapr.placement.server", "{addr} does not read; cutting its connection");
            return peer.hang_up();
        }
        retire(peer, self.ending).await;
    }

    /// Forwards the sidecar's messages; returns why the stream ends.
    async fn read(&mut self, inbound: &mut Streaming<Host>) -> Status {
        let (stream, mailbox) = (self.id, self.mailbox.clone());
        let mut written = mailbox.written();
        loop {
            let event = tokio::select! {
                end = mailbox.ended() => return end,
                () = mailbox.gone() => return Status::cancelled("the client is gone"),
                () = self.ending.cancelled() => return End::Stopped.into(),
                Ok(()) = written.changed() => {
                    let Some((step, version)) = *written.borrow_and_update() else { continue };
                    Event::Written { stream, step, version }
                }
                message = inbound.message() => match message {
                    Ok(Some(host)) => {
                        let message = Message::from(host);
                        if let Err(refusal) = self.admission.check(&message) {
                            return Status::from(&refusal);
                        }
                        Event::Message { stream, message }
                    }
                    Ok(None) => return Status::new(Code::Ok, ""),
                    Err(status) => return status,
                }
            };
            if self.membership.send_event(event).await.is_err() {
                return End::Stopped.into();
            }
        }
    }
}

/// The next message, if it arrives within the limit of the first.
async fn in_time(inbound: &mut Streaming<Host>) -> Result<Option<Host>, Status> {
    tokio::time::timeout(FIRST_MESSAGE, inbound.message()).await.map_err(|_| End::NoReport)?
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use prost::Message as _;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// Result of a stream whose report arrives after this time.
    async fn report_after(time: Duration) -> Result<Option<Host>, Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<_, Infallible>>(1);
        let body = Body::from_stream(ReceiverStream::new(receiver));
        let decoder = ProstCodec::<(), Host>::default().decoder();
        let mut inbound = Streaming::new_request(decoder, body, None, Some(MAX_MESSAGE_BYTES));
        let host = Host { name: "a:1".to_owned(), ..Host::default() }.encode_to_vec();
        let length = u32::try_from(host.len()).unwrap().to_be_bytes();
        let send = async {
            tokio::time::sleep(time).await;
            let _ = sender.send(Ok([&[0][..], &length, &host].concat())).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            message = in_time(&mut inbound) => message,
            () = send => unreachable!("it never ends"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_report_may_take_ten_seconds_and_no_longer() {
        let tick = Duration::from_millis(1);
        let host = report_after(FIRST_MESSAGE.checked_sub(tick).unwrap()).await.unwrap().unwrap();
        assert_eq!(host.name, "a:1");
        let late = report_after(FIRST_MESSAGE + tick).await.unwrap_err();
        assert_eq!(late.message(), "no report within 10s");
    }
}
