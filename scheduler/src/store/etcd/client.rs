//! The connection to etcd: one channel to one of the endpoints, the token of the user, and calls
//! that are repeated until etcd answers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use proto::etcd::etcdserverpb::auth_client::AuthClient;
use proto::etcd::etcdserverpb::lease_client::LeaseClient;
use proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use proto::etcd::etcdserverpb::{
    AlarmRequest, AlarmResponse, AuthenticateRequest, DefragmentRequest, DefragmentResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, RangeRequest, RangeResponse, StatusRequest,
    StatusResponse, TxnRequest, TxnResponse, WatchRequest, WatchResponse,
};
use runtime::clock;
use tokio::sync::mpsc;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Response, Status, Streaming};

use super::endpoints::Endpoints;
use super::once::{self, Put};
use super::requests;
use super::session::Session;
use crate::store::{Committed, Revision, StoreError};

/// Shortest and longest pause between attempts, before jitter; each pause is twice the last.
const RETRY: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// Time after the start of a call in which attempts may begin. The last attempt may end later, by
/// [`ATTEMPT`] or [`LONG_ATTEMPT`].
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// One attempt of a call whose messages are small. A member without a leader answers after 7 s.
pub(super) const ATTEMPT: Duration = Duration::from_secs(5);
/// One attempt of a read that may answer with many megabytes.
pub(super) const LONG_ATTEMPT: Duration = Duration::from_secs(30);
/// Time limit of a defragmentation, which copies the data of up to 8 GiB that etcd recommends.
const DEFRAGMENT: Duration = Duration::from_mins(5);

/// Name and password of a user of etcd.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) password: String,
}

/// One attempt of a call.
trait Call<T>: Future<Output = Result<Response<T>, Status>> + Send {}

impl<T, F: Future<Output = Result<Response<T>, Status>> + Send> Call<T> for F {}

/// A client of etcd.
pub(super) struct Client {
    endpoints: Arc<Endpoints>,
    credentials: Option<Credentials>,
    session: RwLock<Session>,
    /// Why etcd does not answer, if that is known.
    obstacle: Arc<ArcSwapOption<String>>,
    /// The highest revision that etcd has reported.
    latest: AtomicU64,
}

/// The consequence of a failed call.
enum Failure {
    /// The same call may succeed later.
    Again(Status),
    /// The token is no longer accepted.
    Token(Status),
    /// etcd refuses the call.
    Final(Status),
}

impl Client {
    pub(super) fn new(
        endpoints: Arc<Endpoints>,
        credentials: Option<Credentials>,
        obstacle: Arc<ArcSwapOption<String>>,
    ) -> Self {
        let channel = Endpoints::channel(&endpoints);
        let authenticated = credentials.is_none();
        let session = Session { number: 0, channel, token: None, authenticated };
        let (session, latest) = (RwLock::new(session), AtomicU64::new(0));
        Self { endpoints, credentials, session, obstacle, latest }
    }

    /// A read of few records.
    pub(super) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.read(ATTEMPT, request).await
    }

    /// A read of many records.
    pub(super) async fn page(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.read(LONG_ATTEMPT, request).await
    }

    async fn read(
        &self,
        attempt: Duration,
        request: RangeRequest,
    ) -> Result<RangeResponse, StoreError> {
        let answer = self.repeat(attempt, |session| {
            let request = session.request(request.clone());
            async move { session.kv().range(request).await }
        });
        let answer = answer.await?;
        self.saw(requests::revision_of(answer.header.as_ref()));
        Ok(answer)
    }

    /// Runs a transaction. An attempt without an answer may have been applied, so that the same
    /// transaction is applied twice, or its conditions no longer hold because of itself.
    pub(super) async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, StoreError> {
        let answer = self.repeat(ATTEMPT, |session| {
            let request = session.request(request.clone());
            async move { session.kv().txn(request).await }
        });
        let answer = answer.await?;
        self.saw(requests::revision_of(answer.header.as_ref()));
        Ok(answer)
    }

    /// Puts a record once, however often it has to be sent.
    pub(super) async fn put_once(&self, put: &Put) -> Result<Committed, StoreError> {
        // Whatever this call writes has a later revision.
        let since = self.latest.load(Ordering::Relaxed) + 1;
        let mut is_first = true;
        let done = self.repeat(ATTEMPT, |session| {
            let (put, first) = (put.clone(), std::mem::replace(&mut is_first, false));
            async move {
                if first {
                    once::send(&session, &put).await
                } else {
                    once::send_again(&session, &put, since).await
                }
            }
        });
        let done = done.await?;
        self.saw(done.revision);
        Ok(done)
    }

    fn saw(&self, revision: Revision) {
        self.latest.fetch_max(revision, Ordering::Relaxed);
    }

    pub(super) async fn grant(&self, ttl: i64) -> Result<LeaseGrantResponse, StoreError> {
        self.repeat(ATTEMPT, |session| async move {
            let request = session.request(LeaseGrantRequest { ttl, id: 0 });
            LeaseClient::new(session.channel.clone()).lease_grant(request).await
        })
        .await
    }

    /// One renewal, not repeated: the caller knows how much time is left.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, StoreError> {
        self.once(ATTEMPT, |session| async move {
            let request = tokio_stream::once(LeaseKeepAliveRequest { id });
            let mut client = LeaseClient::new(session.channel.clone());
            let answers = client.lease_keep_alive(session.request(request)).await?;
            let answer = answers.into_inner().message().await?;
            answer.map(Response::new).ok_or_else(|| Status::unavailable("the stream ended"))
        })
        .await
    }

    pub(super) async fn revoke(&self, id: i64) -> Result<LeaseRevokeResponse, StoreError> {
        self.once(ATTEMPT, |session| async move {
            let request = session.request(LeaseRevokeRequest { id });
            LeaseClient::new(session.channel.clone()).lease_revoke(request).await
        })
        .await
    }

    /// All alarms of etcd. One attempt.
    pub(super) async fn alarms(&self) -> Result<AlarmResponse, StoreError> {
        self.once(ATTEMPT, |session| async move {
            let request = session.request(AlarmRequest::default());
            MaintenanceClient::new(session.channel.clone()).alarm(request).await
        })
        .await
    }

    /// The state of the member that answers. One attempt.
    pub(super) async fn status(&self) -> Result<StatusResponse, StoreError> {
        self.once(ATTEMPT, |session| async move {
            let request = session.request(StatusRequest {});
            MaintenanceClient::new(session.channel.clone()).status(request).await
        })
        .await
    }

    pub(super) async fn defragment(&self) -> Result<DefragmentResponse, StoreError> {
        self.once(DEFRAGMENT, |session| async move {
            let request = session.request(DefragmentRequest {});
            MaintenanceClient::new(session.channel.clone()).defragment(request).await
        })
        .await
    }

    /// One attempt of a read, to check whether etcd answers.
    pub(super) async fn probe(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.once(ATTEMPT, |session| {
            let request = session.request(request.clone());
            async move { session.kv().range(request).await }
        })
        .await
    }

    /// Opens a stream of watches. It ends by itself when the member has no leader.
    pub(super) async fn watch(
        &self,
        requests: mpsc::Receiver<WatchRequest>,
    ) -> Result<Streaming<WatchResponse>, StoreError> {
        let session = self.session().await?;
        match tokio::time::timeout(ATTEMPT, session.watch(requests)).await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(status)) => {
                self.take(&session, classify(status.clone()));
                Err(self.unavailable(&status))
            }
            Err(_) => {
                self.replace(&session);
                Err(StoreError::Unavailable("etcd does not answer".to_owned()))
            }
        }
    }

    /// Repeats a call until etcd answers or [`CALL_TIMEOUT`] leaves no time for another attempt.
    async fn repeat<T, F: Call<T>>(
        &self,
        attempt: Duration,
        mut call: impl FnMut(Session) -> F + Send,
    ) -> Result<T, StoreError> {
        let begun = clock::monotonic();
        let [mut wait, longest] = RETRY;
        loop {
            let error = match self.attempt(attempt, &mut call).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(status)) => return Err(refused(&status)),
                Err(Failure::Again(status) | Failure::Token(status)) => status,
            };
            if begun.elapsed() + wait > CALL_TIMEOUT {
                return Err(self.unavailable(&error));
            }
            tokio::time::sleep(runtime::random::jittered(wait, 0.3)).await;
            wait = longest.min(wait * 2);
        }
    }

    async fn once<T, F: Call<T>>(
        &self,
        attempt: Duration,
        mut call: impl FnMut(Session) -> F + Send,
    ) -> Result<T, StoreError> {
        match self.attempt(attempt, &mut call).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Final(status)) => Err(refused(&status)),
            Err(Failure::Again(status) | Failure::Token(status)) => Err(self.unavailable(&status)),
        }
    }

    async fn attempt<T, F: Call<T>>(
        &self,
        limit: Duration,
        call: &mut (impl FnMut(Session) -> F + Send),
    ) -> Result<T, Failure> {
        let session = self
            .session()
            .await
            .map_err(|error| Failure::Again(Status::unavailable(error.to_string())))?;
        let failure = match tokio::time::timeout(limit, call(session.clone())).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) => classify(status),
            Err(_) => {
                self.replace(&session);
                Failure::Again(Status::unavailable("etcd does not answer in time"))
            }
        };
        Err(self.take(&session, failure))
    }

    /// Reacts to a failure.
    fn take(&self, session: &Session, failure: Failure) -> Failure {
        match &failure {
            Failure::Token(_) => self.update(session, |current| current.authenticated = false),
            // The next call goes to another endpoint.
            Failure::Again(status) if status.code() == Code::Unavailable => self.replace(session),
            Failure::Again(_) | Failure::Final(_) => {}
        }
        failure
    }

    /// The session, with its token.
    async fn session(&self) -> Result<Session, StoreError> {
        let session = self.session.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(credentials) = self.credentials.as_ref().filter(|_| !session.authenticated) else {
            return Ok(session);
        };
        let request = AuthenticateRequest {
            name: credentials.user.clone(),
            password: credentials.password.clone(),
        };
        let mut client = AuthClient::new(session.channel.clone());
        let answer = tokio::time::timeout(ATTEMPT, client.authenticate(request)).await;
        let token = match answer {
            Ok(Ok(answer)) => {
                let token = AsciiMetadataValue::try_from(answer.into_inner().token);
                Some(token.map_err(|_| StoreError::Unavailable("the token of etcd".to_owned()))?)
            }
            // Dapr's own scheduler continues without a token too.
            Ok(Err(status)) if status.message().contains("authentication is not enabled") => None,
            Ok(Err(status)) => {
                self.replace(&session);
                return Err(self.unavailable(&status));
            }
            Err(_) => {
                self.replace(&session);
                return Err(StoreError::Unavailable("etcd does not answer in time".to_owned()));
            }
        };
        let ready = Session { token, authenticated: true, ..session.clone() };
        self.update(&session, |current| current.clone_from(&ready));
        Ok(ready)
    }

    /// The reason for no answer.
    fn unavailable(&self, status: &Status) -> StoreError {
        match self.obstacle.load().as_deref() {
            Some(why) => StoreError::Unavailable(why.clone()),
            None => unavailable(status),
        }
    }

    /// Connects to the next endpoint. The token is valid at all members.
    fn replace(&self, session: &Session) {
        self.update(session, |current| {
            current.number += 1;
            current.channel = Endpoints::channel(&self.endpoints);
        });
    }

    /// Changes the session unless another call has replaced it.
    fn update(&self, seen: &Session, change: impl FnOnce(&mut Session)) {
        let mut current = self.session.write().unwrap_or_else(PoisonError::into_inner);
        if current.number == seen.number {
            change(&mut current);
        }
    }
}

/// Classifies an error of etcd 3.5 by its remedy.
fn classify(status: Status) -> Failure {
    let text = status.message();
    let token = ["invalid auth token", "auth store is old", "user name is empty"];
    if token.iter().any(|known| text.contains(known)) {
        return Failure::Token(status);
    }
    match status.code() {
        Code::Unavailable
        | Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Unknown
        | Code::Internal => Failure::Again(status),
        Code::ResourceExhausted if text.contains("too many requests") => Failure::Again(status),
        _ => Failure::Final(status),
    }
}

fn refused(status: &Status) -> StoreError {
    if status.message().contains("database space exceeded") {
        StoreError::NoSpace
    } else {
        unavailable(status)
    }
}

fn unavailable(status: &Status) -> StoreError {
    StoreError::Unavailable(format!("etcd: {}", status.message()))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Code::Unavailable, "etcdserver: leader changed", "again")]
    #[case(Code::Unavailable, "etcdserver: request timed out", "again")]
    #[case(Code::ResourceExhausted, "etcdserver: too many requests", "again")]
    #[case(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", "final")]
    #[case(Code::Unauthenticated, "etcdserver: invalid auth token", "token")]
    #[case(Code::InvalidArgument, "etcdserver: revision of auth store is old", "token")]
    #[case(Code::InvalidArgument, "etcdserver: user name is empty", "token")]
    #[case(Code::PermissionDenied, "etcdserver: permission denied", "final")]
    #[case(Code::InvalidArgument, "etcdserver: too many operations in txn request", "final")]
    fn errors_are_classified_by_their_remedy(
        #[case] code: Code,
        #[case] text: &str,
        #[case] want: &str,
    ) {
        let got = match classify(Status::new(code, text)) {
            Failure::Again(_) => "again",
            Failure::Token(_) => "token",
            Failure::Final(_) => "final",
        };
        assert_eq!(got, want);
    }

    #[test]
    fn a_full_store_is_an_error_of_its_own() {
        let full = Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        assert_eq!(refused(&full), StoreError::NoSpace);
        let other = Status::permission_denied("etcdserver: permission denied");
        let text = "etcd: etcdserver: permission denied".to_owned();
        assert_eq!(refused(&other), StoreError::Unavailable(text));
    }
}
