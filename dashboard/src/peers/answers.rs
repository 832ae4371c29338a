//! Parses the answers of sidecars and services. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;

/// Path of a sidecar's metadata on its public port (Dapr 1.18).
pub(crate) const METADATA: &str = "/v1.0/metadata";
/// Path of placement's tables on its health port (Dapr 1.18).
pub(crate) const PLACEMENT_STATE: &str = "/placement/state";
/// Path of the counts of jobs on the health port of our scheduler.
pub(crate) const SCHEDULER_JOBS: &str = "/scheduler/jobs";
/// Path of metrics.
pub(crate) const METRICS: &str = "/metrics";

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
