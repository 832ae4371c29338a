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
    /// A token of an identity provider, checked with its keys.
    Jwks,
    /// Not at all: standalone only.
    Insecure,
}

impl Validator {
    /// As it is named in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Jwks => "jwks",
            Self::Insecure => "insecure",
        }
    }
}

/// The validators of a running sentry. Source of the four combinations: Dapr 1.18, sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// In a cluster.
    Kubernetes,
    /// In a cluster with an identity provider.
    KubernetesAndJwks,
    /// Standalone.
    Insecure,
    /// Standalone with an identity provider: callers have to name it.
    Jwks,
}

impl Offer {
    /// The validator of a request: the one it names, or the default one.
    ///
    /// # Errors
    /// [`SignError::NoDefault`] if it names none and there is no default, [`SignError::NotEnabled`]
    /// if it names another one, also of a number that no version defines.
    pub fn choose(self, asked: i32) -> Result<Validator, SignError> {
        let (enabled, default): (&[Validator], _) = match self {
            Self::Kubernetes => (&[Validator::Kubernetes], Some(Validator::Kubernetes)),
            Self::KubernetesAndJwks => {
                (&[Validator::Kubernetes, Validator::Jwks], Some(Validator::Kubernetes))
            }
            Self::Insecure => (&[Validator::Insecure], Some(Validator::Insecure)),
            Self::Jwks => (&[Validator::Jwks], None),
        };
        let validator = match TokenValidator::try_from(asked) {
            Ok(TokenValidator::Unknown) => return default.ok_or(SignError::NoDefault),
            Ok(TokenValidator::Kubernetes) => Validator::Kubernetes,
            Ok(TokenValidator::Jwks) => Validator::Jwks,
            Ok(TokenValidator::Insecure) => Validator::Insecure,
            Err(_) => return Err(SignError::NotEnabled),
        };
        if enabled.contains(&validator) { Ok(validator) } else { Err(SignError::NotEnabled) }
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
    /// Who else JWT SVIDs are meant for.
    pub jwt_audiences: Vec<String>,
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

impl Request {
    /// Checks what is true of every request, and for `jwks` that there is a token.
    ///
    /// # Errors
    /// [`SignError::NoToken`], [`SignError::InvalidRequest`] or [`SignError::TrustDomain`].
    pub fn read(raw: SignCertificateRequest, validator: Validator) -> Result<Self, SignError> {
        if validator == Validator::Jwks && raw.token.is_empty() {
            return Err(SignError::NoToken);
        }
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
            jwt_audiences: raw.jwt_audiences,
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
        let status = tonic::Status::from(Request::read(raw, Validator::Insecure).unwrap_err());
        assert_eq!((status.code(), status.message()), (tonic::Code::PermissionDenied, want));
    }

    #[rstest]
    #[case::longest_id(raw(&"a".repeat(64), "n", "c", ""), "public")]
    #[case::longest_namespace(raw("a", &"n".repeat(253), "c", ""), "public")]
    #[case::slash_is_judged_later(raw("a/b", "n", "c", ""), "public")]
    #[case::name(raw("a", "n", "c", "td.example"), "td.example")]
    #[case::id(raw("a", "n", "c", "spiffe://td/whatever"), "td")]
    fn accepts(#[case] raw: SignCertificateRequest, #[case] trust_domain: &str) {
        assert_eq!(
            Request::read(raw, Validator::Insecure).unwrap().trust_domain.as_str(),
            trust_domain
        );
    }

    #[test]
    fn a_token_is_missed_before_anything_else() {
        let error = Request::read(SignCertificateRequest::default(), Validator::Jwks).unwrap_err();
        assert_eq!(error.to_string(), "the request does not contain a token");
    }

    const OFF: &str = "the requested validator is not enabled";
    const NONE: &str = "a validator name must be specified in this environment";

    #[rstest]
    #[case(Offer::Insecure, [Ok(Validator::Insecure), Ok(Validator::Insecure), Err(OFF), Err(OFF), Err(OFF)])]
    #[case(Offer::Kubernetes, [Ok(Validator::Kubernetes), Err(OFF), Ok(Validator::Kubernetes), Err(OFF), Err(OFF)])]
    #[case(Offer::KubernetesAndJwks, [Ok(Validator::Kubernetes), Err(OFF), Ok(Validator::Kubernetes), Ok(Validator::Jwks), Err(OFF)])]
    #[case(Offer::Jwks, [Err(NONE), Err(OFF), Err(OFF), Ok(Validator::Jwks), Err(OFF)])]
    fn chooses_the_validator(
        #[case] offer: Offer,
        #[case] want: [Result<Validator, &'static str>; 5],
    ) {
        for (asked, want) in [0, 1, 2, 3, -1].into_iter().zip(want) {
            let got = offer.choose(asked).map_err(|e| tonic::Status::from(e).message().to_owned());
            assert_eq!(got, want.map_err(str::to_owned), "{asked}");
        }
    }
}
