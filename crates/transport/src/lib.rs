//! mTLS for the control plane: an SVID that renews itself, SPIFFE peer checks, and one accept loop
//! for gRPC and HTTPS.
//!
//! ```text
//!  anchors (file, API or text) ─┐
//!  sentry ──SignCertificate──► svid ──► tls::server ──► Server (accept loop) ──► Peer in requests
//!                                └────► tls::client ──► channel
//! ```
//! Start reading at [`svid::start`] and [`Server`]. Certificates and anchors are read at each
//! handshake, so a renewal or a new root never needs a restart.
//!
//! Deliberately absent: host name checks. Only the SPIFFE id identifies a peer (Dapr 1.18,
//! security).

pub mod anchors;
mod certified;
mod channel;
pub mod fetch;
pub mod file_certificate;
pub mod file_client;
pub mod file_watch;
pub mod flags;
mod peer;
mod presented;
mod server;
pub mod svid;
pub mod tls;

pub use certified::Svid;
pub use channel::{DialError, channel, dial};
pub use peer::Peer;
pub use presented::presented;
pub use runtime::server::{GRPC_HEADER_BYTES, Keepalive, Limits};
pub use server::Server;
