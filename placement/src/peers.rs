//! The election port. One replica needs no election, but tools probe the port, and replicas of
//! another implementation may dial it during an upgrade: whoever connects is hung up on.

use runtime::Scope;
use tokio::net::TcpListener;

/// Accepts and closes until the scope is cancelled.
pub(crate) async fn answer(listener: TcpListener, scope: Scope) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = scope.token().cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => drop(connection),
                // Out of descriptors: those who wait are served when there are some again.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    }
}
