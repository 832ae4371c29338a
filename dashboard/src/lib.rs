//! The dashboard: pages about applications, their sidecars, the objects of `dapr.io` and the control
//! plane. It reads and never writes.
//!
//! ```text
//!  API server ─ watches ─► cluster (redacted as it arrives) ─► Snapshot ─► pages (pure) ─► server
//!  sidecars, placement, sentry ◄─ peers: asked when a page needs them ──────┘        guard ─┘
//! ```
//! Start reading at [`run`], then `model` (what is known), `pages` (what is shown), `server`.
//!
//! Invariants:
//! 1. No Secret is read, and no value that is or may be a secret is stored: `model::redaction` works
//!    on each object before anything else sees it.
//! 2. Requests only read: GET and HEAD, for a host name of the dashboard, not from pages of other
//!    sites.
//! 3. A page view makes no call to the API server. Sidecars and services are asked at addresses of
//!    Pods and fixed ports, never at one that a request names.
//! 4. Text reaches a page through `html` alone, which escapes it.
//!
//! Deliberately absent: a login. The pages listen on the loopback of their pod; a port-forward to it
//! is authorised by the API server.

mod cluster;
mod config;
mod html;
mod model;
mod pages;
mod peers;
mod server;

use std::net::SocketAddr;

use kubernetes::{ClientError, Precedence};
use runtime::{ListenError, Scope};
use transport::{Limits, Server};

use cluster::Cluster;
use peers::{Peers, Reach};
use server::guard::Guard;

pub use config::{Config, ConfigError, Flags};

/// Connections to the pages: a few browsers with six each.
const CONNECTIONS: usize = 256;
/// Bytes of a request's body; requests have none.
const BODY_BYTES: usize = 1024;

/// Why the dashboard does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The port is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The system does not say which port it chose.
    #[error("read the listening address")]
    Address(#[source] std::io::Error),
}

/// Watches the cluster and serves the pages; returns when the port is open.
///
/// # Errors
/// [`RunError`]: there are no credentials for the API server, or the port is in use.
pub async fn run(config: Config, scope: Scope) -> Result<(), RunError> {
    serve(config, scope).await.map(drop)
}

/// As [`run`]; where the pages are. For tests.
///
/// # Errors
/// As [`run`].
pub async fn serve(config: Config, scope: Scope) -> Result<SocketAddr, RunError> {
    let (watching, serving) = (scope.ready("watch"), scope.ready("pages"));
    let client = kubernetes::client(config.kubeconfig.as_deref(), Precedence::Kubeconfig).await?;
    let cluster = Cluster::new(&config.namespace);
    cluster.watch(&client, watching, &scope);

    let listener = runtime::listen(&config.address.to_string(), config.port).await?;
    let address = listener.local_addr().map_err(RunError::Address)?;
    let base = config.base_path.as_str();
    let pages = server::Pages { cluster, peers: Peers::new(Reach::Pods), base: base.into() };
    let router = server::router(pages, Guard { allowed_hosts: config.allowed_hosts });
    // Once per process: the server takes paths that live as long as it does.
    let changes: &'static str = format!("{base}{}", server::CHANGES).leak();
    let limits = Limits {
        connections: CONNECTIONS,
        connections_per_address: CONNECTIONS,
        body_bytes: BODY_BYTES,
        streaming_paths: vec![changes].leak(),
        ..Limits::default()
    };
    let server = Server::new("dashboard", listener, router).limits(limits);
    let serving_scope = scope.clone();
    scope.spawn("pages", async move {
        server.run_until(serving_scope.token().clone(), serving_scope.clone()).await
    });
    tracing::info!(target: "dapr.dashboard", "Dashboard is at http://{address}{base}/");
    serving.set_ready();
    Ok(address)
}
