//! The client of sentry: one request, one new key, one connection.
//! Source: Dapr 1.18, how services obtain their identity.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use identity::{CertChain, ChainError, KeyError, PrivateKey, SpiffeId, TrustAnchors, VerifyError};
use proto::sentry::SignCertificateRequest;
use proto::sentry::ca_client::CaClient;
use proto::sentry::sign_certificate_request::TokenValidator;
use tokio::sync::watch;
use tonic::Code;

use runtime::{clock, environment, random};

use super::{CertifiedSvid, CertifiedSvidError, Mode, Options, StartError};
use crate::channel::{self, DialError};
use crate::tls;

/// Deadline of one attempt.
const ATTEMPT: Duration = Duration::from_secs(3);
/// Attempts of one request; only transient errors are retried.
const ATTEMPTS: u32 = 5;
/// Wait between attempts.
const BETWEEN: Duration = Duration::from_millis(50);

const SENTRY_TOKEN: &str = "/var/run/secrets/dapr.io/sentrytoken/token";
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const CONTROL_PLANE: [&str; 5] =
    ["dapr-operator", "dapr-placement", "dapr-injector", "dapr-sentry", "dapr-scheduler"];

/// Why sentry issued no certificate that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    #[error("generate a key")]
    Key(#[source] KeyError),
    #[error("create a certificate request")]
    Csr(#[source] KeyError),
    #[error("DAPR_SENTRY_TOKEN_FILE is set but empty")]
    EmptyTokenFile,
    #[error("read DAPR_SENTRY_TOKEN_FILE {path}")]
    TokenFile {
        path: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("read token {path}")]
    Token {
        path: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("connect to sentry at {address}")]
    Connect {
        address: String,
        #[source]
        cause: DialError,
    },
    #[error("sentry answered {code:?}: {message}")]
    Refused { code: Code, message: String },
    #[error("parse sentry's response")]
    Response(#[source] ChainError),
    #[error("verify the certificate of sentry's response")]
    Untrusted(#[source] VerifyError),
    #[error(transparent)]
    Certified(#[from] CertifiedSvidError),
}

pub(super) struct SentryClient {
    options: Options,
    anchors: watch::Receiver<Arc<TrustAnchors>>,
    tls: Arc<rustls::ClientConfig>,
}

impl SentryClient {
    pub(super) fn new(
        options: Options,
        anchors: watch::Receiver<Arc<TrustAnchors>>,
    ) -> Result<Self, StartError> {
        let sentry =
            SpiffeId::new(&options.trust_domain, &options.control_plane_namespace, "dapr-sentry")
                .map_err(StartError::SentryId)?;
        let tls = tls::anonymous_client(anchors.clone(), sentry)?;
        Ok(Self { options, anchors, tls })
    }

    /// Requests an SVID for a new key. A certificate that peers would reject is an error.
    pub(super) async fn request(&self) -> Result<CertifiedSvid, RequestError> {
        let key = PrivateKey::generate(self.options.key_kind).map_err(RequestError::Key)?;
        let csr = identity::csr_pem(&key).map_err(RequestError::Csr)?;
        let token = read_token(self.options.mode)?;
        let message = self.message(csr, token);
        let chain = self.sign(message).await?;
        let chain = CertChain::parse_pem(&chain).map_err(RequestError::Response)?;
        let anchors = self.anchors.borrow().clone();
        identity::verify_svid(chain.certs(), &anchors, clock::now())
            .map_err(RequestError::Untrusted)?;
        Ok(CertifiedSvid::new(chain, &key)?)
    }

    fn message(&self, csr: String, token: Token) -> SignCertificateRequest {
        let options = &self.options;
        let own = CONTROL_PLANE.contains(&options.app_id.as_str())
            && options.namespace == options.control_plane_namespace;
        let local = environment::var("SENTRY_LOCAL_IDENTITY").filter(|id| !id.is_empty());
        SignCertificateRequest {
            id: local.unwrap_or_else(|| options.app_id.clone()),
            token: token.text,
            trust_domain: if own { options.trust_domain.to_string() } else { String::new() },
            namespace: options.namespace.clone(),
            certificate_signing_request: csr.into_bytes(),
            token_validator: token.validator.into(),
            jwt_audiences: Vec::new(),
        }
    }

    async fn sign(&self, message: SignCertificateRequest) -> Result<Vec<u8>, RequestError> {
        let address = &self.options.sentry_address;
        let channel = channel::dial(address, self.tls.clone())
            .await
            .map_err(|cause| RequestError::Connect { address: address.clone(), cause })?;
        let mut client = CaClient::new(channel);
        let mut attempt = 1;
        loop {
            let call = client.sign_certificate(message.clone());
            let status = match tokio::time::timeout(ATTEMPT, call).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner().workload_certificate),
                Ok(Err(status)) => status,
                Err(_) => tonic::Status::deadline_exceeded("sentry did not answer in time"),
            };
            let transient = matches!(
                status.code(),
                Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded
            );
            if !transient || attempt == ATTEMPTS {
                let message = status.message().to_owned();
                return Err(RequestError::Refused { code: status.code(), message });
            }
            attempt += 1;
            tokio::time::sleep(random::jittered(BETWEEN, 0.1)).await;
        }
    }
}

/// The token that authenticates this process. Never logged.
struct Token {
    text: String,
    validator: TokenValidator,
}

/// Reads the token; for each request, because projected tokens rotate.
fn read_token(mode: Mode) -> Result<Token, RequestError> {
    if let Some(path) = environment::var("DAPR_SENTRY_TOKEN_FILE") {
        if path.is_empty() {
            return Err(RequestError::EmptyTokenFile);
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|cause| RequestError::TokenFile { path, cause })?;
        let validator = match mode {
            Mode::Kubernetes => TokenValidator::Kubernetes,
            Mode::Standalone => TokenValidator::Jwks,
        };
        return Ok(Token { text, validator });
    }
    if mode == Mode::Kubernetes {
        for path in [SENTRY_TOKEN, POD_TOKEN] {
            match std::fs::read_to_string(path) {
                Ok(text) if text.is_empty() => {}
                Ok(text) => return Ok(Token { text, validator: TokenValidator::Kubernetes }),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(cause) => return Err(RequestError::Token { path, cause }),
            }
        }
    }
    Ok(Token { text: String::new(), validator: TokenValidator::Unknown })
}
