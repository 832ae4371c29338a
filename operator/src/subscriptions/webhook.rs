//! The conversion webhook: `POST /convert`.
use axum::{
    Json, Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::post,
};

use crate::subscriptions::{conversion, crd_patch};

/// Largest review: the API server sends pages of 500 objects.
pub(crate) const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;

/// The routes of the webhook; every other path is 404.
pub(crate) fn router() -> Router {
    let limit = DefaultBodyLimit::max(MAX_BODY_BYTES);
    Router::new().route(crd_patch::PATH, post(convert)).layer(limit)
}

async fn convert(body: Bytes) -> Response {
    let review = serde_json::from_slice(&body).ok().and_then(conversion::review);
    match review {
        Some(answer) => Json(answer).into_response(),
        None => StatusCode::BAD_REQUEST.into_response(),
    }
}
