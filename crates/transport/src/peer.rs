//! Who is at the other end of a connection.

use std::net::SocketAddr;

use identity::SpiffeId;
use tokio_util::sync::CancellationToken;

/// The other end of a connection, in the extensions of every request that [`crate::Server`] hands
/// on (`request.extensions().get::<Peer>()`, with tonic and axum alike).
#[derive(Debug, Clone)]
pub struct Peer {
    /// The id of the verified client certificate; `None` without TLS or where no client
    /// certificate is asked for.
    pub id: Option<SpiffeId>,
    /// Where the connection comes from.
    pub addr: SocketAddr,
    pub(crate) connection: CancellationToken,
    pub(crate) last: CancellationToken,
}

impl Peer {
    /// `last` ends the connection in good order.
    pub(crate) fn new(id: Option<SpiffeId>, addr: SocketAddr, last: CancellationToken) -> Self {
        Self { id, addr, connection: CancellationToken::new(), last }
    }

    /// Takes no new request on this connection (GOAWAY) and closes it once the open ones are
    /// answered: for peers that dial anew for each request and leave their connections open.
    pub fn retire(&self) {
        self.last.cancel();
    }

    /// Cuts the connection, with every request on it, without another word: for a peer that does
    /// not read, and would otherwise keep what is left to send for ever.
    pub fn hang_up(&self) {
        self.connection.cancel();
    }
}
