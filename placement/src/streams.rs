//! The shell: gRPC streams of sidecars, and the one task that owns the core. Start reading at
//! [`server`], which opens streams, then [`handle`], which executes what the core decides.

pub(crate) mod admit;
pub(crate) mod error;
pub(crate) mod handle;
pub(crate) mod limits;
mod mailbox;
pub(crate) mod server;
pub(crate) mod state;
pub(crate) mod wire;
