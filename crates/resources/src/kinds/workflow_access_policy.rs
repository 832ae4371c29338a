//! `WorkflowAccessPolicy`: which apps may start and control which workflows.
use serde::{Deserialize, Serialize};

use crate::crd::custom_resource;
use crate::shared::{Rest, is_default};

custom_resource! {
    /// Allow-list of workflow calls; its scopes are the apps that it protects.
    scoped WorkflowAccessPolicy "v1alpha1" "workflowaccesspolicies" {
        /// The rules.
        pub spec: WorkflowAccessPolicySpec,
    }
}

/// The rules of a WorkflowAccessPolicy; one match suffices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct WorkflowAccessPolicySpec {
    /// A call that no rule matches is denied.
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<WorkflowAccessRule>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// The permissions of a set of callers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct WorkflowAccessRule {
    /// Apps of the same namespace; `None` is printed as `null`.
    pub callers: Option<Vec<WorkflowCaller>>,
    /// Workflows they may call.
    #[serde(skip_serializing_if = "is_default")]
    pub workflows: Vec<WorkflowRule>,
    /// Activities they may schedule.
    #[serde(skip_serializing_if = "is_default")]
    pub activities: Vec<ActivityRule>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// An app of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct WorkflowCaller {
    /// App id of the caller.
    #[serde(rename = "appID")]
    pub app_id: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A workflow and the operations allowed on it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct WorkflowRule {
    /// Exact name or glob.
    pub name: String,
    /// `schedule`, `terminate`, `raise`, `pause`, `resume`, `purge`, `get`, `rerun`.
    pub operations: Option<Vec<String>>,
    /// History events that the caller must prove, in order (Dapr 1.19); empty grants without proof.
    #[serde(skip_serializing_if = "is_default")]
    pub requires: Vec<RequiredEvent>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// An activity that may be scheduled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ActivityRule {
    /// Exact name or glob.
    pub name: String,
    /// History events that the caller must prove, in order (Dapr 1.19); empty grants without proof.
    #[serde(skip_serializing_if = "is_default")]
    pub requires: Vec<RequiredEvent>,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A history event that the caller of a rule must prove; all three members are always printed.
/// Sidecars older than 1.19 ignore the requirement and grant (Dapr 1.19).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RequiredEvent {
    /// `activity.started`, `activity.completed`, `workflow.started`, `workflow.completed` or
    /// `event.raised`.
    pub event_type: String,
    /// Exact name of the activity, child workflow or external event; no glob.
    pub name: String,
    /// The app whose propagated history must hold the event.
    #[serde(rename = "appID")]
    pub app_id: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
