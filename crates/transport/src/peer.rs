//! The other end of a connection.

use std::net::SocketAddr;

use identity::SpiffeId;
use runtime::server::Connection;

/// The other end of a connection, in the extensions of every request that [`crate::Server`] serves
/// (`request.extensions().get::<Peer>()`, with tonic and axum alike).
#[derive(Debug, Clone)]
pub struct Peer {
    /// The id of the verified client certificate; `None` without TLS or if the server requests no
    /// client certificate.
    pub id: Option<SpiffeId>,
    /// Address of the peer.
    pub addr: SocketAddr,
    connection: Connection,
}

impl Peer {
    pub(crate) fn new(id: Option<SpiffeId>, connection: Connection) -> Self {
        Self { id, addr: connection.addr, connection }
    }

    /// Accepts no new request on this connection (GOAWAY) and closes it once the open ones are
    /// answered, or 5 seconds later: for peers that open a connection for each request and leave it
    /// open.
    pub fn retire(&self) {
        self.connection.retire();
    }

    /// Closes the connection at once, with every request on it: for a peer that does not read, and
    /// would otherwise keep the pending data in memory.
    pub fn hang_up(&self) {
        self.connection.hang_up();
    }
}
