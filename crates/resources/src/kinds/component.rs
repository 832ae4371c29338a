//! `Component`: one building block (state store, pub/sub, binding, …) of a namespace. The official
//! ones are in [`crate::component_types`].
use serde::{Deserialize, Serialize};

use crate::crd::custom_resource;
use crate::shared::{Auth, NameValuePair, Rest};

custom_resource! {
    /// One building block of a namespace; its name is the one apps use.
    scoped Component "v1alpha1" "components" {
        /// What it is and its settings.
        pub spec: ComponentSpec,
        /// The secret store of the references in `spec.metadata`. Always printed (Dapr 1.18).
        pub auth: Auth,
    }
}

/// What a Component is and its settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ComponentSpec {
    /// `<category>.<name>`, for example `state.redis`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `v1`, …
    pub version: String,
    /// The sidecar keeps running when this component fails to start.
    pub ignore_errors: bool,
    /// Settings; `None` is printed as `null`, an empty list as `[]`.
    pub metadata: Option<Vec<NameValuePair>>,
    /// Go duration; empty means the sidecar's default of 5 s.
    pub init_timeout: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
