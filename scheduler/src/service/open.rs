//! Opening the store: waits for the directory, and refuses what is not this engine's or is damaged.

use std::sync::Arc;
use std::time::Duration;

use runtime::Scope;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::metrics::StoreMetrics;
use crate::store::backend::BackendError;
use crate::store::disk::Disk;
use crate::store::format::{Directory, DirectoryError};
use crate::store::reserve::Reserve;
use crate::store::{Embedded, Options, StoreEvent};

use super::RunError;

/// Interval of attempts to lock a directory that another process holds.
const LOCK_RETRY: Duration = Duration::from_millis(200);
/// Interval of attempts on a full or failing file system.
const ROOM_RETRY: Duration = Duration::from_secs(2);

/// The outcome of opening.
pub(super) enum Opened {
    Store(Arc<Embedded<Disk>>, mpsc::Receiver<StoreEvent>),
    /// The data on disk is not this engine's, or is damaged. The process stays up, not ready.
    Refused(String),
}

/// Opens the store, waiting while another process has its directory, the file system is full, or it
/// refuses the directory: the process stays up, not ready, and needs no restart (Dapr 1.19).
///
/// # Errors
/// The process stops while it waits.
pub(super) async fn open(
    config: &Config,
    metrics: &StoreMetrics,
    scope: &Scope,
) -> Result<Opened, RunError> {
    let directory = match take(config, scope).await? {
        Ok(directory) => Arc::new(directory),
        Err(error) => return Ok(Opened::Refused(error.to_string())),
    };
    let space = Arc::new(Reserve::new(directory.path()));
    loop {
        // The directory stays locked as long as the store may be reopened.
        let held = directory.clone();
        let options = Options {
            quota_bytes: config.quota_bytes,
            observer: Box::new(metrics.clone()),
            space: space.clone(),
        };
        let owner = scope.clone();
        // On a separate thread, because it reads the journal while the health port answers.
        let start = move || Embedded::start(move || Disk::open(&held.data()), options, &owner);
        let started = tokio::task::spawn_blocking(start).await;
        match started.map_err(|error| RunError::Store(error.into()))? {
            Ok((store, feed)) => return Ok(Opened::Store(Arc::new(store), feed)),
            Err(error @ BackendError::NoRoom) => {
                tracing::error!(target: "dapr.scheduler.store", "{error}; waiting for room");
                wait(ROOM_RETRY, scope).await?;
            }
            Err(BackendError::Damaged(why) | BackendError::Failed(why)) => {
                return Ok(Opened::Refused(damaged(config, &why)));
            }
        }
    }
}

fn damaged(config: &Config, why: &str) -> String {
    let directory = config.store_dir.display();
    format!(
        "the job store in {directory} cannot be used: {why}. Nothing is written. Restore the \
         directory from a copy; or, to go on with the jobs that are left, delete \
         {directory}/SEQUENCE; or move the directory away to begin without jobs"
    )
}

/// Locks the directory; waits while another process holds it or the file system fails. The inner
/// error means that the directory is not this engine's.
pub(super) async fn take(
    config: &Config,
    scope: &Scope,
) -> Result<Result<Directory, DirectoryError>, RunError> {
    let mut said = String::new();
    loop {
        let (text, pause) = match Directory::take(&config.store_dir) {
            Ok(Some(directory)) => return Ok(Ok(directory)),
            Ok(None) => {
                let directory = config.store_dir.display();
                (format!("{directory} is in use by another process; waiting"), LOCK_RETRY)
            }
            Err(error @ (DirectoryError::Foreign(_) | DirectoryError::Newer { .. })) => {
                return Ok(Err(error));
            }
            Err(error @ DirectoryError::Io(..)) => {
                (format!("{}; trying again", runtime::chain(&error)), ROOM_RETRY)
            }
        };
        if said != text {
            tracing::warn!(target: "dapr.scheduler", "{text}");
            said = text;
        }
        wait(pause, scope).await?;
    }
}

async fn wait(time: Duration, scope: &Scope) -> Result<(), RunError> {
    let pause = tokio::time::sleep(time);
    scope.token().run_until_cancelled(pause).await.ok_or(RunError::Stopped)
}
