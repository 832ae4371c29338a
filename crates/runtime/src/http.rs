//! The two plain HTTP ports of every service: health and metrics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::any;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::health::Readiness;
use crate::{ProcessFlags, Scope};

/// Binds a listener. An empty address means all interfaces of both IP versions, and of IPv4 alone
/// where the machine has no IPv6.
///
/// # Errors
/// The address is no IP address or name, or the port is taken; the text names both.
pub async fn listen(address: &str, port: u16) -> anyhow::Result<TcpListener> {
    if address.is_empty() {
        let any6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let any4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        return match TcpListener::bind(any6).await {
            Err(e) if e.kind() != std::io::ErrorKind::AddrInUse => TcpListener::bind(any4).await,
            bound => bound,
        }
        .with_context(|| format!("listen on port {port}"));
    }
    let host = address.trim_start_matches('[').trim_end_matches(']');
    TcpListener::bind((host, port)).await.with_context(|| format!("listen on {address}:{port}"))
}

/// Starts the health and, unless switched off, the metrics server.
pub(crate) async fn start(flags: &ProcessFlags, scope: &Scope) -> anyhow::Result<()> {
    let metrics = scope.ready("metrics-exporter");
    if flags.enable_metrics {
        let port: u16 = flags.metrics_port.parse().with_context(|| {
            format!("--metrics-port {:?} is not a port number", flags.metrics_port)
        })?;
        let listener = listen(&flags.metrics_listen_address, port).await?;
        scope.spawn("metrics-exporter", serve(listener, metrics_router(scope.metrics()), scope));
    }
    metrics.set_ready();

    let health = scope.ready("healthz-server");
    let listener = listen(&flags.healthz_listen_address, flags.healthz_port).await?;
    tracing::info!(target: "dapr.healthz", port = flags.healthz_port, "Healthz server is listening");
    let router = health_router(scope.readiness().clone(), scope.extra_routes());
    scope.spawn("healthz-server", serve(listener, router, scope));
    health.set_ready();
    Ok(())
}

fn serve(
    listener: TcpListener,
    router: Router,
    scope: &Scope,
) -> impl Future<Output = anyhow::Result<()>> + use<> {
    let drained = scope.drained().clone();
    async move {
        let stop = async move { drained.cancelled().await };
        axum::serve(listener, router).with_graceful_shutdown(stop).await?;
        Ok(())
    }
}

fn metrics_router(registry: &Registry) -> Router {
    let registry = registry.clone();
    Router::new().fallback(async move || {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&registry.gather(), &mut text) {
            Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        }
    })
}

/// `/healthz` and `/readyz`: 200 when all targets are ready, else 503; `/livez`: 200 while the
/// process lives. Bodies are empty, but `/readyz` names what is missing.
/// Source: Dapr 1.18, `GET /healthz` of every control plane service; the other two are ours.
fn health_router(readiness: Readiness, extra: Arc<OnceLock<Router>>) -> Router {
    let status = |ready| if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let healthz = readiness.clone();
    Router::new()
        .route("/healthz", any(async move || status(healthz.all_ready())))
        .route(
            "/readyz",
            any(async move || {
                let waiting = readiness.waiting().join("\n");
                (status(readiness.all_ready()), waiting)
            }),
        )
        .route("/livez", any(async || StatusCode::OK))
        .fallback(async move |request: Request| match extra.get() {
            Some(routes) => routes.clone().oneshot(request).await.into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        })
}
