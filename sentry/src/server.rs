//! The gRPC method: decode, prove, sign, encode; one audit line per request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use identity::{Csr, IssuedLeaf, SpiffeId};
use proto::sentry::ca_server::Ca;
use proto::sentry::{SignCertificateRequest, SignCertificateResponse};
use runtime::{clock, random};
use tokio::sync::Semaphore;
use tonic::{Response, Status};
use transport::Peer;

use crate::authority::Authority;
use crate::dns_names::dns_names;
use crate::error::SignError;
use crate::identify::{Identifier, Proven};
use crate::metrics::Metrics;
use crate::request::Request;

/// How long a request may wait for its turn to be signed; clients give up after 3 seconds.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The service `dapr.proto.sentry.v1.CA`.
pub struct CaService {
    identifier: Identifier,
    authority: Authority,
    metrics: Metrics,
    namespace: String,
    dns_suffixes: Vec<String>,
    /// Signing is work for the processor: more at once would only make all of them slower.
    signers: Arc<Semaphore>,
}

/// A certificate that was issued, as the client gets it and as the audit line tells it.
struct Issued {
    id: SpiffeId,
    proven: Proven,
    leaf: IssuedLeaf,
    anchors: String,
}

impl CaService {
    /// `namespace` is the control plane's; `dns_suffixes` are the cluster's possible DNS domains.
    pub fn new(
        identifier: Identifier,
        authority: Authority,
        metrics: Metrics,
        namespace: String,
        dns_suffixes: Vec<String>,
    ) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let signers = Arc::new(Semaphore::new(processors));
        Self { identifier, authority, metrics, namespace, dns_suffixes, signers }
    }

    async fn handle(&self, raw: SignCertificateRequest) -> Result<Issued, SignError> {
        self.identifier.validator().choose(raw.token_validator)?;
        let request = Request::try_from(raw)?;
        let proven = self.identifier.prove(&request).await?;
        let turn = tokio::time::timeout(MAX_WAIT, self.signers.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(SignError::Overloaded) };
        let names = dns_names(&proven, &self.namespace, &self.dns_suffixes);
        let authority = self.authority.clone();
        // An RSA issuer takes milliseconds: not on the threads that serve connections.
        let work = tokio::task::spawn_blocking(move || {
            let csr = Csr::parse_pem(&request.csr).map_err(SignError::Csr)?;
            let id = proven.spiffe_id()?;
            let (bundle, leaf) =
                authority.issue(&csr, &id, &names, clock::now(), random::fraction())?;
            Ok(Issued { id, proven, leaf, anchors: bundle.anchors().pem().to_owned() })
        });
        work.await.unwrap_or(Err(SignError::Overloaded))
    }

    fn audit(&self, asked: &Asked, peer: Option<SocketAddr>, outcome: &Result<Issued, SignError>) {
        let validator = self.identifier.validator().label();
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
}

/// What a request asks for, kept for the audit line; cut, because anybody can send anything.
struct Asked {
    id: String,
    namespace: String,
}

impl Asked {
    fn new(raw: &SignCertificateRequest) -> Self {
        const LONGEST: usize = 256;
        let cut = |text: &str| text.chars().take(LONGEST).collect();
        Self { id: cut(&raw.id), namespace: cut(&raw.namespace) }
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
        let asked = Asked::new(&raw);
        let outcome = self.handle(raw).await;
        self.audit(&asked, peer, &outcome);
        match outcome {
            Ok(issued) => {
                self.metrics.issued();
                Ok(Response::new(encode(&issued)))
            }
            Err(e) => {
                self.metrics.refused(&e);
                Err(e.into())
            }
        }
    }
}

fn encode(issued: &Issued) -> SignCertificateResponse {
    let chain = &issued.leaf.chain;
    SignCertificateResponse {
        workload_certificate: chain.to_pem().into_bytes(),
        trust_chain_certificates: vec![issued.anchors.clone().into_bytes()],
        valid_until: Some(prost_types::Timestamp {
            seconds: chain.not_after().as_second(),
            nanos: 0,
        }),
        jwt: None,
        per_audience_jwts: std::collections::HashMap::new(),
    }
}
