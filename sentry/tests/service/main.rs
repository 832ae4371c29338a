//! Sentry in process, over real gRPC and TLS.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests fail where they are"
)]

mod fixture;
mod flags;
mod jwks;
mod jwt;
mod standalone;
