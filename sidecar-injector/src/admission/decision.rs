//! The decision about a review.

use resources::annotations::ANNOTATION_INJECTION_SKIPPED;

use super::allow_list::AllowedUsers;
use crate::pod::{PatchWriter, PodView, Warning};
use crate::sidecar::{Change, Mutation, Rejection, SkipReason};

/// The outcome of a request, for metrics, logs and Events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The pod gets a patch.
    Injected {
        /// The defaults in use, as value of `dapr.io/applied-defaults`.
        defaults: Option<String>,
    },
    /// The pod stays unchanged.
    Skipped(SkipReason),
    /// The user is not allowed to inject. The pod is admitted without a sidecar.
    NotAllowed {
        /// Name of the user.
        username: String,
    },
    /// The object is not a pod. It is admitted unchanged.
    WrongKind {
        /// Kind of the object.
        kind: String,
    },
    /// The pod is rejected with this message.
    Refused(String),
}

/// The decision about a review, before it is encoded as an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct AdmissionDecision {
    /// App id for metrics and logs; empty if the pod has neither annotation nor name.
    pub app: String,
    /// Result for metrics, logs and Events.
    pub outcome: Outcome,
    pub(super) patch: json_patch::Patch,
    pub(super) warnings: Vec<Warning>,
}

impl AdmissionDecision {
    /// The patch; empty if the object stays unchanged.
    pub fn patch(&self) -> &json_patch::Patch {
        &self.patch
    }

    /// The warnings, before they are cut to the limits of the API server.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    pub(super) fn unchanged(app: &str, outcome: Outcome) -> Self {
        let patch = json_patch::Patch::default();
        Self { app: app.to_owned(), outcome, patch, warnings: Vec::new() }
    }

    /// Annotates a pod that is deliberately not injected, if the admission guard is installed.
    pub(super) fn annotate_skipped(
        &mut self,
        pod: &PodView<'_>,
        reason: &str,
        users: &AllowedUsers<'_>,
    ) {
        if users.mark_skipped {
            let mut patch = PatchWriter::new(pod);
            patch.annotation(ANNOTATION_INJECTION_SKIPPED, reason);
            self.patch = patch.finish();
        }
    }

    pub(super) fn from_mutation(app: &str, mutation: Result<Mutation, Rejection>) -> Self {
        let mut decision = Self::unchanged(app, Outcome::Injected { defaults: None });
        match mutation {
            Err(rejection) => {
                decision.outcome = Outcome::Refused(rejection.to_string());
                decision.warnings = rejection.warnings;
            }
            Ok(mutation) => {
                decision.warnings = mutation.warnings;
                match mutation.change {
                    Change::Nothing(reason) => decision.outcome = Outcome::Skipped(reason),
                    Change::Inject { patch, defaults, .. } => {
                        decision.patch = patch;
                        decision.outcome = Outcome::Injected { defaults };
                    }
                    Change::Complete { patch, .. } => decision.patch = patch,
                }
            }
        }
        decision
    }
}
