//! The port of the etcd API: plain text, on loopback unless a flag says otherwise.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use runtime::Scope;
use tokio::net::TcpListener;
use transport::Limits;

use super::{RunError, server};
use crate::config::{ClientPort, Config};
use crate::etcd_api::{self, EtcdApi, Member};
use crate::store::kv::KeyValue;

/// Clients dial either loopback address under this name.
const LOCALHOST: &str = "localhost";

/// Both loopback addresses where there are two, else one.
pub(super) struct Listeners {
    first: TcpListener,
    /// The other loopback address, where it exists.
    second: Option<TcpListener>,
    pub(super) address: SocketAddr,
}

/// Opens the port.
///
/// # Errors
/// It is taken, or the address does not resolve.
pub(super) async fn listen(config: &ClientPort) -> Result<Listeners, RunError> {
    let local = config.listen_address == LOCALHOST;
    let address = if local { "127.0.0.1" } else { &config.listen_address };
    let first = runtime::listen(address, config.port).await.map_err(RunError::ListenClient)?;
    let bound = first.local_addr().map_err(RunError::Address)?;
    let second = if local {
        TcpListener::bind((Ipv6Addr::LOCALHOST, bound.port())).await.ok()
    } else {
        None
    };
    Ok(Listeners { first, second, address: bound })
}

impl Listeners {
    /// Serves until the process stops.
    pub(super) fn serve(self, router: &Router, scope: &Scope) {
        let limits = Limits {
            body_bytes: etcd_api::MAX_MESSAGE_BYTES,
            streaming_paths: &etcd_api::STREAMING,
            ..Limits::default()
        };
        for listener in [Some(self.first), self.second].into_iter().flatten() {
            let router = router.clone();
            let server = server("scheduler-etcd", listener, router, limits);
            scope.spawn("scheduler-etcd", server.run(scope.clone()));
        }
    }
}

/// The services of the port, of the member with that URL for others.
///
/// # Errors
/// The store cannot be read.
pub(super) fn api(
    config: &Config,
    peer_url: &str,
    store: Arc<dyn KeyValue>,
    address: SocketAddr,
    scope: &Scope,
) -> Result<EtcdApi, RunError> {
    let status = store.status().map_err(|error| RunError::Store(error.into()))?;
    let host = if address.ip().is_unspecified() || config.client.listen_address == LOCALHOST {
        format!("{LOCALHOST}:{}", address.port())
    } else {
        address.to_string()
    };
    let member = Member {
        cluster_id: status.cluster_id,
        id: status.member_id,
        name: config.id.clone(),
        peer_url: peer_url.to_owned(),
        client_url: format!("http://{host}"),
    };
    let max_txn_ops = usize::try_from(config.client.max_txn_ops).unwrap_or(usize::MAX);
    Ok(EtcdApi { store, member: Arc::new(member), max_txn_ops, scope: scope.clone() })
}
