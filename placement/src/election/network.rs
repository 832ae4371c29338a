//! The protocol of the election port: small JSON bodies over HTTP/2, with mTLS exactly when sidecars
//! are served with it; the handshake then accepts only the id that replicas share. Private between
//! replicas of one version; other protocols are rejected by the HTTP layer.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use identity::SpiffeId;
use openraft::error::{InstallSnapshotError, RPCError, RaftError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, LogId, Raft};
use runtime::clock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tonic::transport::{Channel, Endpoint};
use tower::{Service as _, ServiceExt as _};
use transport::{DialError, Svid};

use super::quorum::QuorumTracker;
use super::store::{Store, Types};

/// Body of one message; they are a few hundred bytes long.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// Pause before a replica that did not answer is called again.
const PAUSE: Duration = Duration::from_millis(100);

/// How much earlier than the library this side cancels an unanswered message.
const NOTICE: Duration = Duration::from_millis(10);

/// Consecutive failures after which a new connection is made: the replica may have another address.
const MAX_FAILURES: u32 = 3;

/// The state of a replica, which others read before they start an election.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct ReplicaState {
    /// It can vote, and knows no leader.
    pub(super) free: bool,
    /// The last entry of its log; `None` since its start until it has voted or followed. A replica
    /// gets no vote from one whose log is longer.
    pub(super) log: Option<LogId<u64>>,
}

/// Why another replica gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("no answer in time")]
    Timeout,
    #[error("no such replica")]
    Unknown,
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Channel(#[from] tonic::transport::Error),
    #[error(transparent)]
    Request(#[from] axum::http::Error),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Body(#[from] axum::Error),
}

/// This replica and its connections to the others.
pub(super) struct Replica {
    /// Its number: the position among the sorted ids.
    pub(super) id: u64,
    /// `host:port` of each replica's election port.
    pub(super) addresses: BTreeMap<u64, String>,
    /// With mTLS: its certificate, and the id that all replicas share.
    pub(super) identity: Option<(Svid, SpiffeId)>,
    pub(super) raft: OnceLock<Raft<Types>>,
    pub(super) store: Store,
    /// It leads and hands leadership over.
    pub(super) yields: AtomicBool,
    /// A message or an acknowledgement arrived.
    pub(super) news: Notify,
    quorum: Mutex<QuorumTracker>,
    links: Mutex<HashMap<u64, Link>>,
}

#[derive(Default)]
struct Link {
    channel: Option<Channel>,
    failures: u32,
}

impl Replica {
    pub(super) fn new(
        id: u64,
        addresses: BTreeMap<u64, String>,
        identity: Option<(Svid, SpiffeId)>,
    ) -> Self {
        let quorum = QuorumTracker::new(addresses.len(), clock::monotonic());
        Self {
            id,
            addresses,
            identity,
            raft: OnceLock::new(),
            store: Store::default(),
            yields: AtomicBool::new(false),
            news: Notify::new(),
            quorum: Mutex::new(quorum),
            links: Mutex::default(),
        }
    }

    pub(super) fn quorum(&self) -> MutexGuard<'_, QuorumTracker> {
        self.quorum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The other replicas.
    pub(super) fn others(&self) -> impl Iterator<Item = u64> {
        self.addresses.keys().copied().filter(|id| *id != self.id)
    }

    /// It was elected and has not been replaced since.
    fn is_elected(&self) -> bool {
        self.raft.get().is_some_and(|raft| raft.metrics().borrow().state.is_leader())
    }

    /// Until when no other replica can lead, if this one was elected.
    fn leads_until(&self) -> Option<Instant> {
        let term = self.raft.get()?.metrics().borrow().current_term;
        self.quorum().leads_until(term)
    }

    fn raft(&self) -> Result<&Raft<Types>, Unavailable> {
        self.raft.get().ok_or(Unavailable)
    }

    /// Sends a message to another replica and waits for its answer, `limit` at most.
    pub(super) async fn call<A: DeserializeOwned>(
        &self,
        target: u64,
        path: &'static str,
        message: &impl Serialize,
        limit: Duration,
    ) -> Result<A, AskError> {
        let body = serde_json::to_vec(message)?;
        let channel = self.channel(target)?;
        let answer = tokio::time::timeout(limit, exchange(channel, path, body)).await;
        let answer = answer.map_err(|_| AskError::Timeout).flatten();
        self.record_outcome(target, answer.is_ok());
        Ok(serde_json::from_slice(&answer?)?)
    }

    fn channel(&self, target: u64) -> Result<Channel, AskError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(target).or_default();
        if let Some(channel) = &link.channel {
            return Ok(channel.clone());
        }
        let address = self.addresses.get(&target).ok_or(AskError::Unknown)?;
        let channel = match &self.identity {
            Some((svid, id)) => transport::channel(svid, address, id.clone())?,
            None => Endpoint::from_shared(format!("http://{address}"))?.connect_lazy(),
        };
        link.channel = Some(channel.clone());
        Ok(channel)
    }

    /// Names are resolved when a connection is made, so a connection that fails repeatedly is
    /// dropped.
    fn record_outcome(&self, target: u64, answered: bool) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(target).or_default();
        let failed = std::mem::take(&mut link.failures);
        let address = self.addresses.get(&target).map_or("", String::as_str);
        if answered {
            if failed >= MAX_FAILURES {
                tracing::info!(target: "dapr.placement.raft", address, "replica answers again");
            }
            return;
        }
        link.failures = failed + 1;
        if link.failures.is_multiple_of(MAX_FAILURES) {
            link.channel = None;
        }
        if link.failures == MAX_FAILURES {
            tracing::warn!(target: "dapr.placement.raft", address, "replica does not answer");
        }
    }
}

async fn exchange(mut channel: Channel, path: &str, body: Vec<u8>) -> Result<Vec<u8>, AskError> {
    let body = tonic::body::Body::new(Body::from(body));
    let json = "application/json";
    let request = axum::http::Request::post(path).header("content-type", json).body(body)?;
    let answer = channel.ready().await?.call(request).await?;
    if answer.status() != StatusCode::OK {
        return Err(AskError::Status(answer.status()));
    }
    Ok(axum::body::to_bytes(Body::new(answer.into_body()), MAX_BODY).await?.into())
}

/// A message that this replica rejects, now and on every retry.
#[derive(Debug)]
struct Unavailable;

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

impl<E: std::error::Error> From<RaftError<u64, E>> for Unavailable {
    fn from(_: RaftError<u64, E>) -> Self {
        Self // the failing part has logged the cause
    }
}

/// The routes of the election port.
pub(super) fn router(replica: Arc<Replica>) -> Router {
    Router::new()
        .route("/append", post(append))
        .route("/vote", post(vote))
        .route("/snapshot", post(snapshot))
        .route("/standing", post(standing))
        .route("/succeed", post(succeed))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(replica)
}

async fn append(
    State(us): State<Arc<Replica>>,
    Json(message): Json<AppendEntriesRequest<Types>>,
) -> Result<Json<AppendEntriesResponse<u64>>, Unavailable> {
    let leader = message.vote.leader_id().voted_for();
    let answer = us.raft()?.append_entries(message).await?;
    if let (false, Some(leader)) = (matches!(answer, AppendEntriesResponse::HigherVote(_)), leader)
    {
        us.quorum().record_leader(leader, clock::monotonic());
        us.news.notify_one();
    }
    Ok(Json(answer))
}

async fn vote(
    State(us): State<Arc<Replica>>,
    Json(message): Json<VoteRequest<u64>>,
) -> Result<Json<VoteResponse<u64>>, Unavailable> {
    let now = clock::monotonic();
    // The library, as leader, would grant any vote.
    let content = us.is_elected()
        && !us.yields.load(Ordering::Relaxed)
        && us.leads_until().is_some_and(|until| now < until);
    if content || !us.quorum().can_vote(now) {
        return Err(Unavailable);
    }
    Ok(Json(us.raft()?.vote(message).await?))
}

async fn snapshot(
    State(us): State<Arc<Replica>>,
    Json(message): Json<InstallSnapshotRequest<Types>>,
) -> Result<Json<InstallSnapshotResponse<u64>>, Unavailable> {
    Ok(Json(us.raft()?.install_snapshot(message).await?))
}

async fn standing(State(us): State<Arc<Replica>>) -> Result<Json<ReplicaState>, Unavailable> {
    us.raft()?;
    let log = us.store.last();
    let leads = us.is_elected();
    let now = clock::monotonic();
    let quorum = us.quorum();
    let free = quorum.can_vote(now) && !leads && quorum.leader(now).is_none();
    Ok(Json(ReplicaState { free, log }))
}

/// The leader stops and has chosen this replica. It votes for it, so the lease does not block it.
async fn succeed(State(us): State<Arc<Replica>>) -> Result<Json<()>, Unavailable> {
    let raft = us.raft()?;
    us.quorum().forget_leader();
    us.news.notify_one();
    raft.trigger().elect().await.map_err(|_| Unavailable)?;
    Ok(Json(()))
}

/// The library's connections to the other replicas.
pub(super) struct Connection {
    pub(super) us: Arc<Replica>,
    pub(super) target: u64,
}

/// Creates [`Connection`]s for the library.
pub(super) struct Connections(pub(super) Arc<Replica>);

impl RaftNetworkFactory<Types> for Connections {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _: &EmptyNode) -> Connection {
        Connection { us: self.0.clone(), target }
    }
}

type Failed<E = openraft::error::Infallible> = RPCError<u64, EmptyNode, RaftError<u64, E>>;

impl Connection {
    async fn call<A: DeserializeOwned, E: std::error::Error>(
        &self,
        path: &'static str,
        message: &impl Serialize,
        option: &RPCOption,
    ) -> Result<A, Failed<E>> {
        // Slightly less than the library's limit, so that a silent replica is noticed here.
        let limit = option.hard_ttl().saturating_sub(NOTICE);
        let answer = self.us.call(self.target, path, message, limit).await;
        answer.map_err(|error| RPCError::Unreachable(Unreachable::new(&NoAnswer(error))))
    }
}

/// Another replica did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", runtime::chain(.0))]
struct NoAnswer(AskError);

impl RaftNetwork<Types> for Connection {
    async fn append_entries(
        &mut self,
        message: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Failed> {
        let (sent, term) = (clock::monotonic(), message.vote.leader_id().get_term());
        let answer = self.call("/append", &message, &option).await?;
        if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
            self.us.quorum().acknowledge(self.target, term, sent);
            self.us.news.notify_one();
        }
        Ok(answer)
    }

    async fn install_snapshot(
        &mut self,
        message: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, Failed<InstallSnapshotError>> {
        self.call("/snapshot", &message, &option).await
    }

    async fn vote(
        &mut self,
        message: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, Failed> {
        self.call("/vote", &message, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(PAUSE))
    }
}
