//! The webhook over HTTP: decode, decide, answer. No call leaves the process on the way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use identity::TrustAnchors;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::error::BadRequest;
use crate::events::Report;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::mutate::Situation;
use crate::namespace::NamespacePolicy;
use crate::review::{Creators, Ending, Review, Verdict};

/// Largest body. The API server stores objects of at most 1.5 MiB and a review carries two.
pub(crate) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// How long a body may take to arrive; the API server gives up after 10 seconds by default.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the handler needs.
#[derive(Debug)]
pub struct Webhook {
    /// The injector's configuration.
    pub config: Arc<Config>,
    /// Snapshots of the cluster.
    pub live: Live,
    /// What sidecars trust.
    pub anchors: watch::Receiver<Arc<TrustAnchors>>,
    /// Metrics.
    pub metrics: Metrics,
    /// Turns true with the first review.
    pub called: watch::Sender<bool>,
    /// Where events for owners go; `None` when they are off.
    pub reports: Option<mpsc::Sender<Report>>,
}

/// The routes: `/mutate`, whatever the method. Everything else is 404.
pub fn router(webhook: Webhook) -> Router {
    Router::new().route("/mutate", any(mutate)).with_state(Arc::new(webhook))
}

async fn mutate(State(webhook): State<Arc<Webhook>>, request: Request) -> Response {
    let started = runtime::clock::monotonic();
    let response = match receive(request).await {
        Ok(review) => {
            if !*webhook.called.borrow() {
                webhook.called.send_replace(true);
            }
            contained(&webhook.metrics, || webhook.answer(&review))
        }
        Err(bad) => {
            tracing::error!(target: "dapr.injector.service", "request is no admission review: {bad}");
            webhook.metrics.bad_request();
            bad.into_response()
        }
    };
    webhook.metrics.answered(runtime::clock::monotonic().duration_since(started));
    response
}

/// Answers a review. Should our own code panic over it, that review alone fails: kube-apiserver then
/// does what `failurePolicy` says, and the next pod is served as before.
fn contained(metrics: &Metrics, answer: impl FnOnce() -> Response) -> Response {
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
        tracing::error!(target: "dapr.injector.service",
            "a panic while a pod was looked at, see standard error; this is a defect of the injector");
        metrics.panicked();
        (http::StatusCode::INTERNAL_SERVER_ERROR, "the injector failed on this pod").into_response()
    })
}

async fn receive(request: Request) -> Result<Review, BadRequest> {
    let (head, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIMEOUT, read(&head.headers, body))
        .await
        .map_err(|_| BadRequest::TooSlow)??;
    if body.is_empty() {
        return Err(BadRequest::EmptyBody);
    }
    let media_type =
        head.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(BadRequest::ContentType);
    }
    Review::parse(&body).map_err(|_| BadRequest::NoReview)
}

/// The body, never more of it than the limit.
async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, BadRequest> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(BadRequest::TooLarge);
    }
    axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(error) = cause {
            if error.is::<http_body_util::LengthLimitError>() {
                return BadRequest::TooLarge;
            }
            cause = error.source();
        }
        BadRequest::EmptyBody
    })
}

impl Webhook {
    fn answer(&self, review: &Review) -> Response {
        let anchors = self.anchors.borrow().clone();
        let components = self.live.components();
        let namespaces = self.live.namespaces();
        let namespace = review.namespace();
        let situation = Situation {
            settings: &self.config.settings,
            namespace,
            policy: namespaces.get(namespace).unwrap_or(NamespacePolicy::NONE),
            platform: self.live.platform(),
            trust_anchors: anchors.pem(),
            mtls_enabled: self.live.mtls_enabled(),
            components: components.of(namespace),
        };
        let uids = self.live.uids();
        let creators = Creators {
            allowed: &self.config.allowed,
            uids: &uids,
            mark_skipped: self.config.mark_skipped,
        };
        let verdict = review.decide(&situation, &creators);
        log(review, &verdict);
        if let Some((reports, report)) = self.reports.as_ref().zip(Report::of(review, &verdict)) {
            // A full queue: the next pod of this owner tells the same.
            let _ = reports.try_send(report);
        }
        let response = match serde_json::to_vec(&review.answer(&verdict)) {
            Ok(body) => {
                let json = HeaderValue::from_static("application/json");
                ([(CONTENT_TYPE, json)], body).into_response()
            }
            Err(error) => {
                (http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
            }
        };
        // Last, so that a request that panics above is counted once.
        self.metrics.decided(&verdict.app, &verdict.ending, verdict.warnings());
        response
    }
}

fn log(review: &Review, verdict: &Verdict) {
    if !matches!(verdict.ending, Ending::Skipped(_) | Ending::WrongKind { .. }) {
        tracing::info!(target: "dapr.injector.service", "{}", review.describe());
    }
    let (app, namespace) = (verdict.app.as_str(), review.namespace());
    match &verdict.ending {
        Ending::Injected { defaults } => {
            tracing::info!(target: "dapr.injector.service", app_id = app, namespace, defaults,
                operations = verdict.patch().0.len(), "Sidecar injector succeeded injection for app '{app}'");
        }
        Ending::Refused(why) => {
            tracing::error!(target: "dapr.injector.service", app_id = app, namespace,
                "Sidecar injector failed to inject for app '{app}'. Error: {why}");
        }
        Ending::NotAllowed { username } => {
            tracing::error!(target: "dapr.injector.service", app_id = app, namespace,
                "service account '{username}' not on the list of allowed controller accounts");
        }
        Ending::WrongKind { kind } => {
            tracing::error!(target: "dapr.injector.service", namespace, "invalid kind for review: {kind}");
        }
        Ending::Skipped(why) => {
            tracing::debug!(target: "dapr.injector.service", app_id = app, namespace, ?why, "nothing to do");
        }
    }
    for warning in verdict.warnings() {
        tracing::warn!(target: "dapr.injector.service", app_id = app, namespace, "{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_fails_its_own_request_and_is_counted() {
        let registry = prometheus::Registry::new();
        let metrics = Metrics::register(&registry).unwrap();
        let response = contained(&metrics, || panic!("a defect"));
        assert_eq!(response.status(), http::StatusCode::INTERNAL_SERVER_ERROR);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains(r#"failed_total{app_id="",reason="panic"} 1"#), "{text}");
        assert!(text.contains("requests_total 1"), "{text}");
        let response = contained(&metrics, || http::StatusCode::OK.into_response());
        assert_eq!(response.status(), http::StatusCode::OK);
    }
}
