//! How tables are encoded for a stream.

/// How tables are encoded for one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As they are.
    Identity,
    /// Compressed, to about a tenth: names and app ids of hosts resemble each other, and recur
    /// under each actor type.
    Gzip,
}

impl Encoding {
    /// The name of [`Encoding::Gzip`] in `grpc-encoding` and `grpc-accept-encoding`.
    pub(crate) const GZIP: &str = "gzip";

    /// The best that a client takes which sent this `grpc-accept-encoding`. Sidecars of Dapr 1.15
    /// and 1.18 send `gzip`.
    pub(crate) fn accepted(list: Option<&str>) -> Self {
        let gzip = |list: &str| list.split(',').any(|name| name.trim() == Self::GZIP);
        if list.is_some_and(gzip) { Self::Gzip } else { Self::Identity }
    }
}
