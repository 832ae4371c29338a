//! The rules that every request must meet before anybody is asked about its token.
//! Source of rules and texts: Dapr 1.18, sentry.

use std::fmt;

use identity::TrustDomain;
use proto::sentry::SignCertificateRequest;
use proto::sentry::sign_certificate_request::TokenValidator;

use crate::error::SignError;

/// The longest app id, in bytes.
const MAX_APP_ID: usize = 64;

/// How callers prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validator {
    /// A Kubernetes service account token, checked by the API server.
    Kubernetes,
    /// Not at all: standalone only.
    Insecure,
}

impl Validator {
    /// The validator of a request: the one it names, which must be the enabled one, or that one.
    ///
    /// # Errors
    /// [`SignError::NotEnabled`], also for numbers that no version defines.
    pub fn choose(self, asked: i32) -> Result<Self, SignError> {
        let own = match self {
            Self::Kubernetes => TokenValidator::Kubernetes,
            Self::Insecure => TokenValidator::Insecure,
        };
        let enabled = asked == i32::from(own) || asked == i32::from(TokenValidator::Unknown);
        if enabled { Ok(self) } else { Err(SignError::NotEnabled) }
    }

    /// As it is named in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Insecure => "insecure",
        }
    }
}

/// A request that meets the rules. What it claims is not proven yet.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// App id asked for.
    pub app_id: String,
    /// Namespace asked for.
    pub namespace: String,
    /// Trust domain asked for; `public` if none.
    pub trust_domain: TrustDomain,
    /// PEM, not read yet.
    pub csr: Vec<u8>,
    /// Bearer token. Never printed.
    pub token: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("app_id", &self.app_id)
            .field("namespace", &self.namespace)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl TryFrom<SignCertificateRequest> for Request {
    type Error = SignError;

    fn try_from(raw: SignCertificateRequest) -> Result<Self, SignError> {
        let broken = broken_rules(&raw);
        if !broken.is_empty() {
            return Err(SignError::InvalidRequest(broken.join("\n")));
        }
        let trust_domain = if raw.trust_domain.is_empty() {
            TrustDomain::public()
        } else {
            TrustDomain::parse(&raw.trust_domain).map_err(SignError::TrustDomain)?
        };
        Ok(Self {
            app_id: raw.id,
            namespace: raw.namespace,
            trust_domain,
            csr: raw.certificate_signing_request,
            token: raw.token,
        })
    }
}

fn broken_rules(raw: &SignCertificateRequest) -> Vec<&'static str> {
    let rules = [
        (raw.id.is_empty(), "parameter app-id cannot be empty"),
        (raw.id.contains('.'), "parameter app-id cannot contain dots"),
        (raw.id.len() > MAX_APP_ID, "app ID must be 64 characters or less"),
        (raw.certificate_signing_request.is_empty(), "CSR is required"),
        (raw.namespace.is_empty(), "namespace is required"),
    ];
    rules.into_iter().filter_map(|(broken, text)| broken.then_some(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn raw(id: &str, namespace: &str, csr: &str, trust_domain: &str) -> SignCertificateRequest {
        SignCertificateRequest {
            id: id.to_owned(),
            namespace: namespace.to_owned(),
            certificate_signing_request: csr.as_bytes().to_vec(),
            trust_domain: trust_domain.to_owned(),
            ..SignCertificateRequest::default()
        }
    }

    #[rstest]
    #[case::no_id(raw("", "n", "c", ""), "invalid request: parameter app-id cannot be empty")]
    #[case::dots(raw("a.b", "n", "c", ""), "invalid request: parameter app-id cannot contain dots")]
    #[case::long(raw(&"a".repeat(65), "n", "c", ""), "invalid request: app ID must be 64 characters or less")]
    #[case::no_csr(raw("a", "n", "", ""), "invalid request: CSR is required")]
    #[case::no_namespace(raw("a", "", "c", ""), "invalid request: namespace is required")]
    #[case::several(
        raw("", "", "", ""),
        "invalid request: parameter app-id cannot be empty\nCSR is required\nnamespace is required"
    )]
    #[case::trust_domain_case(
        raw("a", "n", "c", "Public"),
        "trust domain characters are limited to lowercase letters, numbers, dots, dashes, and underscores"
    )]
    #[case::trust_domain_scheme(raw("a", "n", "c", "http://a"), "scheme is missing or invalid")]
    #[case::trust_domain_empty(raw("a", "n", "c", "spiffe://"), "trust domain is missing")]
    fn refuses_with_permission_denied(#[case] raw: SignCertificateRequest, #[case] want: &str) {
        let status = tonic::Status::from(Request::try_from(raw).unwrap_err());
        assert_eq!((status.code(), status.message()), (tonic::Code::PermissionDenied, want));
    }

    #[rstest]
    #[case::longest_id(raw(&"a".repeat(64), "n", "c", ""), "public")]
    #[case::longest_namespace(raw("a", &"n".repeat(253), "c", ""), "public")]
    #[case::slash_is_judged_later(raw("a/b", "n", "c", ""), "public")]
    #[case::name(raw("a", "n", "c", "td.example"), "td.example")]
    #[case::id(raw("a", "n", "c", "spiffe://td/whatever"), "td")]
    fn accepts(#[case] raw: SignCertificateRequest, #[case] trust_domain: &str) {
        assert_eq!(Request::try_from(raw).unwrap().trust_domain.as_str(), trust_domain);
    }

    #[rstest]
    #[case(Validator::Insecure, 0, true)]
    #[case(Validator::Insecure, 1, true)]
    #[case(Validator::Insecure, 2, false)]
    #[case(Validator::Insecure, 3, false)]
    #[case(Validator::Insecure, -1, false)]
    #[case(Validator::Kubernetes, 0, true)]
    #[case(Validator::Kubernetes, 1, false)]
    #[case(Validator::Kubernetes, 2, true)]
    fn chooses_the_enabled_validator(
        #[case] enabled: Validator,
        #[case] asked: i32,
        #[case] accepted: bool,
    ) {
        assert_eq!(enabled.choose(asked).is_ok(), accepted);
    }
}
