//! The two plain HTTP ports of every service: health and metrics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::any;
use prometheus::{Encoder as _, TextEncoder};
use tokio::net::{TcpListener, TcpSocket};
use tower::ServiceExt as _;

use crate::clock;
use crate::flags::ProcessFlags;
use crate::scope::{BoxError, Scope};
use crate::server::{Limits, PlainText, Server};

/// Why a port cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// All interfaces: the port is in use, or needs a privilege.
    #[error("listen on port {port}")]
    AllInterfaces {
        /// TCP port.
        port: u16,
        /// The error of the operating system.
        #[source]
        cause: std::io::Error,
    },
    /// The address is not an IP address or name of this machine, or the port is in use.
    #[error("listen on {address}:{port}")]
    Address {
        /// The address as configured.
        address: String,
        /// TCP port.
        port: u16,
        /// The error of the operating system.
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

/// Connections that a listener has not accepted yet. The kernel drops further ones, and each of their
/// clients tries again after a second; thousands of sidecars may start at once. The kernel takes
/// `net.core.somaxconn` where that is less, 4,096 by default.
const BACKLOG: u32 = 1024;

/// Binds a listener. An empty address means all interfaces of both IP versions, and of IPv4 alone
/// where the machine has no IPv6.
///
/// # Errors
/// [`ListenError`]: the address is not an IP address or name, or the port is in use.
pub async fn listen(address: &str, port: u16) -> Result<TcpListener, ListenError> {
    if address.is_empty() {
        let any6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port);
        let any4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
        return match bind(any6) {
            Err(e) if e.kind() != std::io::ErrorKind::AddrInUse => bind(any4),
            bound => bound,
        }
        .map_err(|cause| ListenError::AllInterfaces { port, cause });
    }
    let host = address.trim_start_matches('[').trim_end_matches(']');
    bind_any(host, port).await.map_err(|cause| ListenError::Address {
        address: address.to_owned(),
        port,
        cause,
    })
}

/// Binds the first address of a name that can be bound.
async fn bind_any(host: &str, port: u16) -> std::io::Result<TcpListener> {
    let mut failed = std::io::Error::other("the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        match bind(address) {
            Ok(listener) => return Ok(listener),
            Err(e) => failed = e,
        }
    }
    Err(failed)
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?; // as TcpListener::bind does: a restart binds the same port
    socket.bind(address)?;
    socket.listen(BACKLOG)
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
            serve("metrics", listener, metrics_router(scope), scope),
        );
    }
    metrics.set_ready();

    let health = scope.ready("healthz-server");
    let listener = listen(&flags.healthz_listen_address, flags.healthz_port).await?;
    tracing::info!(target: "dapr.healthz", port = flags.healthz_port, "Healthz server is listening");
    let router = health_router(scope);
    scope.spawn_last("healthz-server", serve("healthz", listener, router, scope));
    health.set_ready();
    Ok(())
}

/// A server with its own connections and descriptors, so that the health port answers under any
/// load of the main port.
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

fn metrics_router(scope: &Scope) -> Router {
    let (registry, extra) = (scope.metrics().clone(), scope.extra_metrics());
    Router::new().fallback(async move || {
        let mut text = Vec::new();
        if let Err(e) = TextEncoder::new().encode(&registry.gather(), &mut text) {
            return (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response();
        }
        if let Some(source) = extra.get() {
            text.extend(source.read().await.into_bytes());
        }
        ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response()
    })
}

/// `/healthz` and `/readyz`: 200 when all targets are ready, else 503, and 503 from the signal that
/// stops the process; `/livez`: 200 while every loop with a heartbeat goes on, whether it is ready
/// or not. Bodies are empty, except that `/readyz` names the missing targets and `/livez` the stuck
/// loops. Source: Dapr 1.18, `GET /healthz` of every control plane service; the other two are ours.
fn health_router(scope: &Scope) -> Router {
    let (readiness, extra) = (scope.readiness().clone(), scope.extra_routes());
    let (living, stop) = (scope.clone(), scope.token().clone());
    let ready = {
        let readiness = readiness.clone();
        move || readiness.all_ready() && !stop.is_cancelled()
    };
    let status = |ready| if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let healthz = ready.clone();
    Router::new()
        .route("/healthz", any(async move || status(healthz())))
        .route(
            "/readyz",
            any(async move || {
                let waiting = readiness.waiting().join("\n");
                (status(ready()), waiting)
            }),
        )
        .route(
            "/livez",
            any(async move || {
                let stuck = living.stuck(clock::monotonic());
                for name in &stuck {
                    tracing::error!(target: "dapr.healthz", "{name} is stuck: /livez fails");
                }
                (status(stuck.is_empty()), stuck.join("\n"))
            }),
        )
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
    use crate::metrics::MetricsSource;

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

    /// A cold start: none is accepted yet, and no client has to connect again.
    #[tokio::test]
    async fn as_many_connections_as_the_backlog_wait_to_be_accepted() {
        crate::descriptors::raise();
        let listener = listen("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connect = async || {
            let mut open = Vec::new();
            for _ in 0..BACKLOG {
                open.push(TcpStream::connect(address).await.unwrap());
            }
            open.len()
        };
        let open = tokio::time::timeout(Duration::from_mins(1), connect()).await;
        assert_eq!(open.map_err(|_| "a client had to connect again"), Ok(BACKLOG as usize));
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_named() {
        let error = listen("300.1.1.1", 0).await.unwrap_err().to_string();
        assert!(error.contains("300.1.1.1:0"), "{error}");
    }

    #[tokio::test]
    async fn metrics_of_another_program_follow_the_own() {
        let scope = Scope::for_test();
        crate::metrics::counter(scope.metrics(), "own_total", "Own").unwrap().inc();
        let theirs = MetricsSource::new(async || "theirs_total 2\n".to_owned());
        scope.append_metrics(theirs);
        let request = Request::builder().uri("/metrics").body(axum::body::Body::empty()).unwrap();
        let answer = metrics_router(&scope).oneshot(request).await.unwrap();
        let body = axum::body::to_bytes(answer.into_body(), 4_096).await.unwrap();
        assert!(body.ends_with(b"own_total 1\ntheirs_total 2\n"), "{body:?}");
    }

    const LIMIT: Duration = Duration::from_secs(20);

    async fn health_server(scope: &Scope) -> SocketAddr {
        let listener = listen("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        scope.ready("part").set_ready();
        let router = health_router(scope);
        scope.spawn("healthz-server", serve("healthz", listener, router, scope));
        address
    }

    /// The answer to a probe from another machine than that of the flood.
    async fn probe(address: SocketAddr, path: &str) -> String {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(LIMIT, read).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn liveness_follows_the_loops_and_not_readiness() {
        let scope = Scope::for_test();
        let address = health_server(&scope).await;
        scope.ready("part").set_not_ready();
        let heartbeat = scope.heartbeat("engine", Duration::ZERO);
        assert!(probe(address, "/livez").await.starts_with("HTTP/1.1 200"));
        heartbeat.beat();
        let deadline = clock::monotonic() + LIMIT;
        loop {
            let answer = probe(address, "/livez").await;
            if answer.starts_with("HTTP/1.1 503") && answer.ends_with("engine") {
                break;
            }
            assert!(clock::monotonic() < deadline, "{answer}");
        }
        heartbeat.pause();
        assert!(probe(address, "/livez").await.starts_with("HTTP/1.1 200"));
        scope.drain(LIMIT).await;
    }

    #[tokio::test]
    async fn a_process_that_stops_is_not_ready_and_lives() {
        let scope = Scope::for_test();
        let address = health_server(&scope).await;
        assert!(probe(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        scope.token().cancel();
        assert!(probe(address, "/healthz").await.starts_with("HTTP/1.1 503"));
        assert!(probe(address, "/readyz").await.starts_with("HTTP/1.1 503"));
        assert!(probe(address, "/livez").await.starts_with("HTTP/1.1 200"));
        scope.drain(LIMIT).await;
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

        let answer = probe(address, "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

        for mut stream in idle {
            let ended = tokio::time::timeout(LIMIT, stream.read_u8()).await;
            assert!(ended.is_ok(), "a connection without a request outlives its deadline");
        }
        scope.drain(LIMIT).await;
    }
}
