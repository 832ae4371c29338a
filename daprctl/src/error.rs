//! Why a command ends without a result.

use crate::bundle::BundleError;
use crate::cluster::PortForwardError;
use crate::documents::ManError;
use crate::jobs::JobsError;
use crate::{facts, lint};

/// Why a command cannot run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There are no usable credentials for the API server.
    #[error(transparent)]
    Client(#[from] kubernetes::ClientError),
    /// A list cannot be read. Contains its name, the answer of the API server, and the remedy.
    #[error("{0}")]
    Read(String),
    /// The dashboard cannot be reached.
    #[error(transparent)]
    PortForward(#[from] PortForwardError),
    /// Jobs cannot be read or written.
    #[error(transparent)]
    Jobs(#[from] JobsError),
    /// A file cannot be read, or there is too much.
    #[error(transparent)]
    Lint(#[from] lint::documents::ReadError),
    /// The support bundle cannot be written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The manual pages cannot be written.
    #[error(transparent)]
    Man(#[from] ManError),
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
