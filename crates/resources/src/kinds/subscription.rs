//! `Subscription`, in its stored form `v2alpha1` and in the older `v1alpha1`.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::crd::custom_resource;
use crate::shared::{Rest, is_default};

custom_resource! {
    /// Routes the messages of a topic to paths of an app.
    scoped Subscription "v2alpha1" "subscriptions" {
        /// Topic and routes.
        pub spec: SubscriptionSpec,
    }
}

/// Topic and routes of a Subscription.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionSpec {
    /// Name of the pub/sub Component.
    pub pubsubname: String,
    /// Name of the topic.
    pub topic: String,
    /// Settings for the broker, such as `rawPayload`.
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: BTreeMap<String, String>,
    /// Rules and default path; always printed.
    pub routes: Routes,
    /// Dead-letter topic.
    #[serde(skip_serializing_if = "is_default")]
    pub dead_letter_topic: String,
    /// Delivery in batches; always printed.
    pub bulk_subscribe: BulkSubscribe,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Where the messages of a topic go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Routes {
    /// The first rule that matches wins.
    #[serde(skip_serializing_if = "is_default")]
    pub rules: Vec<RouteRule>,
    /// Path for messages that no rule matches.
    #[serde(skip_serializing_if = "is_default")]
    pub default: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// A condition on a message and the path for messages that meet it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RouteRule {
    /// CEL over the event; empty means always.
    #[serde(rename = "match")]
    pub match_: String,
    /// Path of the app.
    pub path: String,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

/// Delivery in batches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct BulkSubscribe {
    /// Whether messages arrive in batches.
    pub enabled: bool,
    /// Messages per batch; 0 means the sidecar's default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_messages_count: i32,
    /// Milliseconds to wait for a full batch; 0 means the sidecar's default.
    #[serde(skip_serializing_if = "is_default")]
    pub max_await_duration_ms: i32,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}

custom_resource! {
    /// A Subscription in the form without rules.
    scoped SubscriptionV1 as "Subscription" "v1alpha1" "subscriptions" {
        /// Topic and route.
        pub spec: SubscriptionV1Spec,
    }
}

/// Topic and route of a `v1alpha1` Subscription.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionV1Spec {
    /// Name of the pub/sub Component.
    pub pubsubname: String,
    /// Name of the topic.
    pub topic: String,
    /// Settings for the broker.
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: BTreeMap<String, String>,
    /// Path of the app that receives all messages.
    pub route: String,
    /// Dead-letter topic.
    #[serde(skip_serializing_if = "is_default")]
    pub dead_letter_topic: String,
    /// Delivery in batches; always printed.
    pub bulk_subscribe: BulkSubscribe,
    /// Unknown members; they pass through unchanged.
    #[serde(flatten)]
    pub rest: Rest,
}
