//! Why a certificate was not issued, and its mapping to gRPC.
//! Source of codes and texts: Dapr 1.18, sentry `SignCertificate`. Deviation: transient failures are
//! `Unavailable` or `ResourceExhausted`, which clients retry; any other code ends a sidecar.

use identity::{CsrError, SpiffeError};
use tonic::Status;

use crate::authn::AuthnError;
use crate::ca::IssueFailure;
use crate::jwt::svid::JwtSvidError;
use crate::queue::QueueFull;

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    /// The request was not authenticated.
    #[error(transparent)]
    Authn(#[from] AuthnError),
    /// Too many requests at once.
    #[error(transparent)]
    Overloaded(#[from] QueueFull),
    /// The signing request is invalid.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// App id or namespace is not a legal SPIFFE path segment.
    #[error("name the identity")]
    Id(#[source] SpiffeError),
    /// The CA did not sign.
    #[error(transparent)]
    Ca(#[from] IssueFailure),
    /// JWT SVIDs are enabled and no key is loaded yet.
    #[error("sentry has no usable JWT key")]
    NoJwtKey,
    /// The JWT SVIDs could not be issued.
    #[error(transparent)]
    Jwt(#[from] JwtSvidError),
}

impl SignError {
    /// The label of this error in metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Authn(e) => e.label(),
            Self::Overloaded(_) => "overload",
            Self::Csr(_) => "csr",
            Self::Ca(IssueFailure::NoCa(_)) | Self::NoJwtKey => "no_ca",
            Self::Id(_) | Self::Ca(IssueFailure::Sign(_)) | Self::Jwt(_) => "sign",
        }
    }
}

impl From<SignError> for Status {
    fn from(e: SignError) -> Self {
        match &e {
            SignError::Authn(authn) => authn_status(authn),
            SignError::Overloaded(_) => Self::resource_exhausted(e.to_string()),
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
            SignError::Ca(IssueFailure::NoCa(_)) | SignError::NoJwtKey => {
                Self::unavailable(e.to_string())
            }
            SignError::Jwt(_) => Self::internal(e.to_string()),
            // The cause is only logged.
            SignError::Id(_) | SignError::Ca(IssueFailure::Sign(_)) => {
                Self::internal("failed to sign certificate")
            }
        }
    }
}

fn authn_status(e: &AuthnError) -> Status {
    match e {
        AuthnError::NotEnabled | AuthnError::NoDefault => Status::invalid_argument(e.to_string()),
        AuthnError::InvalidRequest(_)
        | AuthnError::TrustDomain(_)
        | AuthnError::Requestor(_)
        | AuthnError::NoToken
        | AuthnError::Token(_)
        | AuthnError::Refused(_) => Status::permission_denied(e.to_string()),
        AuthnError::NotReady | AuthnError::ApiUnavailable(_) => Status::unavailable(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn transient_failures_are_retried_by_clients() {
        for (error, code) in [
            (SignError::Overloaded(QueueFull), Code::ResourceExhausted),
            (SignError::Ca(IssueFailure::NoCa("none is loaded".to_owned())), Code::Unavailable),
            (SignError::Authn(AuthnError::NotReady), Code::Unavailable),
            (SignError::NoJwtKey, Code::Unavailable),
        ] {
            let text = error.to_string();
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, text.as_str()));
        }
    }
}
