//! `GET /placement/state`: the tables for people and tools. Source: Dapr 1.18; zero values are
//! left out, numbers are numbers, keys are those of the messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;

use crate::rounds::message;
use crate::rounds::table::Table;
use crate::streams::handle::{MembershipHandle, Stopped, Tables};

/// Ours: distinguishes the leader's answer from the `null` of the other replicas.
const LEADER: &str = "x-dapr-placement-leader";

/// The route of the state endpoint.
pub(crate) fn router(membership: MembershipHandle) -> Router {
    Router::new().route(
        "/placement/state",
        get(async move || match membership.tables().await {
            Ok(Some(tables)) => ([(LEADER, "true")], Json(State::of(&tables))).into_response(),
            Ok(None) => ([(LEADER, "false")], Json(())).into_response(), // `null`
            Err(Stopped) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "placement is stopping").into_response()
            }
        }),
    )
}

#[derive(Serialize)]
struct State<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tables: BTreeMap<&'a str, Namespace<'a>>,
}

#[derive(Serialize)]
struct Namespace<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<Host<'a>>,
    #[serde(skip_serializing_if = "is_zero")]
    version: u64,
}

#[derive(Serialize)]
struct Host<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    port: i64,
    #[serde(skip_serializing_if = "is_zero")]
    load: i64,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    entities: &'a [String],
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pod: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    api_level: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    operation: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

impl<'a> State<'a> {
    fn of(tables: &'a Tables) -> Self {
        let namespace = |(name, table): (&'a Arc<str>, &'a Arc<Table>)| {
            let hosts = table.hosts().iter().map(|host| Host::of(host)).collect();
            (&**name, Namespace { hosts, version: table.version() })
        };
        Self { tables: tables.iter().map(namespace).collect() }
    }
}

impl<'a> Host<'a> {
    fn of(host: &'a message::Host) -> Self {
        Self {
            name: &host.name,
            port: host.port,
            load: host.load,
            entities: &host.entities,
            id: &host.app_id,
            pod: &host.pod,
            api_level: host.api_level,
            namespace: &host.namespace,
            operation: host.operation,
            version: host.version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::message::StreamId;

    #[test]
    fn prints_as_the_reference_does() {
        let host = Arc::new(message::Host {
            name: "10.0.0.1:50002".into(),
            entities: vec!["a".into(), "b".into()],
            app_id: "app".into(),
            api_level: 20,
            namespace: "default".into(),
            operation: 1,
            ..message::Host::default()
        });
        let mut tables = Tables::new();
        assert_eq!(serde_json::to_string(&State::of(&tables)).unwrap(), "{}");
        tables.insert("empty".into(), Arc::new(Table::new(0, [])));
        tables.insert("default".into(), Arc::new(Table::new(3, [(StreamId(1), &host)])));
        assert_eq!(
            serde_json::to_string(&State::of(&tables)).unwrap(),
            r#"{"tables":{"default":{"hosts":[{"name":"10.0.0.1:50002","entities":["a","b"],"id":"app","api_level":20,"namespace":"default","operation":1}],"version":3},"empty":{}}}"#
        );
    }
}
