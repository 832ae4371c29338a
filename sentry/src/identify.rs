//! From a request to a proven identity: the shell around [`crate::pod_identity`].

use std::sync::Arc;

use identity::{SpiffeId, TrustDomain};

use crate::cluster::Kubernetes;
use crate::error::SignError;
use crate::pod_identity::{self, ControlPlane, TrustDomainSource};
use crate::request::{Request, Validator};

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

/// Checks who calls.
#[derive(Clone)]
pub enum Identifier {
    /// Believes the request: standalone only.
    Insecure,
    /// Asks the API server.
    Kubernetes(Arc<KubernetesIdentifier>),
}

impl Identifier {
    /// Which validator a request may name.
    pub fn validator(&self) -> Validator {
        match self {
            Self::Insecure => Validator::Insecure,
            Self::Kubernetes(_) => Validator::Kubernetes,
        }
    }

    /// Proves what the request asks for.
    ///
    /// # Errors
    /// [`SignError::Refused`] if it is not so, others if it cannot be found out now.
    pub async fn prove(&self, request: &Request) -> Result<Proven, SignError> {
        match self {
            Self::Insecure => Ok(Proven {
                app_id: request.app_id.clone(),
                namespace: request.namespace.clone(),
                trust_domain: request.trust_domain.clone(),
                may_have_dns_names: true,
                pod: None,
            }),
            Self::Kubernetes(identifier) => identifier.prove(request).await,
        }
    }
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
        let audiences = [
            "dapr.io/sentry".to_owned(),
            format!("spiffe://{trust_domain}/ns/{namespace}/dapr-sentry"),
        ];
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
