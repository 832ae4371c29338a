//! From a request to an authenticated identity. The rules are in [`super::pod_identity`]; this is
//! the I/O around them.

use std::sync::Arc;
use std::time::Duration;

use identity::{Expected, SpiffeError, SpiffeId, TrustDomain};
use runtime::clock;

use super::cluster::Kubernetes;
use super::container_images::ContainerImages;
use super::error::AuthnError;
use super::jwks_keys::Keys;
use super::pod_identity::{self, ControlPlane, TrustDomainSource};
use super::request::{EnabledValidators, SignRequest, Validator};
use super::token_precheck;

/// An authenticated identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) app_id: String,
    pub(crate) namespace: String,
    pub(crate) trust_domain: TrustDomain,
    /// Whether it may have the DNS names of a control plane service.
    pub(crate) may_have_dns_names: bool,
    /// The pod that holds it, for the audit log.
    pub(crate) pod: Option<PodRecord>,
    /// The container images of the pod.
    pub(crate) container_images: Option<ContainerImages>,
}

/// The pod of an authenticated identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PodRecord {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) service_account: String,
}

impl Identity {
    /// The SPIFFE id.
    ///
    /// # Errors
    /// [`SpiffeError`] if the app id or the namespace is not a legal path segment.
    pub(crate) fn spiffe_id(&self) -> Result<SpiffeId, SpiffeError> {
        SpiffeId::new(&self.trust_domain, &self.namespace, &self.app_id)
    }

    /// The requested identity, for a caller that has proven it or is not authenticated at all.
    fn requested(request: &SignRequest, may_have_dns_names: bool) -> Self {
        Self {
            app_id: request.app_id.clone(),
            namespace: request.namespace.clone(),
            trust_domain: request.trust_domain.clone(),
            may_have_dns_names,
            pod: None,
            container_images: None,
        }
    }
}

/// Authenticates requests. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Authenticator {
    /// Accepts every request; standalone mode only.
    Insecure,
    /// Verifies tokens of an identity provider; standalone mode.
    Jwks(JwksAuthenticator),
    /// Sends `TokenReviews` to the API server, and verifies tokens of an identity provider if one is
    /// configured.
    Kubernetes(Arc<KubernetesAuthenticator>, Option<JwksAuthenticator>),
}

impl Authenticator {
    pub(crate) fn enabled(&self) -> EnabledValidators {
        match self {
            Self::Insecure => EnabledValidators::Insecure,
            Self::Jwks(_) => EnabledValidators::Jwks,
            Self::Kubernetes(_, None) => EnabledValidators::Kubernetes,
            Self::Kubernetes(_, Some(_)) => EnabledValidators::KubernetesAndJwks,
        }
    }

    /// Rejects a request whose token cannot be valid, without I/O: such a request must not occupy
    /// a place in the queue.
    ///
    /// # Errors
    /// [`AuthnError::Refused`].
    pub(crate) fn precheck(
        &self,
        request: &SignRequest,
        validator: Validator,
    ) -> Result<(), AuthnError> {
        match (validator, self) {
            (Validator::Kubernetes, Self::Kubernetes(kubernetes, _)) => {
                kubernetes.precheck(request)
            }
            _ => Ok(()),
        }
    }

    /// Authenticates a request with an enabled validator.
    ///
    /// # Errors
    /// [`AuthnError::Refused`] or [`AuthnError::Token`] if the token does not prove the requested
    /// identity, others if that cannot be decided now.
    pub(crate) async fn authenticate(
        &self,
        request: &SignRequest,
        validator: Validator,
    ) -> Result<Identity, AuthnError> {
        match (validator, self) {
            (Validator::Insecure, Self::Insecure) => Ok(Identity::requested(request, true)),
            (Validator::Jwks, Self::Jwks(jwks)) => {
                jwks.verify(request)?;
                Ok(Identity::requested(request, true))
            }
            // In a cluster only pods of the control plane get the DNS names of webhooks.
            (Validator::Jwks, Self::Kubernetes(_, Some(jwks))) => {
                jwks.verify(request)?;
                Ok(Identity::requested(request, false))
            }
            (Validator::Kubernetes, Self::Kubernetes(kubernetes, _)) => {
                kubernetes.authenticate(request).await
            }
            _ => Err(AuthnError::NotEnabled),
        }
    }
}

/// Tolerated difference from the clocks of identity providers. Source: Dapr 1.18, sentry.
const JWKS_LEEWAY: Duration = Duration::from_mins(5);

/// Authenticates by tokens whose subject is the requested SPIFFE id.
#[derive(Clone)]
pub(crate) struct JwksAuthenticator {
    keys: Keys,
    audience: Arc<str>,
}

impl JwksAuthenticator {
    /// `namespace` and `trust_domain` are those of the control plane.
    pub(crate) fn new(keys: Keys, namespace: &str, trust_domain: &TrustDomain) -> Self {
        Self { keys, audience: own_id(namespace, trust_domain).into() }
    }

    fn verify(&self, request: &SignRequest) -> Result<(), AuthnError> {
        let id = SpiffeId::new(&request.trust_domain, &request.namespace, &request.app_id);
        let subject = id.map_err(AuthnError::Requestor)?.to_string();
        let expected = Expected {
            audience: &self.audience,
            subject: &subject,
            now: clock::now(),
            leeway: JWKS_LEEWAY,
        };
        let keys = self.keys.load();
        identity::verify_token(&request.token, &keys, &expected).map_err(AuthnError::Token)
    }
}

/// Sentry's own SPIFFE id, the audience of tokens.
fn own_id(namespace: &str, trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/dapr-sentry")
}

/// Authenticates by TokenReview, pod and Configuration.
pub(crate) struct KubernetesAuthenticator {
    kubernetes: Kubernetes,
    namespace: String,
    trust_domain: TrustDomain,
    /// The audiences of tokens: exactly these two, in this order. Source: Dapr 1.18, sentry.
    audiences: [String; 2],
}

impl KubernetesAuthenticator {
    /// `namespace` and `trust_domain` are those of the control plane.
    pub(crate) fn new(
        kubernetes: Kubernetes,
        namespace: String,
        trust_domain: TrustDomain,
    ) -> Self {
        let audiences = ["dapr.io/sentry".to_owned(), own_id(&namespace, &trust_domain)];
        Self { kubernetes, namespace, trust_domain, audiences }
    }

    fn precheck(&self, request: &SignRequest) -> Result<(), AuthnError> {
        let SignRequest { token, namespace, .. } = request;
        token_precheck::precheck(token, namespace, &self.audiences, clock::now())
            .map_err(AuthnError::Refused)
    }

    async fn authenticate(&self, request: &SignRequest) -> Result<Identity, AuthnError> {
        self.kubernetes.wait_synced().await?;
        let owner = self.kubernetes.review(&request.token, &self.audiences).await?;
        let pod = self.kubernetes.pod(&owner).await?;
        let control_plane = ControlPlane { namespace: &self.namespace };
        let source =
            pod_identity::check(&owner, &pod, &request.namespace, &request.app_id, control_plane)?;
        let trust_domain = match &source {
            TrustDomainSource::ControlPlane => self.trust_domain.clone(),
            TrustDomainSource::Public => TrustDomain::public(),
            TrustDomainSource::Configuration(name) => {
                let named = self.kubernetes.trust_domain(&owner.namespace, name).await?;
                pod_identity::configured_trust_domain(named.as_deref())?
            }
        };
        Ok(Identity {
            app_id: request.app_id.clone(),
            namespace: owner.namespace.clone(),
            trust_domain,
            may_have_dns_names: source == TrustDomainSource::ControlPlane,
            pod: Some(PodRecord {
                name: owner.pod.clone(),
                uid: pod.uid,
                service_account: owner.service_account.clone(),
            }),
            container_images: pod.container_images,
        })
    }
}
