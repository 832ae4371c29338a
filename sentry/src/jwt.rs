//! JWT SVIDs: the signing key, the key set that publishes it, and the tokens of a response.
//!
//! Start reading at [`plan::plan`], which decides whether a stored key is used; [`controller`]
//! reconciles it with the one in memory, [`svid`] issues tokens.

pub(crate) mod cluster;
pub(crate) mod controller;
pub(crate) mod plan;
pub(crate) mod store;
pub(crate) mod svid;

pub(crate) use controller::JwtKeys;
pub(crate) use store::JwtStore;
pub use svid::JwtConfig;
