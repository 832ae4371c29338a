//! The gRPC method: decode, prove, sign, encode; one audit line per request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::{Csr, IssuedLeaf, SpiffeId};
use proto::sentry::ca_server::Ca;
use proto::sentry::{SignCertificateRequest, SignCertificateResponse};
use runtime::{clock, random};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tonic::{Response, Status};
use transport::Peer;

use crate::authority::Authority;
use crate::dns_names::dns_names;
use crate::error::SignError;
use crate::identify::{Identifier, Proven};
use crate::jwt_keeper::JwtKeys;
use crate::jwt_svid::{self, JwtSvids, TokenTimes};
use crate::metrics::Metrics;
use crate::request::{Offer, Request, Validator};
use crate::turns::{NoTurn, Turns};

/// Requests worked for at once. Most of their time they wait for the API server, which has a queue
/// of its own that is shared with everybody else.
const AT_ONCE: usize = 64;
/// Requests that wait for their turn. At a thousand certificates a second a cold start of ten
/// thousand sidecars fits, with their own attempts; a request is about three KiB.
const WAITING: usize = 8192;
/// Clients give up after 3 seconds, and then nobody reads the answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(2800);
/// A request whose turn comes later than this would not be answered in time.
const TURN_WITHIN: Duration = Duration::from_millis(2400);

/// The service `dapr.proto.sentry.v1.CA`.
pub struct CaService {
    identifier: Identifier,
    authority: Authority,
    jwt: Option<JwtKeys>,
    metrics: Metrics,
    namespace: String,
    dns_suffixes: Vec<String>,
    turns: Turns,
    /// Slow signatures at once: more would only make all of them slower.
    slow_signers: Arc<Semaphore>,
}

/// A certificate that was issued, as the client gets it and as the audit line tells it.
struct Issued {
    id: SpiffeId,
    proven: Proven,
    leaf: IssuedLeaf,
    anchors: String,
    jwt: Option<JwtSvids>,
}

impl CaService {
    /// `jwt` makes JWT SVIDs, if there are to be any; `namespace` is the control plane's; `dns_suffixes` are the cluster's possible DNS domains.
    pub fn new(
        identifier: Identifier,
        authority: Authority,
        jwt: Option<JwtKeys>,
        metrics: Metrics,
        namespace: String,
        dns_suffixes: Vec<String>,
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let slow_signers = Arc::new(Semaphore::new(processors));
        let turns = Turns::new(AT_ONCE, WAITING);
        Self { identifier, authority, jwt, metrics, namespace, dns_suffixes, turns, slow_signers }
    }

    async fn handle(&self, raw: SignCertificateRequest) -> Result<Issued, SignError> {
        let deadline = Instant::now() + ANSWER_WITHIN;
        let validator = self.identifier.offer().choose(raw.token_validator)?;
        let request = Request::read(raw, validator)?;
        let turn = self.turns.take(&request.namespace, TURN_WITHIN).await;
        let _turn = turn.map_err(|NoTurn| SignError::Overloaded)?;
        let proven =
            tokio::time::timeout_at(deadline, self.identifier.prove(&request, validator)).await;
        let proven = proven
            .map_err(|_| SignError::ApiUnavailable("it did not answer in time".to_owned()))??;
        let names = dns_names(&proven, &self.namespace, &self.dns_suffixes);
        let signing = Signing {
            authority: self.authority.clone(),
            jwt: self.jwt.clone(),
            proven,
            names,
            request,
        };
        self.sign(signing, deadline).await
    }

    /// An Ed25519 or ECDSA signature takes less time than handing it to another thread would; an
    /// RSA one, of a certificate or of tokens, takes milliseconds and must not hold up the threads
    /// that serve connections.
    async fn sign(&self, signing: Signing, deadline: Instant) -> Result<Issued, SignError> {
        if self.jwt.is_none() && !self.authority.signs_slowly() {
            return signing.run();
        }
        let permit = tokio::time::timeout_at(deadline, self.slow_signers.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(SignError::Overloaded) };
        let work = tokio::task::spawn_blocking(move || signing.run());
        work.await.unwrap_or(Err(SignError::Overloaded))
    }
}

/// The audit line of a request.
fn audit(asked: &Asked, peer: Option<SocketAddr>, outcome: &Result<Issued, SignError>) {
    let validator = asked.validator;
    let peer = peer.map(|addr| addr.to_string()).unwrap_or_default();
    match outcome {
        Ok(issued) => {
            let pod = issued.proven.pod.as_ref();
            tracing::info!(target: "dapr.sentry.audit",
                    spiffe_id = %issued.id, validator, peer,
                    pod = pod.map(|pod| pod.name.as_str()),
                    pod_uid = pod.map(|pod| pod.uid.as_str()),
                    service_account = pod.map(|pod| pod.service_account.as_str()),
                    serial = issued.leaf.serial(),
                    sha256 = issued.leaf.sha256(),
                    not_after = %issued.leaf.chain.not_after(),
                    shortened = issued.leaf.shortened,
                    "certificate issued");
        }
        Err(e) => {
            tracing::warn!(target: "dapr.sentry.audit",
                    requested_id = asked.id, requested_namespace = asked.namespace, validator, peer,
                    reason = e.label(), error = runtime::chain(e),
                    "certificate refused");
        }
    }
}

/// All that a signature needs.
struct Signing {
    authority: Authority,
    jwt: Option<JwtKeys>,
    proven: Proven,
    names: Vec<String>,
    request: Request,
}

impl Signing {
    fn run(self) -> Result<Issued, SignError> {
        let csr = Csr::parse_pem(&self.request.csr).map_err(SignError::Csr)?;
        let id = self.proven.spiffe_id()?;
        let (bundle, leaf) =
            self.authority.issue(&csr, &id, &self.names, clock::now(), random::fraction())?;
        let jwt = self.jwt.as_ref().map(|keys| self.tokens(keys, &id)).transpose()?;
        let anchors = bundle.anchors().pem().to_owned();
        Ok(Issued { id, proven: self.proven, leaf, anchors, jwt })
    }

    fn tokens(&self, keys: &JwtKeys, id: &SpiffeId) -> Result<JwtSvids, SignError> {
        let authority = keys.current().ok_or(SignError::NoJwtKey)?;
        let times = TokenTimes {
            now: clock::now(),
            ttl: keys.config.ttl,
            clock_skew: self.authority.settings().clock_skew,
        };
        let unique = || [random::bits(), random::bits()];
        let (issuer, asked) = (keys.config.issuer.as_deref(), &self.request.jwt_audiences);
        jwt_svid::issue(&authority.signer, issuer, id, asked, times, unique).map_err(SignError::Jwt)
    }
}

/// What a request asks for, kept for the audit line; cut, because anybody can send anything.
struct Asked {
    id: String,
    namespace: String,
    validator: &'static str,
}

impl Asked {
    fn new(raw: &SignCertificateRequest, offer: Offer) -> Self {
        const LONGEST: usize = 256;
        let cut = |text: &str| text.chars().take(LONGEST).collect();
        let validator = offer.choose(raw.token_validator).map_or("none", Validator::label);
        Self { id: cut(&raw.id), namespace: cut(&raw.namespace), validator }
    }
}

#[tonic::async_trait]
impl Ca for CaService {
    async fn sign_certificate(
        &self,
        request: tonic::Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        self.metrics.received();
        let peer = request.extensions().get::<Peer>().map(|peer| peer.addr);
        let raw = request.into_inner();
        let asked = Asked::new(&raw, self.identifier.offer());
        let outcome = self.handle(raw).await;
        audit(&asked, peer, &outcome);
        match outcome {
            Ok(issued) => {
                self.metrics.issued();
                Ok(Response::new(encode(issued)))
            }
            Err(e) => {
                self.metrics.refused(&e);
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
