//! Who is at the other end of a connection.

use std::net::SocketAddr;

use identity::SpiffeId;

/// The other end of a connection, in the extensions of every request that [`crate::Server`] hands
/// on (`request.extensions().get::<Peer>()`, with tonic and axum alike).
#[derive(Debug, Clone)]
pub struct Peer {
    /// The id of the verified client certificate; `None` without TLS or where no client
    /// certificate is asked for.
    pub id: Option<SpiffeId>,
    /// Where the connection comes from.
    pub addr: SocketAddr,
}
