//! The part of the snapshot that the sender of a request may see.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use runtime::clock;

use super::Pages;
use crate::cluster::reviews::ReviewError;
use crate::model::Snapshot;
use crate::model::access::bearer;

/// The snapshot, or with `--auth=token` the part of it that the token's owner may see.
pub(super) struct Permitted(pub(super) Snapshot);

impl FromRequestParts<Pages> for Permitted {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, pages: &Pages) -> Result<Self, Response> {
        let all = pages.cluster.snapshot();
        let Some(reviews) = &pages.reviews else { return Ok(Self(all)) };
        let header = parts.headers.get(header::AUTHORIZATION);
        let header = header.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let token = bearer(header).ok_or_else(|| refuse(&ReviewError::Unauthorized))?;
        let part = reviews.restrict(token, &all, clock::monotonic()).await;
        part.map(Self).map_err(|error| refuse(&error))
    }
}

fn refuse(error: &ReviewError) -> Response {
    match error {
        ReviewError::Unauthorized => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            let words = "a bearer token that the API server accepts is required: the proxy in front of the dashboard sends it in the header Authorization\n";
            (StatusCode::UNAUTHORIZED, challenge, words).into_response()
        }
        ReviewError::Unavailable(_) => {
            tracing::warn!(target: "dapr.dashboard", "{error}");
            let words = "the API server does not say what this user may see: try again; the log of the dashboard has the reason\n";
            (StatusCode::SERVICE_UNAVAILABLE, words).into_response()
        }
    }
}
