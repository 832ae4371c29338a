//! One AdmissionReview: decoded, decided, answered. Everything but HTTP.
//! Source: Kubernetes `admission.k8s.io/v1` and `v1beta1`; Dapr 1.18, decision order.

use base64::Engine as _;
use resources::annotations::{ANNOTATION_APP_ID, ANNOTATION_INJECTION_SKIPPED};
use resources::labels::LABEL_INJECTION;
use resources::names;
use serde_json::{Value, json};

use crate::allow::{AllowList, UserInfo};
use crate::events::Owner;
use crate::mutate::{Change, InjectError, Situation, Skip, declined, mutate};
use crate::patch::PatchWriter;
use crate::pod::PodView;
use crate::reader::quoted;
use crate::warnings::{self, Warning};

/// Value of [`ANNOTATION_INJECTION_SKIPPED`] for a creator that is not allowed.
const SKIPPED_NOT_ALLOWED: &str = "creator-not-allowed";
/// Value of [`ANNOTATION_INJECTION_SKIPPED`] in a Namespace that is switched off.
const SKIPPED_NAMESPACE: &str = "namespace-disabled";

/// The incoming review, as far as it is read. Its version and kind are echoed, not checked.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Review {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    request: Request,
}

/// The request in a review.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
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
    #[serde(default)]
    object: Value,
}

#[derive(Debug, Clone, serde::Deserialize)]
struct Kind {
    #[serde(default)]
    kind: String,
}

/// A body that is no review, or one without a request.
#[derive(Debug, thiserror::Error)]
#[error("body is not an AdmissionReview with a request")]
pub struct BadReview(#[from] serde_json::Error);

/// Who may inject, as known now.
#[derive(Debug, Clone, Copy)]
pub struct Creators<'a> {
    /// Patterns of service accounts.
    pub allowed: &'a AllowList,
    /// UIDs of listed accounts, as far as resolved.
    pub uids: &'a [String],
    /// Mark pods that asked for a sidecar and are left without one on purpose.
    pub mark_skipped: bool,
}

/// How a request ended, for metric and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// A patch was sent.
    Injected {
        /// The defaults that the sidecar follows, see [`crate::defaults::Layers::applied_to`].
        defaults: Option<String>,
    },
    /// Nothing to do.
    Skipped(Skip),
    /// The creator is not allowed; the pod goes on without a sidecar.
    NotAllowed {
        /// The creator.
        username: String,
    },
    /// The object is something else than a pod; it goes on unchanged.
    WrongKind {
        /// Its kind.
        kind: String,
    },
    /// The pod is refused, with the text that the user sees.
    Refused(String),
}

/// The answer to a review.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The app, as the metrics name it; empty when the pod has neither annotation nor name.
    pub app: String,
    /// How it ended.
    pub ending: Ending,
    patch: json_patch::Patch,
    warnings: Vec<Warning>,
}

impl Review {
    /// Decodes a body.
    ///
    /// # Errors
    /// [`BadReview`]
    pub fn parse(body: &[u8]) -> Result<Self, BadReview> {
        Ok(serde_json::from_slice(body)?)
    }

    /// The namespace of the request.
    pub fn namespace(&self) -> &str {
        self.request.namespace.as_deref().unwrap_or_default()
    }

    /// Whether nothing will be stored.
    pub fn is_dry_run(&self) -> bool {
        self.request.dry_run.unwrap_or_default()
    }

    /// The object that controls the pod.
    pub fn owner(&self) -> Option<Owner> {
        PodView::parse(&self.request.object).ok()?.owner()
    }

    /// The request as the log names it. Source of the words: Dapr 1.18.
    pub fn describe(&self) -> String {
        let pod = PodView::parse(&self.request.object);
        let name = pod.map_or_else(|_| String::new(), |pod| pod.display_name());
        format!(
            "AdmissionReview for Kind=/v1, Kind=Pod, Namespace={} Name={name} UID={} UserInfo={}",
            self.namespace(),
            self.request.uid,
            self.user().username
        )
    }

    /// Decides. Source of the order: Dapr 1.18.
    pub fn decide(&self, at: &Situation<'_>, creators: &Creators<'_>) -> Verdict {
        let kind = self.request.kind.as_ref().map(|k| k.kind.as_str()).unwrap_or_default();
        if kind != "Pod" {
            return Verdict::unchanged("", Ending::WrongKind { kind: kind.to_owned() });
        }
        let allowed = || creators.allowed.admits(self.user(), creators.uids);
        let pod = match PodView::parse(&self.request.object) {
            Ok(pod) => pod,
            Err(_) if !allowed() => return Verdict::unchanged("", self.not_allowed_ending()),
            Err(error) => return Verdict::from_outcome("", Err(InjectError::from(error))),
        };
        let app = app_of(&pod);
        match declined(&pod, at.policy) {
            Some(Skip::NamespaceDisabled) if !pod.has_container(names::SIDECAR_CONTAINER) => {
                self.disabled_here(app, &pod, creators)
            }
            None if !allowed() => self.not_allowed(app, &pod, creators),
            _ => Verdict::from_outcome(app, mutate(&pod, at)),
        }
    }

    fn user(&self) -> &UserInfo {
        static NOBODY: UserInfo =
            UserInfo { username: String::new(), uid: String::new(), groups: None };
        self.request.user_info.as_ref().unwrap_or(&NOBODY)
    }

    fn not_allowed_ending(&self) -> Ending {
        Ending::NotAllowed { username: self.user().username.clone() }
    }

    fn not_allowed(&self, app: &str, pod: &PodView<'_>, creators: &Creators<'_>) -> Verdict {
        let mut verdict = Verdict::unchanged(app, self.not_allowed_ending());
        if !pod.has_container(names::SIDECAR_CONTAINER) {
            let user = quoted(&self.user().username);
            let text = format!(
                "sidecar not injected: user {user} is neither in group system:masters nor in \
                 ALLOWED_SERVICE_ACCOUNTS of the sidecar injector"
            );
            verdict.warnings.push(Warning { about: "creator", text });
            verdict.mark(pod, SKIPPED_NOT_ALLOWED, creators);
        }
        verdict
    }

    fn disabled_here(&self, app: &str, pod: &PodView<'_>, creators: &Creators<'_>) -> Verdict {
        let mut verdict = Verdict::unchanged(app, Ending::Skipped(Skip::NamespaceDisabled));
        let text = format!(
            "sidecar not injected: namespace {} has the label {LABEL_INJECTION}=disabled",
            self.namespace()
        );
        verdict.warnings.push(Warning { about: "namespace", text });
        verdict.mark(pod, SKIPPED_NAMESPACE, creators);
        verdict
    }

    /// The review to send back.
    pub fn answer<'a>(&'a self, verdict: &'a Verdict) -> Answer<'a> {
        let some = Some(&verdict.patch).filter(|patch| !patch.0.is_empty());
        // A patch is texts and JSON values: writing it cannot fail.
        let patch = some.and_then(|patch| serde_json::to_vec(patch).ok());
        let patch = patch.map(|bytes| base64::engine::general_purpose::STANDARD.encode(bytes));
        let message = match &verdict.ending {
            Ending::Refused(message) => Some(runtime::printable(message)),
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
                warnings: warnings::bounded(&verdict.warnings),
            },
        }
    }
}

/// The outgoing review. `patch` and `patchType` are both there or both absent.
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

impl Verdict {
    /// The patch; empty when nothing changes.
    pub fn patch(&self) -> &json_patch::Patch {
        &self.patch
    }

    /// The sentences for the user, before they are cut to the API server's limits.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    fn unchanged(app: &str, ending: Ending) -> Self {
        Self {
            app: app.to_owned(),
            ending,
            patch: json_patch::Patch::default(),
            warnings: Vec::new(),
        }
    }

    /// Marks a pod that is left alone on purpose, where a guard has to know.
    fn mark(&mut self, pod: &PodView<'_>, reason: &str, creators: &Creators<'_>) {
        if creators.mark_skipped {
            let mut patch = PatchWriter::new(pod);
            patch.annotation(ANNOTATION_INJECTION_SKIPPED, reason);
            self.patch = patch.finish();
        }
    }

    fn from_outcome(app: &str, outcome: Result<crate::mutate::Outcome, InjectError>) -> Self {
        let mut verdict = Self::unchanged(app, Ending::Injected { defaults: None });
        match outcome {
            Err(error) => verdict.ending = Ending::Refused(error.to_string()),
            Ok(outcome) => {
                verdict.warnings = outcome.warnings;
                match outcome.change {
                    Change::Nothing(skip) => verdict.ending = Ending::Skipped(skip),
                    Change::Inject { patch, defaults, .. } => {
                        verdict.patch = patch;
                        verdict.ending = Ending::Injected { defaults };
                    }
                    Change::Complete { patch, .. } => verdict.patch = patch,
                }
            }
        }
        verdict
    }
}

/// How metrics and logs call the app: by its annotation, else by the pod's name.
fn app_of<'a>(pod: &PodView<'a>) -> &'a str {
    pod.annotation(ANNOTATION_APP_ID).filter(|id| !id.is_empty()).unwrap_or_else(|| pod.name())
}
