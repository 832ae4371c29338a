//! Why a certificate was not issued, and the one mapping of that to gRPC.
//! Source of codes and texts: Dapr 1.18, sentry `SignCertificate`. Deviation: what may be better in
//! a moment is `Unavailable` or `ResourceExhausted`, which clients try again, while anything else
//! ends a sidecar.

use identity::{CsrError, IssueError, SpiffeError, TokenError};
use tonic::Status;

use crate::jwt_svid::JwtSvidError;
use crate::pod_identity::Refusal;

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The validator is not enabled, or does not exist.
    #[error("the requested validator is not enabled")]
    NotEnabled,
    /// No validator is named, and there is no default one.
    #[error("a validator name must be specified in this environment")]
    NoDefault,
    /// The token of an identity provider is missing.
    #[error("the request does not contain a token")]
    NoToken,
    /// What the request asks for cannot be the subject of a token.
    #[error("failed to construct SPIFFE ID for requestor: {0}")]
    Requestor(SpiffeError),
    /// The token of an identity provider does not prove it.
    #[error("token validation failed: {0}")]
    Token(TokenError),
    /// The rules of every request; the text lists those that are broken, one per line.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The trust domain asked for.
    #[error(transparent)]
    TrustDomain(SpiffeError),
    /// The token does not prove what the request asks for.
    #[error(transparent)]
    Refused(Refusal),
    /// The caches of pods and configurations are not filled yet.
    #[error("validator not ready")]
    ValidatorNotReady,
    /// The API server did not answer, or not in time.
    #[error("the Kubernetes API cannot be asked now: {0}")]
    ApiUnavailable(String),
    /// Too many requests at once.
    #[error("sentry has too many requests at the moment")]
    Overloaded,
    /// The signing request.
    #[error(transparent)]
    Csr(CsrError),
    /// The ids are no legal SPIFFE segments.
    #[error("name the identity")]
    Id(#[source] SpiffeError),
    /// There is no CA, or it cannot sign any more.
    #[error("sentry has no usable CA: {0}")]
    NoCa(String),
    /// JWT SVIDs are issued, and there is no key for them yet.
    #[error("sentry has no usable JWT key")]
    NoJwtKey,
    /// The JWT SVIDs cannot be made.
    #[error(transparent)]
    Jwt(JwtSvidError),
    /// Signing failed.
    #[error("issue the certificate")]
    Issue(#[source] IssueError),
}

impl SignError {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::NotEnabled | Self::NoDefault => "validator",
            Self::InvalidRequest(_) | Self::TrustDomain(_) | Self::Requestor(_) => "request",
            Self::NoToken | Self::Token(_) => "token",
            Self::Refused(refusal) => refusal.label(),
            Self::ValidatorNotReady | Self::ApiUnavailable(_) => "api_unavailable",
            Self::Overloaded => "overload",
            Self::Csr(_) => "csr",
            Self::NoCa(_) | Self::NoJwtKey => "no_ca",
            Self::Id(_) | Self::Issue(_) | Self::Jwt(_) => "sign",
        }
    }
}

impl From<SignError> for Status {
    fn from(e: SignError) -> Self {
        match &e {
            SignError::NotEnabled | SignError::NoDefault => Self::invalid_argument(e.to_string()),
            SignError::InvalidRequest(_)
            | SignError::TrustDomain(_)
            | SignError::Requestor(_)
            | SignError::NoToken
            | SignError::Token(_)
            | SignError::Refused(_) => Self::permission_denied(e.to_string()),
            SignError::ValidatorNotReady
            | SignError::ApiUnavailable(_)
            | SignError::NoCa(_)
            | SignError::NoJwtKey => Self::unavailable(e.to_string()),
            SignError::Jwt(_) => Self::internal(e.to_string()),
            SignError::Overloaded => Self::resource_exhausted(e.to_string()),
            SignError::Csr(CsrError::Pem) => {
                Self::invalid_argument("invalid certificate signing request")
            }
            SignError::Csr(CsrError::Signature) => Self::invalid_argument("invalid signature"),
            SignError::Csr(
                cause @ (CsrError::Structure
                | CsrError::Trailing
                | CsrError::Curve
                | CsrError::ShortKey),
            ) => Self::invalid_argument(format!(
                "failed to parse certificate signing request: {cause}"
            )),
            // The cause is for the log only.
            SignError::Id(_) | SignError::Issue(_) => Self::internal("failed to sign certificate"),
        }
    }
}
