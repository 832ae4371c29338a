//! From a request to a proven identity: the shell around [`crate::pod_identity`].

use std::sync::Arc;
use std::time::Duration;

use identity::{Expected, SpiffeId, TrustDomain};
use runtime::clock;

use crate::cluster::Kubernetes;
use crate::error::SignError;
use crate::jwks_keys::Keys;
use crate::pod_identity::{self, ControlPlane, TrustDomainSource};
use crate::request::{Offer, Request, Validator};

/// What a request may ask for, proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The app id.
    pub app_id: String,
    /// Its namespace.
    pub namespace: String,
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Whether it is a part of the control plane and not an app that uses one's name.
    pub may_have_dns_names: bool,
    /// The pod behind it, for the audit line.
    pub pod: Option<PodRecord>,
}

/// The pod of a proven identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRecord {
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Service account.
    pub service_account: String,
}

impl Proven {
    /// The SPIFFE id.
    ///
    /// # Errors
    /// [`SignError::Id`] if the app id or the namespace is no legal path segment.
    pub fn spiffe_id(&self) -> Result<SpiffeId, SignError> {
        SpiffeId::new(&self.trust_domain, &self.namespace, &self.app_id).map_err(SignError::Id)
    }
}

/// Checks who calls. Cheap to clone.
#[derive(Clone)]
pub enum Identifier {
    /// Believes the request: standalone only.
    Insecure,
    /// Checks tokens of an identity provider: standalone.
    Jwks(JwksIdentifier),
    /// Asks the API server, and checks tokens of an identity provider if there is one.
    Kubernetes(Arc<KubernetesIdentifier>, Option<JwksIdentifier>),
}

impl Identifier {
    /// Which validators a request may name.
    pub fn offer(&self) -> Offer {
        match self {
            Self::Insecure => Offer::Insecure,
            Self::Jwks(_) => Offer::Jwks,
            Self::Kubernetes(_, None) => Offer::Kubernetes,
            Self::Kubernetes(_, Some(_)) => Offer::KubernetesAndJwks,
        }
    }

    /// Proves what the request asks for, with a validator of the offer.
    ///
    /// # Errors
    /// [`SignError::Refused`] or [`SignError::Token`] if it is not so, others if it cannot be found
    /// out now.
    pub async fn prove(
        &self,
        request: &Request,
        validator: Validator,
    ) -> Result<Proven, SignError> {
        match (validator, self) {
            (Validator::Insecure, Self::Insecure) => Ok(claimed(request, true)),
            (Validator::Jwks, Self::Jwks(jwks)) => {
                jwks.check(request)?;
                Ok(claimed(request, true))
            }
            // In a cluster the names of webhooks are for pods of the control plane alone.
            (Validator::Jwks, Self::Kubernetes(_, Some(jwks))) => {
                jwks.check(request)?;
                Ok(claimed(request, false))
            }
            (Validator::Kubernetes, Self::Kubernetes(kubernetes, _)) => {
                kubernetes.prove(request).await
            }
            _ => Err(SignError::NotEnabled),
        }
    }
}

/// The identity as the request has it, for whoever has proven it or is believed.
fn claimed(request: &Request, may_have_dns_names: bool) -> Proven {
    Proven {
        app_id: request.app_id.clone(),
        namespace: request.namespace.clone(),
        trust_domain: request.trust_domain.clone(),
        may_have_dns_names,
        pod: None,
    }
}

/// How far the clocks of identity providers may differ. Source: Dapr 1.18, sentry.
const JWKS_LEEWAY: Duration = Duration::from_mins(5);

/// Proves identities by tokens whose subject is the SPIFFE id asked for.
#[derive(Clone)]
pub struct JwksIdentifier {
    keys: Keys,
    audience: Arc<str>,
}

impl JwksIdentifier {
    /// `namespace` and `trust_domain` are the control plane's.
    pub fn new(keys: Keys, namespace: &str, trust_domain: &TrustDomain) -> Self {
        Self { keys, audience: own_id(namespace, trust_domain).into() }
    }

    fn check(&self, request: &Request) -> Result<(), SignError> {
        let id = SpiffeId::new(&request.trust_domain, &request.namespace, &request.app_id);
        let subject = id.map_err(SignError::Requestor)?.to_string();
        let expected = Expected {
            audience: &self.audience,
            subject: &subject,
            now: clock::now(),
            leeway: JWKS_LEEWAY,
        };
        let keys = self.keys.load();
        identity::verify_token(&request.token, &keys, &expected).map_err(SignError::Token)
    }
}

/// Sentry's own id, which tokens must be meant for.
fn own_id(namespace: &str, trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/dapr-sentry")
}

/// Proves identities by token review, pod and Configuration.
pub struct KubernetesIdentifier {
    kubernetes: Kubernetes,
    namespace: String,
    trust_domain: TrustDomain,
    /// Whom a token must be meant for: exactly these two, in this order.
    audiences: [String; 2],
}

impl KubernetesIdentifier {
    /// `namespace` and `trust_domain` are the control plane's.
    pub fn new(kubernetes: Kubernetes, namespace: String, trust_domain: TrustDomain) -> Self {
        let audiences = ["dapr.io/sentry".to_owned(), own_id(&namespace, &trust_domain)];
        Self { kubernetes, namespace, trust_domain, audiences }
    }

    async fn prove(&self, request: &Request) -> Result<Proven, SignError> {
        self.kubernetes.synced().await?;
        let owner = self.kubernetes.owner(&request.token, &self.audiences).await?;
        let pod = self.kubernetes.pod(&owner).await?;
        let control_plane = ControlPlane { namespace: &self.namespace };
        let source =
            pod_identity::judge(&owner, &pod, &request.namespace, &request.app_id, control_plane)
                .map_err(SignError::Refused)?;
        let trust_domain = match &source {
            TrustDomainSource::ControlPlane => self.trust_domain.clone(),
            TrustDomainSource::Public => TrustDomain::public(),
            TrustDomainSource::Configuration(name) => {
                let named = self.kubernetes.trust_domain(&owner.namespace, name).await?;
                pod_identity::configured_trust_domain(named.as_deref())
                    .map_err(SignError::Refused)?
            }
        };
        Ok(Proven {
            app_id: request.app_id.clone(),
            namespace: owner.namespace.clone(),
            trust_domain,
            may_have_dns_names: source == TrustDomainSource::ControlPlane,
            pod: Some(PodRecord {
                name: owner.pod.clone(),
                uid: pod.uid,
                service_account: owner.service_account.clone(),
            }),
        })
    }
}
