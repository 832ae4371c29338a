//! The rules that a request must meet before its token is checked.
//! Source of rules and texts: Dapr 1.18, sentry. The limit of the namespace is ours.

use std::fmt;

use identity::TrustDomain;
use proto::sentry::SignCertificateRequest;
use proto::sentry::sign_certificate_request::TokenValidator;

use super::error::AuthnError;

/// Maximum length of an app id, in bytes.
const MAX_APP_ID: usize = 64;
/// Maximum length of a namespace, in bytes: that of an object name in Kubernetes.
const MAX_NAMESPACE: usize = 253;

/// How a caller is authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Validator {
    /// By a Kubernetes service account token, which the API server reviews.
    Kubernetes,
    /// By a token of an identity provider, verified with its keys.
    Jwks,
    /// Not at all; standalone mode only.
    Insecure,
}

impl Validator {
    /// Its name in logs.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Jwks => "jwks",
            Self::Insecure => "insecure",
        }
    }
}

/// The enabled validators. Source of the four combinations: Dapr 1.18, sentry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EnabledValidators {
    /// In a cluster.
    Kubernetes,
    /// In a cluster with an identity provider.
    KubernetesAndJwks,
    /// Standalone.
    Insecure,
    /// Standalone with an identity provider; requests must name it.
    Jwks,
}

impl EnabledValidators {
    /// The validator of a request: the one it names, or the default.
    ///
    /// # Errors
    /// [`AuthnError::NoDefault`] if it names none and there is no default, [`AuthnError::NotEnabled`]
    /// if it names one that is not enabled or unknown.
    pub(crate) fn choose(self, requested: i32) -> Result<Validator, AuthnError> {
        let (enabled, default): (&[Validator], _) = match self {
            Self::Kubernetes => (&[Validator::Kubernetes], Some(Validator::Kubernetes)),
            Self::KubernetesAndJwks => {
                (&[Validator::Kubernetes, Validator::Jwks], Some(Validator::Kubernetes))
            }
            Self::Insecure => (&[Validator::Insecure], Some(Validator::Insecure)),
            Self::Jwks => (&[Validator::Jwks], None),
        };
        let validator = match TokenValidator::try_from(requested) {
            Ok(TokenValidator::Unknown) => return default.ok_or(AuthnError::NoDefault),
            Ok(TokenValidator::Kubernetes) => Validator::Kubernetes,
            Ok(TokenValidator::Jwks) => Validator::Jwks,
            Ok(TokenValidator::Insecure) => Validator::Insecure,
            Err(_) => return Err(AuthnError::NotEnabled),
        };
        if enabled.contains(&validator) { Ok(validator) } else { Err(AuthnError::NotEnabled) }
    }
}

/// A request that meets the common rules. Its claims are not authenticated.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SignRequest {
    /// The requested app id.
    pub(crate) app_id: String,
    /// The requested namespace.
    pub(crate) namespace: String,
    /// The requested trust domain; `public` by default.
    pub(crate) trust_domain: TrustDomain,
    /// The signing request, PEM, not parsed yet.
    pub(crate) csr: Vec<u8>,
    /// The bearer token; never printed.
    pub(crate) token: String,
    /// Additional audiences of JWT SVIDs.
    pub(crate) jwt_audiences: Vec<String>,
}

impl fmt::Debug for SignRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignRequest")
            .field("app_id", &self.app_id)
            .field("namespace", &self.namespace)
            .field("trust_domain", &self.trust_domain)
            .finish_non_exhaustive()
    }
}

impl SignRequest {
    /// Checks the common rules, and for `jwks` that there is a token.
    ///
    /// # Errors
    /// [`AuthnError::NoToken`], [`AuthnError::InvalidRequest`] or [`AuthnError::TrustDomain`].
    pub(crate) fn parse(
        raw: SignCertificateRequest,
        validator: Validator,
    ) -> Result<Self, AuthnError> {
        if validator == Validator::Jwks && raw.token.is_empty() {
            return Err(AuthnError::NoToken);
        }
        let broken = broken_rules(&raw);
        if !broken.is_empty() {
            return Err(AuthnError::InvalidRequest(broken.join("\n")));
        }
        let trust_domain = if raw.trust_domain.is_empty() {
            TrustDomain::public()
        } else {
            TrustDomain::parse(&raw.trust_domain).map_err(AuthnError::TrustDomain)?
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
        (raw.namespace.len() > MAX_NAMESPACE, "namespace must be 253 characters or less"),
    ];
    rules.into_iter().filter_map(|(broken, text)| broken.then_some(text)).collect()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

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
    #[case::long_namespace(raw("a", &"n".repeat(254), "c", ""), "invalid request: namespace must be 253 characters or less")]
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
    fn rejects(#[case] raw: SignCertificateRequest, #[case] want: &str) {
        let error = SignRequest::parse(raw, Validator::Insecure).unwrap_err();
        assert_eq!(error.to_string(), want);
    }

    #[rstest]
    #[case::longest_id(raw(&"a".repeat(64), "n", "c", ""), "public")]
    #[case::longest_namespace(raw("a", &"n".repeat(253), "c", ""), "public")]
    #[case::slash_is_checked_later(raw("a/b", "n", "c", ""), "public")]
    #[case::name(raw("a", "n", "c", "td.example"), "td.example")]
    #[case::id(raw("a", "n", "c", "spiffe://td/whatever"), "td")]
    fn accepts(#[case] raw: SignCertificateRequest, #[case] trust_domain: &str) {
        assert_eq!(
            SignRequest::parse(raw, Validator::Insecure).unwrap().trust_domain.as_str(),
            trust_domain
        );
    }

    #[test]
    fn checks_for_a_token_first() {
        let error =
            SignRequest::parse(SignCertificateRequest::default(), Validator::Jwks).unwrap_err();
        assert_eq!(error.to_string(), "the request does not contain a token");
    }

    const OFF: &str = "the requested validator is not enabled";
    const NONE: &str = "a validator name must be specified in this environment";

    #[rstest]
    #[case(EnabledValidators::Insecure, [Ok(Validator::Insecure), Ok(Validator::Insecure), Err(OFF), Err(OFF), Err(OFF)])]
    #[case(EnabledValidators::Kubernetes, [Ok(Validator::Kubernetes), Err(OFF), Ok(Validator::Kubernetes), Err(OFF), Err(OFF)])]
    #[case(EnabledValidators::KubernetesAndJwks, [Ok(Validator::Kubernetes), Err(OFF), Ok(Validator::Kubernetes), Ok(Validator::Jwks), Err(OFF)])]
    #[case(EnabledValidators::Jwks, [Err(NONE), Err(OFF), Err(OFF), Ok(Validator::Jwks), Err(OFF)])]
    fn chooses_the_validator(
        #[case] enabled: EnabledValidators,
        #[case] want: [Result<Validator, &'static str>; 5],
    ) {
        for (requested, want) in [0, 1, 2, 3, -1].into_iter().zip(want) {
            let got = enabled.choose(requested).map_err(|e| e.to_string());
            assert_eq!(got, want.map_err(str::to_owned), "{requested}");
        }
    }
}
