//! The conversion webhook, and the CRD that must name it.
use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::DefaultBodyLimit,
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::post,
};
use futures::future;
use identity::TrustAnchors;
use kube::runtime::watcher::Event;
use runtime::{ReadyGuard, Scope, kubernetes::api_text, random};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use crate::{
    cluster::Cluster,
    conversion, crd_patch,
    follow::{Seen, follow},
    metrics::{CrdCheck, Metrics},
};

/// The CRD is looked at once in this time, for an account that may not watch it: `kubectl apply` of
/// the file, or an upgrade by the CLI, takes the webhook's address out of it.
const LOOK: Duration = Duration::from_secs(30);
/// Wait after a failure, and between two looks: whoever writes the CRD again and again is no reason
/// to do the same.
const RETRY: Duration = Duration::from_secs(2);
/// Largest review: the API server sends pages of 500 objects.
const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;

/// The routes of the webhook: `POST /convert`, everything else is unknown.
pub fn router() -> Router {
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

/// Keeps the CRD of Subscriptions naming this webhook.
pub struct CrdKeeper {
    /// The API server.
    pub cluster: Cluster,
    /// Where looks at the CRD are counted.
    pub metrics: Metrics,
    /// Where the webhook is: the control plane's namespace.
    pub namespace: String,
}

impl CrdKeeper {
    /// Keeps the CRD naming the webhook and trusting `anchors`, for as long as the scope lives.
    /// Ready once it did.
    ///
    /// # Errors
    /// None today; the type is what [`Scope::spawn`] takes.
    pub async fn run(
        self,
        anchors: watch::Receiver<Arc<TrustAnchors>>,
        ready: ReadyGuard,
        scope: Scope,
    ) -> anyhow::Result<()> {
        let written = Notify::new();
        let watch = follow(
            "CustomResourceDefinition",
            &self.metrics,
            || self.cluster.watch_crd(crd_patch::CRD),
            |seen| {
                if let Seen::Event(Event::Apply(_) | Event::InitApply(_)) = seen {
                    written.notify_one();
                }
            },
        );
        let work = self.work(anchors, ready, &written);
        scope.token().run_until_cancelled(future::join(watch, work)).await;
        Ok(())
    }

    async fn work(
        &self,
        mut anchors: watch::Receiver<Arc<TrustAnchors>>,
        ready: ReadyGuard,
        written: &Notify,
    ) {
        loop {
            let again = Instant::now() + RETRY;
            let trusted = anchors.borrow_and_update().clone();
            let outcome = self.repair(trusted.pem()).await;
            let result = *outcome.as_ref().unwrap_or(&CrdCheck::Failed);
            self.metrics.crd_checked(crd_patch::CRD, result);
            let pause = match outcome {
                Ok(_) => {
                    ready.set_ready();
                    LOOK
                }
                Err(error) => {
                    tracing::error!(target: "dapr.operator", "CRD {} not checked: {error:#}", crd_patch::CRD);
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(random::jittered(pause, 0.1)) => {}
                () = written.notified() => sleep_until(again).await,
                changed = anchors.changed() => if changed.is_err() { break },
            }
        }
        std::future::pending::<()>().await; // the scope is about to end
    }

    async fn repair(&self, anchors: &str) -> anyhow::Result<CrdCheck> {
        let crd = self.cluster.crd(crd_patch::CRD).await.map_err(|e| said(&e))?;
        let operations = crd_patch::patch(&crd, &self.namespace, anchors)?;
        let name = crd_patch::CRD;
        if operations.is_empty() {
            tracing::debug!(target: "dapr.operator", "Conversion webhook for \"{name}\" is up to date");
            return Ok(CrdCheck::Right);
        }
        self.cluster.patch_crd(name, operations).await.map_err(|e| said(&e))?;
        tracing::info!(target: "dapr.operator", "Successfully patched webhook in CRD \"{name}\"");
        Ok(CrdCheck::Patched)
    }
}

fn said(error: &kube::Error) -> anyhow::Error {
    anyhow::anyhow!(api_text(error))
}
