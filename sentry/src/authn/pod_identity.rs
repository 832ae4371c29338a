//! The identity of a pod: from the review of its token, the token's claims and the pod's annotations.
//! Pure. Source of rules and texts: Dapr 1.18, sentry in Kubernetes mode.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::{SpiffeError, TrustDomain};
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use resources::annotations::{ANNOTATION_APP_ID, ANNOTATION_CONFIG, ANNOTATION_CONTROL_PLANE};
use serde::Deserialize;

use super::container_images::ContainerImages;

/// Values of the annotation `dapr.io/control-plane`.
const CONTROL_PLANE: [&str; 5] = ["operator", "placement", "injector", "sentry", "scheduler"];

/// Extra fields of a user that name the pod of a token, since Kubernetes 1.20.
const EXTRA_POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const EXTRA_POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Why the token does not prove the requested identity. The texts reach the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The API server rejected the TokenReview.
    #[error("token review failed: {0}")]
    ReviewFailed(String),
    /// The token is invalid or has other audiences.
    #[error("invalid token: {0}")]
    InvalidToken(String),
    /// The API server does not authenticate the token.
    #[error("authentication failed")]
    NotAuthenticated,
    /// The user is not a service account.
    #[error("provided token is not a properly structured service account token")]
    NotServiceAccount,
    /// The claims of the token do not parse.
    #[error("failed to parse Kubernetes token: {0}")]
    Claims(&'static str),
    /// The token is not bound to a pod.
    #[error("kubernetes.io/pod/name claim is missing from Kubernetes token")]
    NoPodClaim,
    /// The pod does not exist, or is another pod of the same name.
    #[error("failed to get pod of identity")]
    NoPod,
    /// The token belongs to another namespace than the requested one.
    #[error("namespace mismatch; received namespace: {0}")]
    Namespace(String),
    /// The token belongs to another service account than the pod's.
    #[error("pod service account mismatch")]
    ServiceAccount,
    /// A pod outside the control plane's namespace claims to be part of it.
    #[error("control plane service in namespace '{0}' is not allowed")]
    ControlPlaneNamespace(String),
    /// The control plane service does not exist; names the pod.
    #[error("unknown control plane service '{0}'")]
    ControlPlaneName(String),
    /// A control plane service that is also an application; names the pod.
    #[error("control plane service '{0}' cannot have annotation 'dapr.io/app-id'")]
    ControlPlaneAppId(String),
    /// A pod claims to be a control plane service and runs as another ServiceAccount.
    #[error(
        "control plane service '{part}' must run as ServiceAccount 'dapr-{part}', not '{account}'"
    )]
    ControlPlaneAccount {
        /// The service.
        part: String,
        /// The ServiceAccount that the pod runs as.
        account: String,
    },
    /// The requested app id is not that of the pod.
    #[error("app-id mismatch. expected: {expected}, received: {received}")]
    AppId {
        /// The app id of the pod.
        expected: String,
        /// The requested app id.
        received: String,
    },
    /// The pod's Configuration does not exist. The first words are those of Dapr 1.18, the others are
    /// printed by the sidecar before it stops.
    #[error(
        "failed to get configuration: Configuration {namespace}/{name} of annotation dapr.io/config does not exist; create it, or correct the annotation"
    )]
    NoConfiguration {
        /// The namespace of the pod.
        namespace: String,
        /// The value of the annotation.
        name: String,
    },
    /// The pod's Configuration names an invalid trust domain.
    #[error("failed to parse trust domain {name:?}: {rule}")]
    TrustDomain {
        /// The configured name.
        name: String,
        /// The rule it breaks; part of the text, because only the text reaches the client.
        rule: SpiffeError,
    },
}

impl Refusal {
    /// The label of this refusal in metrics.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::ReviewFailed(_)
            | Self::InvalidToken(_)
            | Self::NotAuthenticated
            | Self::NotServiceAccount
            | Self::Claims(_)
            | Self::NoPodClaim => "token",
            Self::NoPod => "pod",
            Self::Namespace(_) => "namespace",
            Self::ServiceAccount => "service_account",
            Self::ControlPlaneNamespace(_)
            | Self::ControlPlaneName(_)
            | Self::ControlPlaneAppId(_)
            | Self::ControlPlaneAccount { .. } => "control_plane",
            Self::AppId { .. } => "app_id",
            Self::NoConfiguration { .. } => "configuration",
            Self::TrustDomain { .. } => "trust_domain",
        }
    }
}

/// The fields of a pod that authentication uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PodView {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `spec.serviceAccountName`.
    pub(crate) service_account: String,
    /// Annotation `dapr.io/app-id`.
    pub(crate) app_id: Option<String>,
    /// Annotation `dapr.io/config`.
    pub(crate) config: Option<String>,
    /// Annotation `dapr.io/control-plane`.
    pub(crate) control_plane: Option<String>,
    /// The container images, unless certificates do not carry them.
    pub(crate) container_images: Option<ContainerImages>,
}

impl PodView {
    /// Picks the fields from a pod.
    pub(crate) fn new(
        uid: &str,
        service_account: &str,
        annotations: &BTreeMap<String, String>,
    ) -> Self {
        Self {
            uid: uid.to_owned(),
            service_account: service_account.to_owned(),
            app_id: annotations.get(ANNOTATION_APP_ID).cloned(),
            config: annotations.get(ANNOTATION_CONFIG).cloned(),
            control_plane: annotations.get(ANNOTATION_CONTROL_PLANE).cloned(),
            container_images: None,
        }
    }
}

/// The owner of a token, as the API server states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenOwner {
    /// Namespace of the pod.
    pub(crate) namespace: String,
    /// Name of the service account.
    pub(crate) service_account: String,
    /// Name of the pod.
    pub(crate) pod: String,
    /// Uid of the pod, if the API server states it.
    pub(crate) pod_uid: Option<String>,
}

impl TokenOwner {
    /// Parses the status of a TokenReview. The pod's name comes from the token if the status does
    /// not have it.
    ///
    /// # Errors
    /// [`Refusal`] names the rule that failed.
    pub(crate) fn from_review(
        status: &TokenReviewStatus,
        token: &str,
        audiences: &[String],
    ) -> Result<Self, Refusal> {
        if let Some(error) = status.error.as_deref().filter(|error| !error.is_empty()) {
            return Err(Refusal::InvalidToken(error.to_owned()));
        }
        if status.authenticated != Some(true) {
            return Err(Refusal::NotAuthenticated);
        }
        // An API server that supports audiences states the ones that it accepted.
        if let Some(accepted) = status.audiences.as_deref().filter(|list| !list.is_empty())
            && !accepted.iter().any(|audience| audiences.contains(audience))
        {
            let cause = "the API server accepted it for other audiences";
            return Err(Refusal::InvalidToken(cause.to_owned()));
        }
        let user = status.user.as_ref().ok_or(Refusal::NotServiceAccount)?;
        let name: Vec<&str> = user.username.as_deref().unwrap_or_default().split(':').collect();
        let ["system", "serviceaccount", namespace, service_account] = name.as_slice() else {
            return Err(Refusal::NotServiceAccount);
        };
        let extra = |key: &str| {
            let value = user.extra.as_ref()?.get(key)?.first()?;
            (!value.is_empty()).then(|| value.clone())
        };
        let pod = match extra(EXTRA_POD_NAME) {
            Some(pod) => pod,
            None => pod_claim(token)?,
        };
        Ok(Self {
            namespace: (*namespace).to_owned(),
            service_account: (*service_account).to_owned(),
            pod,
            pod_uid: extra(EXTRA_POD_UID),
        })
    }

    /// Whether the token is bound to `pod`, and not to an earlier pod of the same name.
    pub(crate) fn is_bound_to(&self, pod: &PodView) -> bool {
        self.pod_uid.as_ref().is_none_or(|uid| *uid == pod.uid)
    }
}

/// The pod's name in the claims. The API server has verified signature and times of the token.
fn pod_claim(token: &str) -> Result<String, Refusal> {
    #[derive(Deserialize)]
    struct Claims {
        #[serde(rename = "kubernetes.io")]
        kubernetes: Option<Kubernetes>,
    }
    #[derive(Deserialize)]
    struct Kubernetes {
        pod: Option<Pod>,
    }
    #[derive(Deserialize)]
    struct Pod {
        name: Option<String>,
    }
    let json = claims_json(token).ok_or(Refusal::Claims("not a compact JWS"))?;
    let claims: Claims =
        serde_json::from_slice(&json).map_err(|_| Refusal::Claims("claims are not JSON"))?;
    let pod = claims.kubernetes.and_then(|kubernetes| kubernetes.pod).and_then(|pod| pod.name);
    pod.filter(|name| !name.is_empty()).ok_or(Refusal::NoPodClaim)
}

/// The claims of a token: the payload of a compact JWS, or a bare JSON object. Source of both forms:
/// Dapr 1.18, sentry.
pub(crate) fn claims_json(token: &str) -> Option<Vec<u8>> {
    if token.trim_start().starts_with('{') {
        return Some(token.as_bytes().to_vec());
    }
    let parts: Option<Vec<Vec<u8>>> =
        token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).ok()).collect();
    match parts?.as_mut_slice() {
        [_, payload, _] => Some(std::mem::take(payload)),
        _ => None,
    }
}

/// The source of a pod's trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TrustDomainSource {
    /// A control plane service: that of the control plane.
    ControlPlane,
    /// An application without a Configuration: `public`.
    Public,
    /// An application's Configuration, by name, in its namespace.
    Configuration(String),
}

/// The control plane that sentry belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ControlPlane<'a> {
    pub(crate) namespace: &'a str,
}

/// Compares the requested identity with the pod.
///
/// # Errors
/// [`Refusal`] names the rule that failed.
pub(crate) fn check(
    owner: &TokenOwner,
    pod: &PodView,
    requested_namespace: &str,
    requested_id: &str,
    control_plane: ControlPlane<'_>,
) -> Result<TrustDomainSource, Refusal> {
    if owner.namespace != requested_namespace {
        return Err(Refusal::Namespace(requested_namespace.to_owned()));
    }
    if owner.service_account != pod.service_account {
        return Err(Refusal::ServiceAccount);
    }
    let (expected, source) = match &pod.control_plane {
        Some(part) => {
            let id = control_plane_id(owner, pod, part, control_plane)?;
            (id, TrustDomainSource::ControlPlane)
        }
        None => (pod.app_id.clone().unwrap_or_else(|| owner.pod.clone()), configuration(pod)),
    };
    if expected != requested_id {
        return Err(Refusal::AppId { expected, received: requested_id.to_owned() });
    }
    Ok(source)
}

fn control_plane_id(
    owner: &TokenOwner,
    pod: &PodView,
    part: &str,
    control_plane: ControlPlane<'_>,
) -> Result<String, Refusal> {
    if owner.namespace != control_plane.namespace {
        return Err(Refusal::ControlPlaneNamespace(owner.namespace.clone()));
    }
    if !CONTROL_PLANE.contains(&part) {
        return Err(Refusal::ControlPlaneName(owner.pod.clone()));
    }
    if pod.app_id.is_some() {
        return Err(Refusal::ControlPlaneAppId(owner.pod.clone()));
    }
    let id = format!("dapr-{part}");
    // Every user who may create pods there can set an annotation; the chart gives each service an
    // account of the name of its id.
    if owner.service_account != id {
        let (part, account) = (part.to_owned(), owner.service_account.clone());
        return Err(Refusal::ControlPlaneAccount { part, account });
    }
    Ok(id)
}

/// An empty or blank annotation counts as absent: users write `dapr.io/config: ""`.
fn configuration(pod: &PodView) -> TrustDomainSource {
    match pod.config.as_deref() {
        None => TrustDomainSource::Public,
        Some(name) if name.trim().is_empty() => TrustDomainSource::Public,
        Some(name) => TrustDomainSource::Configuration(name.to_owned()),
    }
}

/// The trust domain that a Configuration names (`spec.accessControl.trustDomain`).
///
/// # Errors
/// [`Refusal::TrustDomain`] if the name is invalid.
pub(crate) fn configured_trust_domain(name: Option<&str>) -> Result<TrustDomain, Refusal> {
    match name {
        None | Some("") => Ok(TrustDomain::public()),
        Some(name) => TrustDomain::parse(name)
            .map_err(|rule| Refusal::TrustDomain { name: name.to_owned(), rule }),
    }
}

#[cfg(test)]
mod tests;
