//! Who a pod is: from the review of its token, the token's claims and the pod's annotations.
//! Source of rules and texts: Dapr 1.18, sentry in Kubernetes mode.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use identity::{SpiffeError, TrustDomain};
use k8s_openapi::api::authentication::v1::TokenReviewStatus;
use resources::annotations::{ANNOTATION_APP_ID, ANNOTATION_CONFIG, ANNOTATION_CONTROL_PLANE};
use serde::Deserialize;

/// Values of the annotation `dapr.io/control-plane`.
const CONTROL_PLANE: [&str; 5] = ["operator", "placement", "injector", "sentry", "scheduler"];

/// Where the API server says which pod a token belongs to, since Kubernetes 1.20.
const EXTRA_POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const EXTRA_POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Why the token does not prove what the request asks for. Every text can reach the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The API server refused the review itself.
    #[error("token review failed: {0}")]
    ReviewFailed(String),
    /// The token is invalid or meant for somebody else.
    #[error("invalid token: {0}")]
    InvalidToken(String),
    /// The API server does not know the token.
    #[error("authentication failed")]
    NotAuthenticated,
    /// The user is no service account.
    #[error("provided token is not a properly structured service account token")]
    NotServiceAccount,
    /// The token has no readable claims.
    #[error("failed to parse Kubernetes token: {0}")]
    Claims(&'static str),
    /// The token belongs to no pod.
    #[error("kubernetes.io/pod/name claim is missing from Kubernetes token")]
    NoPodClaim,
    /// The pod does not exist, or is another one of the same name.
    #[error("failed to get pod of identity")]
    NoPod,
    /// The request names another namespace than the token's.
    #[error("namespace mismatch; received namespace: {0}")]
    Namespace(String),
    /// The pod runs under another service account than the token's.
    #[error("pod service account mismatch")]
    ServiceAccount,
    /// A pod outside of the control plane's namespace says it is part of it.
    #[error("control plane service in namespace '{0}' is not allowed")]
    ControlPlaneNamespace(String),
    /// A part of the control plane that does not exist; names the pod.
    #[error("unknown control plane service '{0}'")]
    ControlPlaneName(String),
    /// Part of the control plane and an application at once; names the pod.
    #[error("control plane service '{0}' cannot have annotation 'dapr.io/app-id'")]
    ControlPlaneAppId(String),
    /// The request names another app id than the pod's.
    #[error("app-id mismatch. expected: {expected}, received: {received}")]
    AppId {
        /// What the pod's annotations say.
        expected: String,
        /// What the request says.
        received: String,
    },
    /// The pod's Configuration does not exist.
    #[error("failed to get configuration")]
    NoConfiguration,
    /// The pod's Configuration names an illegal trust domain.
    #[error("failed to parse trust domain {name:?}: {rule}")]
    TrustDomain {
        /// What the Configuration says.
        name: String,
        /// The rule it breaks; part of the text because the client reads it.
        rule: SpiffeError,
    },
}

impl Refusal {
    /// A fixed word for metrics.
    pub fn label(&self) -> &'static str {
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
            | Self::ControlPlaneAppId(_) => "control_plane",
            Self::AppId { .. } => "app_id",
            Self::NoConfiguration => "configuration",
            Self::TrustDomain { .. } => "trust_domain",
        }
    }
}

/// What is known of a pod. All of it comes from the API server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodView {
    /// Unique for all time.
    pub uid: String,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// `dapr.io/app-id`, if present.
    pub app_id: Option<String>,
    /// `dapr.io/config`, if present.
    pub config: Option<String>,
    /// `dapr.io/control-plane`, if present.
    pub control_plane: Option<String>,
}

impl PodView {
    /// Picks what matters from a pod.
    pub fn new(uid: &str, service_account: &str, annotations: &BTreeMap<String, String>) -> Self {
        Self {
            uid: uid.to_owned(),
            service_account: service_account.to_owned(),
            app_id: annotations.get(ANNOTATION_APP_ID).cloned(),
            config: annotations.get(ANNOTATION_CONFIG).cloned(),
            control_plane: annotations.get(ANNOTATION_CONTROL_PLANE).cloned(),
        }
    }
}

/// Whose token it is, as the API server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOwner {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the service account.
    pub service_account: String,
    /// Name of the pod.
    pub pod: String,
    /// Uid of the pod, where the API server tells it.
    pub pod_uid: Option<String>,
}

impl TokenOwner {
    /// Reads the answer to a token review, and the pod's name from the token itself where the
    /// answer does not have it.
    ///
    /// # Errors
    /// [`Refusal`] with the rule that failed.
    pub fn from_review(status: &TokenReviewStatus, token: &str) -> Result<Self, Refusal> {
        if let Some(error) = status.error.as_deref().filter(|error| !error.is_empty()) {
            return Err(Refusal::InvalidToken(error.to_owned()));
        }
        if status.authenticated != Some(true) {
            return Err(Refusal::NotAuthenticated);
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

    /// Whether `pod` is the one that the token was made for, and not a successor of its name.
    pub fn is_of(&self, pod: &PodView) -> bool {
        self.pod_uid.as_ref().is_none_or(|uid| *uid == pod.uid)
    }
}

/// The pod's name from the claims. The API server has verified the token; here a compact JWS and a
/// bare JSON object are read alike, and its times are not looked at.
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
    let json = if token.trim_start().starts_with('{') {
        token.as_bytes().to_vec()
    } else {
        payload(token).ok_or(Refusal::Claims("not a compact JWS"))?
    };
    let claims: Claims =
        serde_json::from_slice(&json).map_err(|_| Refusal::Claims("claims are not JSON"))?;
    let pod = claims.kubernetes.and_then(|kubernetes| kubernetes.pod).and_then(|pod| pod.name);
    pod.filter(|name| !name.is_empty()).ok_or(Refusal::NoPodClaim)
}

fn payload(token: &str) -> Option<Vec<u8>> {
    let parts: Option<Vec<Vec<u8>>> =
        token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).ok()).collect();
    match parts?.as_mut_slice() {
        [_, payload, _] => Some(std::mem::take(payload)),
        _ => None,
    }
}

/// Where a pod's trust domain comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustDomainSource {
    /// A part of the control plane: its own.
    ControlPlane,
    /// An application without a Configuration.
    Public,
    /// An application's Configuration, by name, in its namespace.
    Configuration(String),
}

/// The control plane that pods are judged by.
#[derive(Debug, Clone, Copy)]
pub struct ControlPlane<'a> {
    /// Its namespace.
    pub namespace: &'a str,
}

/// Compares what a request asks for with what its pod is.
///
/// # Errors
/// [`Refusal`] with the rule that failed.
pub fn judge(
    owner: &TokenOwner,
    pod: &PodView,
    asked_namespace: &str,
    asked_id: &str,
    control_plane: ControlPlane<'_>,
) -> Result<TrustDomainSource, Refusal> {
    if owner.namespace != asked_namespace {
        return Err(Refusal::Namespace(asked_namespace.to_owned()));
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
    if expected != asked_id {
        return Err(Refusal::AppId { expected, received: asked_id.to_owned() });
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
    Ok(format!("dapr-{part}"))
}

/// An empty annotation counts as none: users write `dapr.io/config: ""`.
fn configuration(pod: &PodView) -> TrustDomainSource {
    match pod.config.as_deref() {
        None | Some("") => TrustDomainSource::Public,
        Some(name) => TrustDomainSource::Configuration(name.to_owned()),
    }
}

/// The trust domain that a Configuration names (`spec.accessControl.trustDomain`).
///
/// # Errors
/// [`Refusal::TrustDomain`] if the name is illegal.
pub fn configured_trust_domain(name: Option<&str>) -> Result<TrustDomain, Refusal> {
    match name {
        None | Some("") => Ok(TrustDomain::public()),
        Some(name) => TrustDomain::parse(name)
            .map_err(|rule| Refusal::TrustDomain { name: name.to_owned(), rule }),
    }
}

#[cfg(test)]
#[path = "pod_identity_tests.rs"]
mod tests;
