//! The dashboard: pages about applications, their sidecars, the objects of `dapr.io` and the control
//! plane. It reads and never writes.
//!
//! ```text
//!  API server ─ watches ─► cluster (redacted as it arrives) ─► Snapshot ─► pages (pure) ─► server
//!  or /proc and files ─ self_hosted ─┘
//!  sidecars, placement, sentry ◄─ peers: asked when a page needs them ──────┘        guard ─┘
//! ```
//! Start reading at [`run`], then `model` (the state), `pages` (the view), `server`.
//!
//! Invariants:
//! 1. No Secret is read, and no value that is or may be a secret is stored: `model::redaction` works
//!    on each object before anything else sees it.
//! 2. Requests only read: GET and HEAD, for a host name of the dashboard, not from pages of other
//!    sites.
//! 3. A page view calls the API server only for access reviews of its user with `--auth=token`,
//!    whose answers are valid for 30 seconds, and with `--logs` for the log that it shows. Sidecars
//!    and services are asked at addresses of Pods and fixed ports, never at one that a request
//!    names. Without a cluster only loopback addresses are asked.
//! 4. Text reaches a page only through `html`, which escapes it.
//! 5. With `--auth=token` a request without a token that the API server accepts gets nothing, and a
//!    page shows what the owner of the token may list: everything derives from a restricted
//!    `model::Snapshot`.
//!
//! Without a cluster, `self_hosted` publishes the sidecars of this machine as Pods.
//!
//! Deliberately absent: a login. The pages listen on the loopback of their pod; a port-forward to it
//! is authorised by the API server, and a proxy in the pod may send tokens.

mod cluster;
mod config;
mod html;
mod model;
mod pages;
mod peers;
mod self_hosted;
mod server;

use std::io::ErrorKind;
use std::net::SocketAddr;

use kubernetes::{ClientError, Precedence};
use runtime::{ListenError, ReadyGuard, Scope};
use tokio::net::TcpListener;
use transport::{Limits, Server};

use cluster::Cluster;
use cluster::logs::Logs;
use cluster::reviews::Reviews;
use peers::{Peers, Reach};
use server::guard::Guard;

pub use config::{Auth, Config, ConfigError, Flags, Mode, Source};
pub use model::arguments::Arguments;
pub use model::log::checked_lines;
pub use model::metadata::Metadata;
pub use model::redaction::is_secret_text;

/// An object of `dapr.io` as pages show it: names, references and public settings. `None` for a plural
/// that is not a kind of `dapr.io`. Support bundles use it too.
pub fn redacted(plural: &str, object: &serde_json::Value) -> Option<serde_json::Value> {
    model::kind::Kind::parse(plural).map(|kind| model::redaction::object(kind, object))
}

/// Plural and version of each kind of `dapr.io`.
pub fn kinds() -> impl Iterator<Item = (&'static str, &'static str)> {
    model::kind::Kind::ALL.into_iter().map(|kind| (kind.plural(), kind.version()))
}

/// The text, or its replacement if it may hold a secret.
pub fn without_secrets(text: &str) -> &str {
    if is_secret_text(text) { model::redaction::HIDDEN } else { text }
}

/// Connections to the pages: a few browsers with six each.
const CONNECTIONS: usize = 256;
/// Bytes of a request's body; requests have none.
const BODY_BYTES: usize = 1024;
/// Ports after the chosen one that are tried without a cluster: the CLI chooses 8080, which is also
/// the port of placement's health.
const MORE_PORTS: u16 = 10;

/// Why the dashboard does not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The port is in use.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The chosen port cannot be read from the system.
    #[error("read the listening address")]
    Address(#[source] std::io::Error),
}

/// Watches the cluster, or this machine, and serves the pages; returns when the port is open.
///
/// # Errors
/// [`RunError`]: there are no credentials for the API server, or the port is in use.
pub async fn run(config: Config, scope: Scope) -> Result<(), RunError> {
    serve(config, scope).await.map(drop)
}

/// What the pages show and ask.
struct Sources {
    cluster: Cluster,
    peers: Peers,
    logs: Option<Logs>,
    reviews: Option<Reviews>,
}

impl Sources {
    async fn start(config: &Config, ready: ReadyGuard, scope: &Scope) -> Result<Self, ClientError> {
        let kubeconfig = match &config.source {
            Source::SelfHosted { folder } => {
                let cluster = Cluster::self_hosted();
                let watch = self_hosted::watch(cluster.clone(), folder.clone(), ready);
                scope.spawn_until_cancelled("watch-processes", watch);
                let peers = Peers::new(Reach::Loopback);
                return Ok(Self { cluster, peers, logs: None, reviews: None });
            }
            Source::Kubernetes { kubeconfig } => kubeconfig.as_deref(),
        };
        let client = kubernetes::client(kubeconfig, Precedence::Kubeconfig).await?;
        let cluster = Cluster::new(&config.namespace);
        cluster.watch(&client, ready, scope);
        let (reviews, for_logs) = match config.auth {
            Auth::None => (None, client),
            Auth::Token => {
                let precedence = Precedence::Kubeconfig;
                let users = kubernetes::client_without_credentials(kubeconfig, precedence).await?;
                (Some(Reviews::new(users.clone())), users)
            }
        };
        let logs = config.logs.then(|| Logs::new(for_logs));
        Ok(Self { cluster, peers: Peers::new(Reach::Pods), logs, reviews })
    }
}

/// The port of the pages. One that is in use is passed over without a cluster; in a cluster a Service
/// leads to the chosen one.
async fn listen(config: &Config) -> Result<TcpListener, ListenError> {
    let more = match config.source {
        Source::SelfHosted { .. } => MORE_PORTS,
        Source::Kubernetes { .. } => 0,
    };
    let address = config.address.to_string();
    for port in config.port..config.port.saturating_add(more) {
        match runtime::listen(&address, port).await {
            Err(ListenError::Address { cause, .. }) if cause.kind() == ErrorKind::AddrInUse => {
                tracing::warn!(target: "dapr.dashboard", "Port {port} is in use; the next one is tried");
            }
            bound => return bound,
        }
    }
    runtime::listen(&address, config.port.saturating_add(more)).await
}

/// As [`run`]; returns the address of the pages. For tests.
///
/// # Errors
/// As [`run`].
pub async fn serve(config: Config, scope: Scope) -> Result<SocketAddr, RunError> {
    let (watching, serving) = (scope.ready("watch"), scope.ready("pages"));
    let Sources { cluster, peers, logs, reviews } =
        Sources::start(&config, watching, &scope).await?;
    let listener = listen(&config).await?;
    let address = listener.local_addr().map_err(RunError::Address)?;
    let base = config.base_path.as_str();
    let pages = server::Pages { cluster, peers, logs, reviews, base: base.into() };
    let router = server::router(pages, Guard { allowed_hosts: config.allowed_hosts });
    // Once per process: the server takes paths that live as long as it does.
    let changes: &'static str = format!("{base}{}", server::CHANGES).leak();
    let limits = Limits {
        connections: CONNECTIONS,
        connections_per_address: CONNECTIONS,
        body_bytes: BODY_BYTES,
        streaming_answers: vec![changes].leak(),
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
