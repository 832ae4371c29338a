/// The version of this release, which follows Dapr's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
