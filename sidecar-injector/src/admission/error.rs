//! Requests that are answered with an HTTP status instead of a review.
//! Source of statuses and texts: Dapr 1.18, injector. The API server treats each as a failed call.

use http::StatusCode;

/// Why a request gets no review as answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    /// The body is empty or the client closed the connection.
    #[error("empty body")]
    EmptyBody,
    #[error("body is larger than 8 MiB")]
    TooLarge,
    #[error("body did not arrive within 10 seconds")]
    TooSlow,
    #[error("invalid Content-Type, expected `application/json`")]
    ContentType,
    /// Not JSON, or no AdmissionReview with a request.
    #[error("body is not an AdmissionReview with a request")]
    NoReview,
    #[error("object has more values than the injector reads")]
    TooManyValues,
}

impl BadRequest {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::EmptyBody | Self::NoReview => StatusCode::BAD_REQUEST,
            Self::TooLarge | Self::TooManyValues => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    /// Value of the label `reason`.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::EmptyBody | Self::ContentType | Self::NoReview => "bad_request",
            Self::TooLarge => "body_too_large",
            Self::TooManyValues => "too_many_values",
            Self::TooSlow => "body_too_slow",
        }
    }
}

impl axum::response::IntoResponse for BadRequest {
    fn into_response(self) -> axum::response::Response {
        (self.status(), self.to_string()).into_response()
    }
}
