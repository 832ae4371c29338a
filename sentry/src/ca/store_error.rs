//! Why what sentry stores could not be read or written.

use std::path::PathBuf;

use super::record;

/// Why the store could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The object does not exist.
    #[error("{0} {name} does not exist; the Helm chart creates it, sentry only fills it", name = record::NAME)]
    Missing(&'static str),
    /// The object was changed since it was read.
    #[error("{0} {name} was changed since it was read", name = record::NAME)]
    Conflict(&'static str),
    /// Any other answer of the API server.
    #[error("{verb} {kind} {name}: {cause}", name = record::NAME)]
    Api { verb: &'static str, kind: &'static str, cause: String },
    /// A file could not be read or written.
    #[error("{verb} {}", path.display())]
    File { verb: &'static str, path: PathBuf, source: std::io::Error },
    /// The content is not UTF-8.
    #[error("{0} is not UTF-8 text; store it as UTF-8")]
    NotText(String),
    /// The directory of the files cannot be watched.
    #[error("watch the directory of the CA's files: {0}")]
    Watch(String),
}
