//! Sources of the trust anchors, and the watch of their file.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use identity::{AnchorsError, TrustAnchors};
use tokio::sync::watch;

use runtime::{Scope, chain};

use crate::file_watch::{FileWatch, FileWatchError};

/// Interval at which a missing file is polled.
const MISSING_POLL: Duration = Duration::from_millis(250);
/// Polls of a missing file between two log lines.
const MISSING_WARN_EVERY: u32 = 40;
/// Interval at which the file is read without an event: some volumes do not send any.
const SLOW_POLL: Duration = Duration::from_secs(30);

/// Reads the bundle from another source while the file does not exist: on a fresh install the
/// kubelet projects the `ConfigMap` up to a minute after sentry wrote it. `None` if it does not
/// exist yet.
pub type Fallback =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Option<String>> + Send>> + Send + Sync>;

/// Source of the trust anchors.
#[derive(Clone)]
pub enum AnchorSource {
    /// A PEM file. Its directory is watched, because Kubernetes replaces a symbolic link in it.
    File {
        /// Path; a missing file is polled every second until it exists.
        path: PathBuf,
        /// Read while the file is missing.
        fallback: Option<Fallback>,
    },
    /// PEM text.
    Pem(String),
}

impl std::fmt::Debug for AnchorSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, .. } => f.debug_tuple("File").field(path).finish(),
            Self::Pem(_) => f.write_str("Pem"),
        }
    }
}

/// Why there are no trust anchors.
#[derive(Debug, thiserror::Error)]
pub enum AnchorSourceError {
    /// The given text holds no valid anchors.
    #[error("parse trust anchors")]
    Parse(#[source] AnchorsError),
    /// The directory of the file cannot be watched.
    #[error(transparent)]
    Watch(#[from] FileWatchError),
}

/// Why a file of trust anchors is not used.
#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("read trust anchors {path}")]
    Read {
        path: String,
        #[source]
        cause: std::io::Error,
    },
    #[error("read trust anchors {path}")]
    Parse {
        path: String,
        #[source]
        cause: AnchorsError,
    },
}

/// Waits for the first valid anchors, then watches the source for as long as the scope lives. If a
/// later version of the file does not parse, the error is logged and the former anchors stay.
///
/// # Errors
/// [`AnchorSourceError`]: the given text holds no valid anchors, or the directory cannot be
/// watched.
pub async fn watch_anchors(
    source: AnchorSource,
    scope: &Scope,
) -> Result<watch::Receiver<Arc<TrustAnchors>>, AnchorSourceError> {
    match source {
        AnchorSource::Pem(text) => {
            let anchors =
                TrustAnchors::parse_pem(text.as_bytes()).map_err(AnchorSourceError::Parse)?;
            Ok(watch::channel(Arc::new(anchors)).1)
        }
        AnchorSource::File { path, fallback } => {
            let first = wait_for(&path, fallback.as_ref()).await;
            let (send, receive) = watch::channel(Arc::new(first));
            let token = scope.token().clone();
            scope.spawn("trust-anchors", async move {
                match token.run_until_cancelled(watch_file(&path, &send)).await {
                    Some(Err(error)) => Err(error.into()),
                    Some(Ok(())) | None => Ok(()),
                }
            });
            Ok(receive)
        }
    }
}

/// The file's anchors; `None` when it does not exist or is empty (a `ConfigMap` before sentry's
/// first write).
fn read(path: &Path) -> Result<Option<TrustAnchors>, FileError> {
    let name = || path.display().to_string();
    match std::fs::read(path) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => TrustAnchors::parse_pem(&text)
            .map(Some)
            .map_err(|cause| FileError::Parse { path: name(), cause }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(FileError::Read { path: name(), cause }),
    }
}

async fn wait_for(path: &Path, fallback: Option<&Fallback>) -> TrustAnchors {
    let mut polls: u32 = 0;
    loop {
        match read(path) {
            Ok(Some(anchors)) => return anchors,
            Ok(None) => {
                if let Some(anchors) = read_fallback(fallback).await {
                    return anchors;
                }
                if polls.is_multiple_of(MISSING_WARN_EVERY) {
                    tracing::warn!(target: "dapr.runtime.security", file = %path.display(),
                        "waiting for the trust anchors; sentry writes them when it has a CA");
                }
            }
            Err(e) if polls.is_multiple_of(MISSING_WARN_EVERY) => {
                tracing::error!(target: "dapr.runtime.security", "{}; waiting for a valid file", chain(&e));
            }
            Err(_) => {}
        }
        polls = polls.wrapping_add(1);
        tokio::time::sleep(MISSING_POLL).await;
    }
}

async fn read_fallback(fallback: Option<&Fallback>) -> Option<TrustAnchors> {
    let text = fallback?().await?;
    match TrustAnchors::parse_pem(text.as_bytes()) {
        Ok(anchors) => Some(anchors),
        Err(e) => {
            tracing::warn!(target: "dapr.runtime.security", error = &e as &dyn std::error::Error,
                "the trust bundle of the API server is not valid yet");
            None
        }
    }
}

async fn watch_file(
    path: &Path,
    send: &watch::Sender<Arc<TrustAnchors>>,
) -> Result<(), FileWatchError> {
    let mut watch = FileWatch::new([path])?;
    loop {
        match read(path) {
            Ok(Some(anchors)) => {
                send.send_if_modified(|current| {
                    let changed = current.pem() != anchors.pem();
                    if changed {
                        *current = Arc::new(anchors);
                        tracing::info!(target: "dapr.runtime.security", "Trust anchors file changed, reloading trust anchors");
                    }
                    changed
                });
            }
            // Between two versions of a volume, or the fallback answered before the file existed.
            Ok(None) => {}
            Err(e) => {
                tracing::error!(target: "dapr.runtime.security", "{}; keeping the former trust anchors", chain(&e));
            }
        }
        watch.changed(SLOW_POLL).await;
    }
}
