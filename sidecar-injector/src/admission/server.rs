//! The webhook over HTTP: decodes requests, decides, answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use identity::TrustAnchors;
use tokio::sync::{mpsc, watch};

use super::allow_list::{AllowList, AllowedUsers};
use super::body::{BodyBudget, ReceivedBody};
use super::caller::{Caller, CallerProof};
use super::decision::{AdmissionDecision, Outcome};
use super::error::BadRequest;
use super::metrics::AdmissionMetrics;
use super::review::Review;
use crate::cluster::{ClusterSnapshot, InjectionEvent};
use crate::pod::NamespacePolicy;
use crate::sidecar::{InjectionContext, Settings};

/// Target of the log lines.
const LOG: &str = "dapr.injector.service";
/// Reason for unknown Components that a caller who is not the API server gets.
const UNVERIFIED: &str = "the request does not carry the path token of the API server";

/// Settings of the webhook.
#[derive(Debug, Clone)]
pub struct AdmissionPolicy {
    /// Settings of sidecars.
    pub settings: Settings,
    /// Service accounts that are allowed to inject.
    pub allowed: AllowList,
    /// Whether pods that are deliberately not injected get `dapr.io/injection-skipped`.
    pub mark_skipped: bool,
    /// How the API server proves its identity.
    pub caller_proof: CallerProof,
}

/// State of the handler.
#[derive(Debug)]
pub struct Webhook {
    policy: AdmissionPolicy,
    snapshot: ClusterSnapshot,
    anchors: watch::Receiver<Arc<TrustAnchors>>,
    metrics: AdmissionMetrics,
    called: watch::Sender<bool>,
    events: Option<mpsc::Sender<InjectionEvent>>,
    bodies: BodyBudget,
}

impl Webhook {
    /// `called` becomes true with the first review of the API server. Without `events` no Event is
    /// written.
    pub fn new(
        policy: AdmissionPolicy,
        snapshot: ClusterSnapshot,
        anchors: watch::Receiver<Arc<TrustAnchors>>,
        metrics: AdmissionMetrics,
        called: watch::Sender<bool>,
        events: Option<mpsc::Sender<InjectionEvent>>,
    ) -> Self {
        let bodies = BodyBudget::default();
        Self { policy, snapshot, anchors, metrics, called, events, bodies }
    }
}

/// The routes: `/mutate` and `/mutate/<token>`, for every method.
pub fn router(webhook: Webhook) -> Router {
    Router::new()
        .route("/mutate", any(async |state, request| mutate(state, None, request).await))
        .route(
            "/mutate/{token}",
            any(async |state, Path(token): Path<String>, request| {
                mutate(state, Some(&token), request).await
            }),
        )
        .with_state(Arc::new(webhook))
}

async fn mutate(
    State(webhook): State<Arc<Webhook>>,
    segment: Option<&str>,
    request: Request,
) -> Response {
    let Some(caller) = webhook.policy.caller_proof.check(segment) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let started = runtime::clock::monotonic();
    let response = match webhook.review(request).await {
        Ok((review, _body)) => {
            if caller == Caller::Verified && !*webhook.called.borrow() {
                webhook.called.send_replace(true);
            }
            catch_panic(&webhook.metrics, || webhook.answer(&review, caller))
        }
        Err(error) => {
            tracing::error!(target: LOG, "request is not an admission review: {error}");
            webhook.metrics.bad_request(error);
            error.into_response()
        }
    };
    webhook.metrics.answered(runtime::clock::monotonic().duration_since(started));
    response
}

/// Answers a review. A panic fails this request only: the API server applies the failure policy,
/// and the next request is served.
fn catch_panic(metrics: &AdmissionMetrics, answer: impl FnOnce() -> Response) -> Response {
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or_else(|_| {
        tracing::error!(target: LOG,
            "panic while processing a pod, see standard error; this is a defect of the injector");
        metrics.panicked();
        (StatusCode::INTERNAL_SERVER_ERROR, "the injector failed on this pod").into_response()
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
}

impl Webhook {
    /// Receives and decodes a review. The body counts against the budget until it is dropped.
    async fn review(&self, request: Request) -> Result<(Review, ReceivedBody), BadRequest> {
        let (head, body) = request.into_parts();
        let body = self.bodies.receive(&head.headers, body).await?;
        if !is_json(&head.headers) {
            return Err(BadRequest::ContentType);
        }
        Ok((Review::parse(&body.bytes)?, body))
    }

    fn answer(&self, review: &Review, caller: Caller) -> Response {
        let decision = self.decide(review, caller);
        log(review, &decision);
        if caller == Caller::Verified
            && let Some(events) = &self.events
            && let Some(event) = review.event(&decision)
        {
            // With a full queue the Event is dropped; the next pod of this owner yields another.
            let _ = events.try_send(event);
        }
        let response = match serde_json::to_vec(&review.answer(&decision)) {
            Ok(body) => {
                let json = HeaderValue::from_static("application/json");
                ([(CONTENT_TYPE, json)], body).into_response()
            }
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        };
        // Last, so that a request that panics above is counted once.
        self.metrics.decided(&decision.app, &decision.outcome, decision.warnings());
        response
    }

    fn decide(&self, review: &Review, caller: Caller) -> AdmissionDecision {
        let anchors = self.anchors.borrow().clone();
        let components = self.snapshot.components();
        let namespaces = self.snapshot.namespaces();
        let namespace = review.namespace();
        let cx = InjectionContext {
            settings: &self.policy.settings,
            namespace,
            policy: namespaces.get(namespace).unwrap_or(NamespacePolicy::NONE),
            platform: self.snapshot.platform(),
            trust_anchors: anchors.pem(),
            mtls_enabled: self.snapshot.mtls_enabled(),
            components: match caller {
                Caller::Verified => components.of(namespace),
                Caller::Unverified => Err(UNVERIFIED),
            },
        };
        let uids = self.snapshot.uids();
        let users = AllowedUsers {
            allowed: &self.policy.allowed,
            uids: &uids,
            mark_skipped: self.policy.mark_skipped,
        };
        review.decide(&cx, &users)
    }
}

fn log(review: &Review, decision: &AdmissionDecision) {
    if !matches!(decision.outcome, Outcome::Skipped(_) | Outcome::WrongKind { .. }) {
        tracing::info!(target: LOG, "{}", review.describe());
    }
    let (app, namespace) = (decision.app.as_str(), review.namespace());
    match &decision.outcome {
        Outcome::Injected { defaults } => {
            tracing::info!(target: LOG, app_id = app, namespace, defaults,
                operations = decision.patch().0.len(), "Sidecar injector succeeded injection for app '{app}'");
        }
        Outcome::Refused(why) => {
            tracing::error!(target: LOG, app_id = app, namespace,
                "Sidecar injector failed to inject for app '{app}'. Error: {why}");
        }
        Outcome::NotAllowed { username } => {
            tracing::error!(target: LOG, app_id = app, namespace,
                "service account '{username}' not on the list of allowed controller accounts");
        }
        Outcome::WrongKind { kind } => {
            tracing::error!(target: LOG, namespace, "invalid kind for review: {kind}");
        }
        Outcome::Skipped(reason) => {
            tracing::debug!(target: LOG, app_id = app, namespace, ?reason, "pod not changed");
        }
    }
    for warning in decision.warnings() {
        tracing::warn!(target: LOG, app_id = app, namespace, "{warning}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_fails_its_own_request_and_is_counted() {
        let registry = prometheus::Registry::new();
        let metrics = AdmissionMetrics::register(&registry).unwrap();
        let response = catch_panic(&metrics, || panic!("a defect"));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains(r#"failed_total{app_id="",reason="panic"} 1"#), "{text}");
        assert!(text.contains("requests_total 1"), "{text}");
        let response = catch_panic(&metrics, || StatusCode::OK.into_response());
        assert_eq!(response.status(), StatusCode::OK);
    }
}
