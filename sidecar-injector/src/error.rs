//! Requests that are answered by HTTP status instead of a review.
//! Source of codes and texts: Dapr 1.18, injector; Kubernetes takes each for a failed call.

use http::StatusCode;

/// Why a request is not answered with a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// No body, or one that could not be read.
    #[error("empty body")]
    EmptyBody,
    /// More than the limit.
    #[error("body is larger than 8 MiB")]
    TooLarge,
    /// The body did not arrive in time.
    #[error("body did not arrive within 10 seconds")]
    TooSlow,
    /// Something else than JSON.
    #[error("invalid Content-Type, expected `application/json`")]
    ContentType,
    /// JSON that is no AdmissionReview with a request, or no JSON.
    #[error("body is not an AdmissionReview with a request")]
    NoReview,
}

impl BadRequest {
    /// The status to answer with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::EmptyBody | Self::NoReview => StatusCode::BAD_REQUEST,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

impl axum::response::IntoResponse for BadRequest {
    fn into_response(self) -> axum::response::Response {
        (self.status(), self.to_string()).into_response()
    }
}
