//! Why a command ends without a result.

use crate::cluster::port_forward::PortForwardError;
use crate::{facts, lint};

/// Why a command cannot run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] kubernetes::ClientError),
    /// A list cannot be read. Contains what was read, what the API server said, and the remedy.
    #[error("{0}")]
    Read(String),
    /// The dashboard cannot be reached.
    #[error(transparent)]
    PortForward(#[from] PortForwardError),
    /// A file cannot be read, or there is too much.
    #[error(transparent)]
    Lint(#[from] lint::documents::ReadError),
    /// The manual pages cannot be written.
    #[error("write manual pages into {}", folder.display())]
    Man {
        /// The folder.
        folder: std::path::PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The report cannot be serialised.
    #[error("print the report as JSON")]
    Json(#[source] serde_json::Error),
    /// Standard output is closed.
    #[error("write to standard output")]
    Write(#[source] std::io::Error),
}

impl From<facts::ReadError> for CommandError {
    fn from(error: facts::ReadError) -> Self {
        Self::Read(format!("{error}; {}", error.remedy()))
    }
}
