//! The gRPC server: decode, authenticate, sign, encode; one audit line per request.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use identity::{Csr, IssuedLeaf, SpiffeId};
use proto::sentry::ca_server::{Ca, CaServer};
use proto::sentry::{SignCertificateRequest, SignCertificateResponse};
use runtime::server::{GRPC_HEADER_BYTES, Limits};
use runtime::{clock, random};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::Status;
use transport::Peer;

use crate::authn::dns_names::dns_names;
use crate::authn::{Authenticator, AuthnError, Identity, SignRequest};
use crate::ca::{Authority, LeafSpec};
use crate::error::SignError;
use crate::jwt::JwtKeys;
use crate::jwt::svid::{self, JwtSvids, TokenTimes};
use crate::metrics::Metrics;
use crate::queue::{AdmissionQueue, PeerKey, QueueFull, QueueKey};

mod audit;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use audit::{AuditLog, Requested};

/// Requests processed concurrently. They mostly wait for the API server, which limits and queues
/// requests of all its clients.
const MAX_CONCURRENT: usize = 64;
/// Requests that wait for admission. At a thousand certificates per second a cold start of ten
/// thousand sidecars fits, retries included.
const MAX_WAITING: usize = 8192;
/// Maximum size of a request. The largest legitimate one, with an RSA-4096 CSR, a token and 32
/// audiences, has about 10 KiB.
const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Open requests of one address: one on each connection that it may have.
const MAX_OPEN_PER_ADDRESS: usize = 5_120;
/// Bytes of requests that are not complete yet, and of those from one address: 512 requests of usual
/// size, each complete in milliseconds. They occupy up to three times as much while they are read.
const MAX_UNFINISHED_BYTES: usize = 16 * 1024 * 1024;
const MAX_UNFINISHED_BYTES_PER_ADDRESS: usize = 8 * 1024 * 1024;
/// What a peer may send before it is read: a usual request on a stream, and on a connection as little as
/// HTTP/2 allows (RFC 9113 §6.9.2). Peers that wait for room hold as much of each connection.
const STREAM_WINDOW_BYTES: u32 = 16 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024;
/// Deadline of a request from its headers to its response, its body included.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// Deadline of a decoded request. Clients time out after 3 seconds.
const RESPONSE_DEADLINE: Duration = Duration::from_millis(2800);
/// Maximum wait for admission. A request that is admitted later would miss its deadline.
const ADMISSION_TIMEOUT: Duration = Duration::from_millis(2400);

/// The limits of the gRPC port. Clients have no certificate, so the limits of unauthenticated peers
/// apply: a connection holds 16 requests, and 64 KiB that are not read yet.
pub(crate) fn limits() -> Limits {
    Limits {
        body_bytes: MAX_REQUEST_BYTES + GRPC_HEADER_BYTES,
        requests_per_peer: MAX_OPEN_PER_ADDRESS,
        unfinished_bytes: MAX_UNFINISHED_BYTES,
        unfinished_bytes_per_address: MAX_UNFINISHED_BYTES_PER_ADDRESS,
        stream_window_bytes: STREAM_WINDOW_BYTES,
        connection_window_bytes: CONNECTION_WINDOW_BYTES,
        request: REQUEST_DEADLINE,
        ..Limits::default()
    }
}

/// Serves the method of [`CaService`] with a limit on the size of a request.
pub(crate) fn router(service: CaService) -> Router {
    let server = CaServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
    tonic::service::Routes::new(server).into_axum_router()
}

/// The service `dapr.proto.sentry.v1.CA`.
pub(crate) struct CaService {
    authenticator: Authenticator,
    authority: Authority,
    jwt: Option<JwtKeys>,
    metrics: Metrics,
    namespace: String,
    dns_suffixes: Vec<String>,
    concurrency: Concurrency,
    audit: AuditLog,
}

/// The limits of concurrent work.
struct Concurrency {
    admission: AdmissionQueue,
    /// Limits concurrent RSA signatures to the number of processors.
    slow_signatures: Arc<Semaphore>,
}

/// An issued certificate with its tokens.
struct Issued {
    identity: Identity,
    leaf: IssuedLeaf,
    anchors: String,
    jwt: Option<JwtSvids>,
}

impl CaService {
    /// `namespace` is that of the control plane, `dns_suffixes` are the possible DNS domains of the
    /// cluster. Without `jwt` no JWT SVIDs are issued.
    pub(crate) fn new(
        authenticator: Authenticator,
        authority: Authority,
        jwt: Option<JwtKeys>,
        metrics: Metrics,
        namespace: String,
        dns_suffixes: Vec<String>,
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let concurrency = Concurrency {
            admission: AdmissionQueue::new(MAX_CONCURRENT, MAX_WAITING),
            slow_signatures: Arc::new(Semaphore::new(processors)),
        };
        let audit = AuditLog::new(metrics.clone());
        Self { authenticator, authority, jwt, metrics, namespace, dns_suffixes, concurrency, audit }
    }

    async fn handle(
        &self,
        raw: SignCertificateRequest,
        peer: PeerKey,
    ) -> Result<Issued, SignError> {
        let deadline = Instant::now() + RESPONSE_DEADLINE;
        let validator = self.authenticator.enabled().choose(raw.token_validator)?;
        let request = SignRequest::parse(raw, validator)?;
        self.authenticator.precheck(&request, validator)?;
        let key = QueueKey { peer, namespace: request.namespace.clone() };
        let _permit = self.concurrency.admission.admit(key, ADMISSION_TIMEOUT).await?;
        let identity = self.authenticator.authenticate(&request, validator);
        let timed_out = |_| AuthnError::ApiUnavailable("it did not respond in time".to_owned());
        let identity = tokio::time::timeout_at(deadline, identity).await.map_err(timed_out)??;
        let names = dns_names(&identity, &self.namespace, &self.dns_suffixes);
        let signing = Signing {
            authority: self.authority.clone(),
            jwt: self.jwt.clone(),
            identity,
            names,
            request,
        };
        self.sign(signing, deadline).await
    }

    /// An Ed25519 or ECDSA signature takes less time than the hand-over to another thread. An RSA
    /// signature, of a certificate or of tokens, takes milliseconds and must not block the threads
    /// that serve connections.
    async fn sign(&self, signing: Signing, deadline: Instant) -> Result<Issued, SignError> {
        if self.jwt.is_none() && !self.authority.signs_slowly() {
            return signing.run();
        }
        let permit = self.concurrency.slow_signatures.acquire();
        let Ok(Ok(_permit)) = tokio::time::timeout_at(deadline, permit).await else {
            return Err(QueueFull.into());
        };
        let work = tokio::task::spawn_blocking(move || signing.run());
        work.await.unwrap_or_else(|_| Err(QueueFull.into()))
    }
}

/// The input of a signature.
struct Signing {
    authority: Authority,
    jwt: Option<JwtKeys>,
    identity: Identity,
    names: Vec<String>,
    request: SignRequest,
}

impl Signing {
    fn run(self) -> Result<Issued, SignError> {
        let csr = Csr::parse_pem(&self.request.csr)?;
        let id = self.identity.spiffe_id().map_err(SignError::Id)?;
        let images = self.identity.container_images.as_ref();
        let spec = LeafSpec {
            id: &id,
            dns_names: &self.names,
            container_images: images.map(|images| &*images.json),
        };
        let (bundle, leaf) = self.authority.issue(&csr, spec, clock::now(), random::fraction())?;
        let jwt = self.jwt.as_ref().map(|keys| self.tokens(keys, &id)).transpose()?;
        let anchors = bundle.anchors().pem().to_owned();
        Ok(Issued { identity: self.identity, leaf, anchors, jwt })
    }

    fn tokens(&self, keys: &JwtKeys, id: &SpiffeId) -> Result<JwtSvids, SignError> {
        let authority = keys.current().ok_or(SignError::NoJwtKey)?;
        let times = TokenTimes {
            now: clock::now(),
            ttl: keys.config.ttl,
            clock_skew: self.authority.settings().clock_skew,
        };
        let unique = || [random::bits(), random::bits()];
        let (issuer, audiences) = (keys.config.issuer.as_deref(), &self.request.jwt_audiences);
        Ok(svid::issue(&authority.signer, issuer, id, audiences, times, unique)?)
    }
}

#[tonic::async_trait]
impl Ca for CaService {
    async fn sign_certificate(
        &self,
        request: tonic::Request<SignCertificateRequest>,
    ) -> Result<tonic::Response<SignCertificateResponse>, Status> {
        self.metrics.received();
        let address = request.extensions().get::<Peer>().map(|peer| peer.addr);
        let raw = request.into_inner();
        let requested = Requested::new(&raw, self.authenticator.enabled(), address);
        let peer = PeerKey::new(address.map(|address| address.ip()));
        match self.handle(raw, peer).await {
            Ok(issued) => {
                AuditLog::issued(&requested, &issued.identity, &issued.leaf);
                self.metrics.issued();
                Ok(tonic::Response::new(encode(issued)))
            }
            Err(e) => {
                self.audit.refused(&requested, &e);
                self.metrics.refused(e.label());
                Err(e.into())
            }
        }
    }
}

fn encode(issued: Issued) -> SignCertificateResponse {
    let (jwt, per_audience_jwts) =
        issued.jwt.map_or_else(Default::default, |svids| (Some(svids.all), svids.each));
    let chain = &issued.leaf.chain;
    SignCertificateResponse {
        workload_certificate: chain.to_pem().into_bytes(),
        trust_chain_certificates: vec![issued.anchors.into_bytes()],
        valid_until: Some(prost_types::Timestamp {
            seconds: chain.not_after().as_second(),
            nanos: 0,
        }),
        jwt,
        per_audience_jwts,
    }
}
