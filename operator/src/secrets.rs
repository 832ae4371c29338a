//! Resolution of the Secrets that resources reference.
//!
//! Start at [`resolution`]: which Secrets an object needs and where their values go, a pure function
//! per kind. [`reads`] shares and bounds the reads of Secrets from the API server.
pub(crate) mod reads;
pub(crate) mod resolution;
