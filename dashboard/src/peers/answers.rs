//! Parses the answers of sidecars and services. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Path of a sidecar's metadata on its public port (Dapr 1.18).
pub(crate) const METADATA: &str = "/v1.0/metadata";
/// Path of placement's tables on its health port (Dapr 1.18).
pub(crate) const PLACEMENT_STATE: &str = "/placement/state";
/// Path of the counts of jobs on the health port of our scheduler.
pub(crate) const SCHEDULER_JOBS: &str = "/scheduler/jobs";
/// Path of metrics.
pub(crate) const METRICS: &str = "/metrics";

/// A sidecar's metadata, `GET /v1.0/metadata` (Dapr 1.18). Its `extended` member holds values that
/// an application set, and is not read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Metadata {
    pub(crate) runtime_version: String,
    pub(crate) enabled_features: Vec<String>,
    pub(crate) components: Vec<LoadedComponent>,
    pub(crate) subscriptions: Vec<LoadedSubscription>,
    pub(crate) http_endpoints: Vec<Named>,
    pub(crate) actor_runtime: ActorRuntime,
    pub(crate) scheduler: Scheduler,
    pub(crate) workflows: Workflows,
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

/// Placement's tables, `GET /placement/state` (Dapr 1.18). A replica that does not lead answers
/// `null`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct PlacementState {
    pub(crate) tables: BTreeMap<String, Table>,
}

/// The actor hosts of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Table {
    pub(crate) hosts: Vec<Host>,
    pub(crate) version: u64,
}

/// A sidecar that hosts actors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Host {
    /// Address and port.
    pub(crate) name: String,
    /// App id.
    pub(crate) id: String,
    /// Actor types.
    pub(crate) entities: Vec<String>,
}

/// Counts of the jobs of one scheduler, `GET /scheduler/jobs`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct JobCounts {
    pub(crate) groups: Vec<JobGroup>,
    /// Jobs of further groups.
    pub(crate) omitted: u64,
}

/// The jobs of an application, or the reminders of an actor type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct JobGroup {
    pub(crate) namespace: String,
    /// `job` or `actor`.
    pub(crate) kind: String,
    /// App id or actor type.
    pub(crate) name: String,
    pub(crate) jobs: u64,
    /// Due, without a sidecar that could take them.
    pub(crate) staged: u64,
    /// Due, wait for a limit or for a sidecar that reads.
    pub(crate) waiting: u64,
    /// Delivered, without an answer.
    pub(crate) in_flight: u64,
    /// When the next one is due.
    pub(crate) next_due: Option<Timestamp>,
}

/// Reads an answer as JSON; `None` if it is invalid.
pub(crate) fn json<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).ok()
}

/// The value of a metric without labels in the text format of Prometheus 0.0.4.
pub(crate) fn metric(body: &[u8], name: &str) -> Option<f64> {
    let text = std::str::from_utf8(body).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    rest.split_whitespace().next()?.parse().ok()
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
        let metadata: Metadata = json(ANSWER.as_bytes()).unwrap();
        assert_eq!(metadata.components[0].name, "state");
        assert_eq!(metadata.subscriptions[0].rules[0].path, "/orders");
        assert_eq!(metadata.actor_runtime.active_actors[0].count, 2);
        assert_eq!(metadata.scheduler.connected_addresses, ["10.0.0.5:50006"]);
        assert!(!serde_json::to_string(&metadata).unwrap().contains("abc"));
    }

    #[test]
    fn a_replica_that_does_not_lead_has_no_tables() {
        assert_eq!(json::<Option<PlacementState>>(b"null"), Some(None));
        let state = json::<Option<PlacementState>>(
            br#"{"tables":{"shop":{"hosts":[{"name":"10.0.0.4:50002","id":"cart","entities":["Cart"]}],"version":3}}}"#,
        );
        assert_eq!(state.unwrap().unwrap().tables["shop"].hosts[0].entities, ["Cart"]);
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = b"# HELP a b\na_total 1\na{x=\"y\"} 2\na 1.7e+09\n";
        assert_eq!(metric(text, "a"), Some(1.7e9));
        assert_eq!(metric(text, "b"), None);
    }
}
