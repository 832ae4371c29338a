//! OIDC discovery: publishes the JWT key set to relying parties over HTTP.
//!
//! Start reading at [`discovery`], the pure rules; [`server`] serves them.

pub(crate) mod discovery;
pub(crate) mod server;

pub use discovery::OidcConfig;
