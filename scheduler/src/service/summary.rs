//! `GET /scheduler/jobs` on the health port: how many jobs each application and actor type has on this
//! member. Ours; off by default, as placement's tables are, because the port knows no users.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Json, Response};
use axum::routing::get;
use serde_json::json;

use crate::engine::summary::Summary;
use crate::streams::dispatcher::Dispatcher;

/// Path of the counts.
const PATH: &str = "/scheduler/jobs";
/// How long a caller waits for a member that has no jobs yet.
const LIMIT: Duration = Duration::from_secs(1);

/// Serves the counts.
pub(super) fn router(dispatcher: Dispatcher) -> Router {
    let answer = async move || answer(counted(&dispatcher).await.as_deref());
    Router::new().route(PATH, get(answer))
}

async fn counted(dispatcher: &Dispatcher) -> Option<Arc<Summary>> {
    tokio::time::timeout(LIMIT, dispatcher.count()).await.ok()?
}

fn answer(summary: Option<&Summary>) -> Response {
    let Some(summary) = summary else {
        let text = "this scheduler does not know its jobs yet; try again in a second";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let groups: Vec<_> = summary.groups().collect();
    Json(json!({"groups": groups, "omitted": summary.omitted()})).into_response()
}
