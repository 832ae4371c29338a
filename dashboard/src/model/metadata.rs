//! What a sidecar says of itself: `GET /v1.0/metadata` (Dapr 1.18).

use serde::{Deserialize, Serialize};

/// A sidecar's metadata. Its `extended` member holds values that an application set, and is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub(crate) runtime_version: String,
    pub(crate) enabled_features: Vec<String>,
    pub(crate) components: Vec<LoadedComponent>,
    pub(crate) subscriptions: Vec<LoadedSubscription>,
    pub(crate) http_endpoints: Vec<Named>,
    pub(crate) actor_runtime: ActorRuntime,
    pub(crate) scheduler: Scheduler,
    pub(crate) workflows: Workflows,
}

impl Metadata {
    /// Names of the Components that it loaded, sorted.
    pub fn components(&self) -> Vec<String> {
        let mut names: Vec<_> = self.components.iter().map(|c| c.name.clone()).collect();
        names.sort_unstable();
        names
    }

    /// The state of its connection to placement, `connected` if it has one.
    pub fn placement(&self) -> &str {
        self.actor_runtime.placement.trim_start_matches("placement: ")
    }

    /// Addresses of the schedulers that it is connected to.
    pub fn schedulers(&self) -> &[String] {
        &self.scheduler.connected_addresses
    }
}

/// A component that a sidecar loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct LoadedComponent {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) type_: String,
    pub(crate) version: String,
}

/// A subscription of an application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct LoadedSubscription {
    pub(crate) pubsubname: String,
    pub(crate) topic: String,
    #[serde(rename = "deadLetterTopic")]
    pub(crate) dead_letter_topic: String,
    /// `DECLARATIVE`, `PROGRAMMATIC` or `STREAMING`.
    #[serde(rename = "type")]
    pub(crate) type_: String,
    pub(crate) rules: Vec<Rule>,
}

/// A route of a subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Rule {
    pub(crate) path: String,
}

/// An object with a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Named {
    pub(crate) name: String,
}

/// The actors of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct ActorRuntime {
    pub(crate) runtime_status: String,
    pub(crate) host_ready: bool,
    pub(crate) placement: String,
    pub(crate) active_actors: Vec<ActiveActors>,
}

/// The connections of a sidecar to the scheduler.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Scheduler {
    pub(crate) connected_addresses: Vec<String>,
}

/// Actors of one type that a sidecar keeps in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct ActiveActors {
    #[serde(rename = "type")]
    pub(crate) type_: String,
    pub(crate) count: i64,
}

/// The workflow engine of a sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Workflows {
    pub(crate) connected_workers: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of daprd 1.18.3, shortened.
    const ANSWER: &str = r#"{"id":"cart","runtimeVersion":"1.18.3","enabledFeatures":["A"],
        "actors":[{"type":"Cart","count":2}],
        "components":[{"name":"state","type":"state.redis","version":"v1","capabilities":["ETAG"]}],
        "subscriptions":[{"pubsubname":"bus","topic":"orders","rules":[{"path":"/orders"}],
            "deadLetterTopic":"dead","type":"PROGRAMMATIC"}],
        "extended":{"daprRuntimeVersion":"1.18.3","appCommand":"run --token abc"},
        "appConnectionProperties":{"port":8080,"protocol":"http","channelAddress":"127.0.0.1"},
        "actorRuntime":{"runtimeStatus":"RUNNING","hostReady":true,"placement":"placement: connected",
            "activeActors":[{"type":"Cart","count":2}]},
        "scheduler":{"connected_addresses":["10.0.0.5:50006"]},
        "workflows":{"connectedWorkers":1}}"#;

    #[test]
    fn metadata_is_read_without_what_the_application_wrote() {
        let metadata: Metadata = serde_json::from_str(ANSWER).unwrap();
        assert_eq!(metadata.components(), ["state"]);
        assert_eq!(metadata.placement(), "connected");
        assert_eq!(metadata.subscriptions[0].rules[0].path, "/orders");
        assert_eq!(metadata.actor_runtime.active_actors[0].count, 2);
        assert_eq!(metadata.schedulers(), ["10.0.0.5:50006"]);
        assert!(!serde_json::to_string(&metadata).unwrap().contains("abc"));
    }
}
