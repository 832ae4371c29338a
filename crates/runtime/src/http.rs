//! The two plain HTTP ports of every service: health and metrics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::any;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;
use tower::ServiceExt as _;

use crate::flags::ProcessFlags;
use crate::health::Readiness;
use crate::scope::{BoxError, Scope};
use crate::server::{Limits, PlainText, Server};

/// Why a port is not served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// All interfaces: the port is taken, or needs a right.
    #[error("listen on port {port}")]
    AllInterfaces {
        /// The port.
        port: u16,
        /// The error of the system.
        #[source]
        cause: std::io::Error,
    },
    /// The address is no IP address or name of this machine, or the port is taken.
    #[error("listen on {address}:{port}")]
    Address {
        /// The address as given.
        address: String,
        /// The port.
        port: u16,
        /// The error of the system.
        #[source]
        cause: std::io::Error,
    },
}

/// Why health and metrics are not served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("--metrics-port {text:?} is not a port number")]
    MetricsPort {
        text: String,
        #[source]
        cause: std::num::ParseIntError,
    },
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// Binds a listener. An empty address means all interfaces of both IP versions, and of IPv4 alone
/// where the machine has no IPv6.
///
/// # Errors
/// [`ListenError`]: the address is no IP address or name, or the port is taken.
pub async fn listen(address: &str, port: u16) -> Result<TcpListener, ListenError> {
    if address.is_empty() {
        let any6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let any4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        return match TcpListener::bind(any6).await {
            Err(e) if e.kind() != std::io::ErrorKind::AddrInUse => TcpListener::bind(any4).await,
            bound => bound,
        }
        .map_err(|cause| ListenError::AllInterfaces { port, cause });
    }
    let host = address.trim_start_matches('[').trim_end_matches(']');
    TcpListener::bind((host, port)).await.map_err(|cause| ListenError::Address {
        address: address.to_owned(),
        port,
        cause,
    })
}

/// Starts the health and, unless switched off, the metrics server.
pub(crate) async fn start(flags: &ProcessFlags, scope: &Scope) -> Result<(), StartError> {
    let metrics = scope.ready("metrics-exporter");
    if flags.enable_metrics {
        let port: u16 = flags
            .metrics_port
            .parse()
            .map_err(|cause| StartError::MetricsPort { text: flags.metrics_port.clone(), cause })?;
        let listener = listen(&flags.metrics_listen_address, port).await?;
        scope.spawn_last(
            "metrics-exporter",
            serve("metrics", listener, metrics_router(scope.metrics()), scope),
        );
    }
    metrics.set_ready();

    let health = scope.ready("healthz-server");
    let listener = listen(&flags.healthz_listen_address, flags.healthz_port).await?;
    tracing::info!(target: "dapr.healthz", port = flags.healthz_port, "Healthz server is listening");
    let router = health_router(scope.readiness().clone(), scope.extra_routes());
    scope.spawn_last("healthz-server", serve("healthz", listener, router, scope));
    health.set_ready();
    Ok(())
}

/// A server with connections and descriptors of its own, so that the health port answers whatever
/// happens to the main port.
fn serve(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    scope: &Scope,
) -> impl Future<Output = Result<(), BoxError>> + use<> {
    let scope = scope.clone();
    async move {
        let server = Server::new(name, listener, router, PlainText).limits(Limits::PROBES);
        server.run_until(scope.drained().clone(), &scope).await;
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    /// `--healthz-listen-address` (Dapr 1.19): that address alone, IPv6 with or without brackets.
    #[rstest::rstest]
    #[case::ipv4("127.0.0.1", "127.0.0.1")]
    #[case::ipv6("::1", "::1")]
    #[case::brackets("[::1]", "::1")]
    #[case::name("localhost", "127.0.0.1")]
    #[tokio::test]
    async fn listens_on_the_given_address_alone(#[case] address: &str, #[case] want: IpAddr) {
        let bound = listen(address, 0).await.unwrap().local_addr().unwrap().ip();
        assert!(bound == want || address == "localhost" && bound.is_loopback(), "{bound}");
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_named() {
        let error = listen("300.1.1.1", 0).await.unwrap_err().to_string();
        assert!(error.contains("300.1.1.1:0"), "{error}");
    }

    const LIMIT: Duration = Duration::from_secs(20);

    async fn health_server(scope: &Scope) -> SocketAddr {
        let listener = listen("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        scope.ready("part").set_ready();
        let router = health_router(scope.readiness().clone(), scope.extra_routes());
        scope.spawn("healthz-server", serve("healthz", listener, router, scope));
        address
    }

    /// The answer to a probe from another machine than that of the flood.
    async fn probe(address: SocketAddr) -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let request = b"GET /healthz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(LIMIT, read).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn idle_connections_neither_pile_up_nor_silence_the_health_port() {
        let scope = Scope::for_test();
        let address = health_server(&scope).await;
        let mut idle = Vec::new();
        for _ in 0..=Limits::PROBES.connections {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let refused = idle.last_mut().unwrap().read_u8();
        let refused = tokio::time::timeout(LIMIT, refused).await.unwrap();
        assert!(refused.is_err(), "the last one is closed at once: {refused:?}");

        let answer = probe(address).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

        for mut stream in idle {
            let ended = tokio::time::timeout(LIMIT, stream.read_u8()).await;
            assert!(ended.is_ok(), "a connection without a request outlives its deadline");
        }
        scope.drain(LIMIT).await;
    }
}
