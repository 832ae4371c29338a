//! An AdmissionReview: decoded, decided, answered.
//! Source: Kubernetes `admission.k8s.io/v1` and `v1beta1`; Dapr 1.18, order of the decisions.

use base64::Engine as _;
use resources::annotations::ANNOTATION_APP_ID;
use resources::labels::LABEL_INJECTION;
use resources::names;
use serde_json::{Value, json};

use super::allow_list::{AllowedUsers, UserInfo};
use super::decision::{AdmissionDecision, Outcome};
use super::error::BadRequest;
use super::warnings;
use crate::cluster::{EventReason, InjectionEvent};
use crate::pod::{self, Owner, PodView, Warning, quoted};
use crate::sidecar::{InjectionContext, SkipReason, mutate, skip_reason};

/// Value of `dapr.io/injection-skipped` if the user is not allowed to inject.
const SKIPPED_NOT_ALLOWED: &str = "creator-not-allowed";
/// Value of `dapr.io/injection-skipped` if injection is disabled in the Namespace.
const SKIPPED_NAMESPACE: &str = "namespace-disabled";

/// A decoded review with the members that the injector reads. Version and kind are echoed without
/// a check.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    request: Request,
}

#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    #[serde(default)]
    uid: String,
    #[serde(default)]
    kind: Option<Kind>,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    dry_run: Option<bool>,
    #[serde(default)]
    user_info: Option<UserInfo>,
    #[serde(default, deserialize_with = "pod::deserialize")]
    object: Value,
}

#[derive(Debug, Clone, serde::Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

/// A body that is not a review.
#[derive(Debug, thiserror::Error)]
pub enum BadReview {
    /// Not JSON, or no AdmissionReview with a request.
    #[error("body is not an AdmissionReview with a request")]
    Json(#[source] serde_json::Error),
    /// The object has too many values.
    #[error("object of the AdmissionReview has more than {} values", pod::MAX_VALUES)]
    TooManyValues,
}

impl From<BadReview> for BadRequest {
    fn from(error: BadReview) -> Self {
        match error {
            BadReview::Json(_) => Self::NoReview,
            BadReview::TooManyValues => Self::TooManyValues,
        }
    }
}

impl Review {
    /// Decodes a body.
    ///
    /// # Errors
    /// `BadReview`
    pub fn parse(body: &[u8]) -> Result<Self, BadReview> {
        serde_json::from_slice(body).map_err(|error| {
            if pod::has_too_many_values(&error) {
                BadReview::TooManyValues
            } else {
                BadReview::Json(error)
            }
        })
    }

    /// Namespace of the request.
    pub fn namespace(&self) -> &str {
        self.request.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn is_dry_run(&self) -> bool {
        self.request.dry_run.unwrap_or_default()
    }

    /// The controller of the pod.
    pub(super) fn owner(&self) -> Option<Owner> {
        PodView::parse(&self.request.object).ok()?.owner()
    }

    /// The request for the log. Source of the words: Dapr 1.18.
    pub(super) fn describe(&self) -> String {
        let pod = PodView::parse(&self.request.object);
        let name = pod.map_or_else(|_| String::new(), |pod| pod.display_name());
        format!(
            "AdmissionReview for Kind=/v1, Kind=Pod, Namespace={} Name={name} UID={} UserInfo={}",
            self.namespace(),
            self.request.uid,
            self.username()
        )
    }

    /// Decides about the object. Source of the order: Dapr 1.18.
    pub fn decide(&self, cx: &InjectionContext<'_>, users: &AllowedUsers<'_>) -> AdmissionDecision {
        let kind = self.request.kind.as_ref().map(|k| k.kind.as_str()).unwrap_or_default();
        if kind != "Pod" {
            let outcome = Outcome::WrongKind { kind: kind.to_owned() };
            return AdmissionDecision::unchanged("", outcome);
        }
        let allowed =
            || self.request.user_info.as_ref().is_some_and(|u| users.allowed.admits(u, users.uids));
        let pod = match PodView::parse(&self.request.object) {
            Ok(pod) => pod,
            Err(_) if !allowed() => {
                return AdmissionDecision::unchanged("", self.not_allowed_outcome());
            }
            Err(error) => return AdmissionDecision::from_mutation("", Err(error.into())),
        };
        let app = app_of(&pod);
        match skip_reason(&pod, cx.policy) {
            Some(SkipReason::NamespaceDisabled) if !pod.has_container(names::SIDECAR_CONTAINER) => {
                self.namespace_disabled(app, &pod, users)
            }
            None if !allowed() => self.not_allowed(app, &pod, users),
            _ => AdmissionDecision::from_mutation(app, mutate(&pod, cx)),
        }
    }

    fn username(&self) -> &str {
        self.request.user_info.as_ref().map_or("", |user| &user.username)
    }

    fn not_allowed_outcome(&self) -> Outcome {
        Outcome::NotAllowed { username: self.username().to_owned() }
    }

    fn not_allowed(
        &self,
        app: &str,
        pod: &PodView<'_>,
        users: &AllowedUsers<'_>,
    ) -> AdmissionDecision {
        let mut decision = AdmissionDecision::unchanged(app, self.not_allowed_outcome());
        if !pod.has_container(names::SIDECAR_CONTAINER) {
            let user = quoted(self.username());
            let text = format!(
                "sidecar not injected: user {user} is neither in group system:masters nor in \
                 ALLOWED_SERVICE_ACCOUNTS of the sidecar injector"
            );
            decision.warnings.push(Warning { about: "creator", text });
            decision.annotate_skipped(pod, SKIPPED_NOT_ALLOWED, users);
        }
        decision
    }

    fn namespace_disabled(
        &self,
        app: &str,
        pod: &PodView<'_>,
        users: &AllowedUsers<'_>,
    ) -> AdmissionDecision {
        let outcome = Outcome::Skipped(SkipReason::NamespaceDisabled);
        let mut decision = AdmissionDecision::unchanged(app, outcome);
        let text = format!(
            "sidecar not injected: namespace {} has the label {LABEL_INJECTION}=disabled",
            self.namespace()
        );
        decision.warnings.push(Warning { about: "namespace", text });
        decision.annotate_skipped(pod, SKIPPED_NAMESPACE, users);
        decision
    }

    /// The Event that reports a decision to the owner of the pod. `None` for dry runs, because the
    /// webhook declares `sideEffects: NoneOnDryRun`, for pods without owner, and for pods that request
    /// no sidecar.
    pub fn event(&self, decision: &AdmissionDecision) -> Option<InjectionEvent> {
        if self.is_dry_run() {
            return None;
        }
        let owner = self.owner()?;
        let message = match &decision.outcome {
            Outcome::Refused(message) => message.as_str(),
            _ => "",
        };
        let texts = decision.warnings.iter().map(|w| w.text.as_str());
        // The message of a rejection can contain warnings.
        let texts: Vec<&str> = texts.filter(|text| !message.contains(text)).collect();
        let warnings = texts.join("; ");
        let (reason, is_warning, note) = match &decision.outcome {
            Outcome::Injected { .. } if warnings.is_empty() => {
                (EventReason::Injected, false, format!("sidecar of app {} injected", decision.app))
            }
            Outcome::Injected { .. } => {
                let note =
                    format!("sidecar of app {} injected with warnings: {warnings}", decision.app);
                (EventReason::Injected, true, note)
            }
            Outcome::NotAllowed { .. } if !warnings.is_empty() => {
                (EventReason::Skipped, true, warnings)
            }
            Outcome::Refused(_) if warnings.is_empty() => {
                (EventReason::Denied, true, message.to_owned())
            }
            Outcome::Refused(_) => (EventReason::Denied, true, format!("{message}; {warnings}")),
            Outcome::NotAllowed { .. } | Outcome::Skipped(_) | Outcome::WrongKind { .. } => {
                return None;
            }
        };
        Some(InjectionEvent::new(owner, self.namespace(), reason, is_warning, &note))
    }

    /// The review with the answer.
    pub fn answer<'a>(&'a self, decision: &'a AdmissionDecision) -> Answer<'a> {
        let some = Some(&decision.patch).filter(|patch| !patch.0.is_empty());
        // A patch consists of strings and JSON values, so serialising it is infallible.
        let patch = some.and_then(|patch| serde_json::to_vec(patch).ok());
        let patch = patch.map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes));
        let message = match &decision.outcome {
            Outcome::Refused(message) => Some(runtime::printable(message)),
            _ => None,
        };
        Answer {
            kind: self.kind.as_deref(),
            api_version: self.api_version.as_deref(),
            response: Response {
                uid: &self.request.uid,
                allowed: message.is_none(),
                status: message.map(|message| json!({"metadata": {}, "message": message})),
                patch_type: patch.as_ref().map(|_| "JSONPatch"),
                patch,
                warnings: warnings::bounded(&decision.warnings),
            },
        }
    }
}

/// The answer to a review. `patch` and `patchType` are both present or both absent.
#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'a str>,
    response: Response<'a>,
}

#[derive(Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The app id for metrics and logs: the annotation, else the pod name.
fn app_of<'a>(pod: &PodView<'a>) -> &'a str {
    pod.annotation(ANNOTATION_APP_ID).filter(|id| !id.is_empty()).unwrap_or_else(|| pod.name())
}
