//! The encoding of tables on a stream.

/// Encoding of the tables on one stream, negotiated with `grpc-accept-encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Uncompressed.
    Identity,
    /// Compressed to about a tenth: names and app ids of hosts are similar and recur under each
    /// actor type.
    Gzip,
}

impl Encoding {
    /// Value of `grpc-encoding` and `grpc-accept-encoding` for [`Encoding::Gzip`].
    pub(crate) const GZIP: &str = "gzip";

    /// The best encoding for a client that sent this `grpc-accept-encoding`. Sidecars of Dapr 1.15
    /// and 1.18 send `gzip`.
    pub(crate) fn accepted(list: Option<&str>) -> Self {
        let gzip = |list: &str| list.split(',').any(|name| name.trim() == Self::GZIP);
        if list.is_some_and(gzip) { Self::Gzip } else { Self::Identity }
    }
}
