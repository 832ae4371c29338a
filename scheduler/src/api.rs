//! The eight calls of `dapr.proto.scheduler.v1.Scheduler`: decode, check, call the store or open a
//! stream. Start reading at [`Api`]; [`access`] has the rules of authorisation,
//! [`crate::stored::names`] those of names.

mod access;
mod list;
mod registration;
mod requests;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::Request as HttpRequest;
use axum::routing::post;
use futures::{StreamExt as _, future};
use proto::scheduler::scheduler_server::{Scheduler, SchedulerServer};
use proto::scheduler::{
    DeleteByMetadataRequest, DeleteByMetadataResponse, DeleteByNamePrefixRequest,
    DeleteByNamePrefixResponse, DeleteJobRequest, DeleteJobResponse, GetJobRequest, GetJobResponse,
    Host, JobMetadata, KnownMetadata, ListJobsRequest, ListJobsResponse, ScheduleJobRequest,
    ScheduleJobResponse, WatchHostsRequest, WatchHostsResponse, WatchJobsRequest,
    WatchJobsResponse,
};
use runtime::Scope;
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use transport::Peer;

use crate::engine::event::StreamId;
use crate::error::Refusal;
use crate::membership::fence::Fence;
use crate::metrics::{Metrics, SidecarError};
use crate::store::Store;
use crate::streams::dispatcher::Dispatcher;
use crate::streams::mailbox::Mailbox;
use crate::streams::stream::{self, Outbound, Stream};

use self::access::Caller;

/// Largest message in either direction; payloads of jobs have no limit of their own. Dapr 1.18.
pub(crate) const MAX_MESSAGE_BYTES: usize = i32::MAX as usize;

/// Largest message that a sidecar sends on its stream of jobs: an app id, a namespace and its actor
/// types, of which placement takes 1,000 of 512 bytes. Answers have 20 bytes.
const MAX_STREAM_MESSAGE_BYTES: usize = 1024 * 1024;

/// The call whose messages in both directions stay open by design.
const WATCH_JOBS: &str = "/dapr.proto.scheduler.v1.Scheduler/WatchJobs";
pub(crate) const STREAMING: [&str; 1] = [WATCH_JOBS];
/// The call whose answer stays open by design.
pub(crate) const STREAMING_ANSWERS: [&str; 1] = ["/dapr.proto.scheduler.v1.Scheduler/WatchHosts"];

/// The call by which a sidecar of Dapr 1.19 requests placement from a scheduler; after a refusal it
/// uses the placement service.
const REPORT_ACTOR_TYPES: &str = "/dapr.proto.scheduler.v1.Scheduler/ReportActorTypes";
const NO_PLACEMENT: &str = "placement is not enabled on this scheduler";

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) fence: Arc<Fence>,
    pub(crate) metrics: Metrics,
    /// Whether callers must authenticate.
    pub(crate) tls: bool,
    pub(crate) scope: Scope,
    /// Cancelled when the process stops.
    pub(crate) ending: CancellationToken,
    /// Addresses of all schedulers; empty until they agree.
    pub(crate) hosts: Arc<watch::Sender<Vec<String>>>,
    pub(crate) streams: Arc<AtomicU64>,
}

impl Api {
    /// The routes of the gRPC port. Lists are written piece by piece, which needs a body of its
    /// own; everything else is tonic's.
    pub(crate) fn router(self) -> Router {
        let (lists, jobs) = (self.clone(), self.clone());
        let jobs = SchedulerServer::new(jobs).max_decoding_message_size(MAX_STREAM_MESSAGE_BYTES);
        let service = SchedulerServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let list = post(async move |request: HttpRequest| lists.list(request).await);
        let no_placement =
            post(async || Status::unimplemented(NO_PLACEMENT).into_http::<axum::body::Body>());
        // The exact path wins over tonic's, which is one for all methods.
        tonic::service::Routes::new(service)
            .into_axum_router()
            .route_service(WATCH_JOBS, jobs)
            .route(list::METHOD, list)
            .route(REPORT_ACTOR_TYPES, no_placement)
    }

    /// Checks that a request is its caller's own.
    fn check(
        &self,
        peer: Option<&Peer>,
        metadata: Option<&JobMetadata>,
        scheduled: Option<&str>,
    ) -> Result<KnownMetadata, Refusal> {
        let metadata = metadata.map(|metadata| metadata.known().clone()).unwrap_or_default();
        let checked = access::check(self.caller(peer), &metadata, scheduled);
        self.counted(checked)?;
        Ok(metadata)
    }

    fn caller<'a>(&self, peer: Option<&'a Peer>) -> Caller<'a> {
        if self.tls {
            Caller::Proven(peer.and_then(|peer| peer.id.as_ref()))
        } else {
            Caller::Unproven
        }
    }

    /// Counts refusals of callers.
    fn counted<T>(&self, checked: Result<T, Refusal>) -> Result<T, Refusal> {
        checked.inspect_err(|refusal| {
            let unauthorized = matches!(
                refusal,
                Refusal::Incomplete
                    | Refusal::NoIdentity
                    | Refusal::OtherIdentity
                    | Refusal::ReservedType(_)
            );
            if unauthorized {
                self.metrics.sidecar_error(SidecarError::Unauthorized);
            }
        })
    }

    /// Registers a sidecar and serves its stream.
    async fn watch(
        self,
        peer: Option<Peer>,
        mut inbound: Streaming<WatchJobsRequest>,
        outbound: Outbound,
    ) {
        let first = tokio::select! {
            first = stream::first_message(&mut inbound) => first,
            () = outbound.closed() => return,
            () = self.ending.cancelled() => Err(Refusal::Closing.into()),
        };
        let initial = match first {
            Ok(initial) => initial,
            Err(status) => return stream::end_with(&outbound, status).await,
        };
        let id = StreamId(self.streams.fetch_add(1, Ordering::Relaxed));
        let checked = registration::check(self.caller(peer.as_ref()), &initial, id);
        let registration = match self.counted(checked) {
            Ok(registration) => registration,
            Err(refusal) => return stream::end_with(&outbound, refusal.into()).await,
        };
        tracing::info!(target: "dapr.scheduler.server",
            "Sidecar connected: {}/{} (actorTypes={:?}) (prefixes={:?}).",
            initial.namespace, initial.app_id, initial.actor_types,
            registration::prefixes(&registration));
        let mailbox = Arc::new(Mailbox::default());
        self.dispatcher.open(registration, mailbox.clone()).await;
        let stream = Stream {
            id,
            mailbox,
            store: self.store,
            ending: self.dispatcher.closing().clone(),
            dispatcher: self.dispatcher,
            fence: self.fence,
            metrics: self.metrics,
        };
        stream.run(inbound, outbound).await;
        tracing::info!(target: "dapr.scheduler.server",
            "Sidecar disconnected: {}/{}", initial.namespace, initial.app_id);
    }
}

type Answers<T> = Pin<Box<dyn futures::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Scheduler for Api {
    async fn schedule_job(
        &self,
        request: Request<ScheduleJobRequest>,
    ) -> Result<Response<ScheduleJobResponse>, Status> {
        let (peer, request) = peer_of(request);
        let name = Some(request.name.as_str());
        let metadata = self.check(peer.as_ref(), request.metadata.as_ref(), name)?;
        let partition_id = self.fence.partition_id(runtime::random::bits());
        let done = requests::schedule(&*self.store, &metadata, request, partition_id).await;
        self.metrics.scheduled(&metadata, done.is_ok());
        Ok(Response::new(done.map(|()| ScheduleJobResponse {})?))
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        let (peer, request) = peer_of(request);
        let metadata = self.check(peer.as_ref(), request.metadata.as_ref(), None)?;
        let job = requests::get(&*self.store, &metadata, &request.name).await?;
        Ok(Response::new(GetJobResponse { job: Some(job) }))
    }

    async fn delete_job(
        &self,
        request: Request<DeleteJobRequest>,
    ) -> Result<Response<DeleteJobResponse>, Status> {
        let (peer, request) = peer_of(request);
        let metadata = self.check(peer.as_ref(), request.metadata.as_ref(), None)?;
        requests::delete(&*self.store, &metadata, &request.name).await?;
        self.metrics.deleted(&metadata);
        Ok(Response::new(DeleteJobResponse {}))
    }

    /// Never called: [`Api::list`] is routed first.
    async fn list_jobs(
        &self,
        _request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        Err(Status::unimplemented("lists are written by another handler"))
    }

    async fn delete_by_metadata(
        &self,
        request: Request<DeleteByMetadataRequest>,
    ) -> Result<Response<DeleteByMetadataResponse>, Status> {
        let (peer, request) = peer_of(request);
        let metadata = self.check(peer.as_ref(), request.metadata.as_ref(), None)?;
        requests::delete_by_metadata(&*self.store, &metadata, request.id_prefix_match()).await?;
        self.metrics.bulk_deleted();
        Ok(Response::new(DeleteByMetadataResponse {}))
    }

    async fn delete_by_name_prefix(
        &self,
        request: Request<DeleteByNamePrefixRequest>,
    ) -> Result<Response<DeleteByNamePrefixResponse>, Status> {
        let (peer, request) = peer_of(request);
        let metadata = self.check(peer.as_ref(), request.metadata.as_ref(), None)?;
        requests::delete_by_prefix(&*self.store, &metadata, &request.name_prefix).await?;
        self.metrics.bulk_deleted();
        Ok(Response::new(DeleteByNamePrefixResponse {}))
    }

    type WatchJobsStream = Answers<WatchJobsResponse>;

    async fn watch_jobs(
        &self,
        request: Request<Streaming<WatchJobsRequest>>,
    ) -> Result<Response<Self::WatchJobsStream>, Status> {
        if self.ending.is_cancelled() {
            return Err(Refusal::Closing.into());
        }
        let (peer, inbound) = peer_of(request);
        let (outbound, messages) = stream::outbound();
        let watch = self.clone().watch(peer, inbound, outbound);
        self.scope.spawn_detached("scheduler-stream", watch);
        Ok(Response::new(Box::pin(messages)))
    }

    type WatchHostsStream = Answers<WatchHostsResponse>;

    async fn watch_hosts(
        &self,
        _request: Request<WatchHostsRequest>,
    ) -> Result<Response<Self::WatchHostsStream>, Status> {
        let answer = |hosts: Vec<String>| {
            let hosts = hosts.into_iter().map(|address| Host { address }).collect();
            Ok(WatchHostsResponse { hosts })
        };
        // A sidecar reconnects on every message after the first: only changes are sent.
        let lists = WatchStream::new(self.hosts.subscribe());
        let lists = lists.filter(|hosts| future::ready(!hosts.is_empty())).map(answer);
        let ending = self.ending.clone();
        let lists = lists.take_until(async move { ending.cancelled().await });
        Ok(Response::new(Box::pin(lists)))
    }
}

fn peer_of<T>(request: Request<T>) -> (Option<Peer>, T) {
    let peer = request.extensions().get::<Peer>().cloned();
    (peer, request.into_inner())
}
