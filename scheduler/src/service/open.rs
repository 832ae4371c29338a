//! Opening the store: waits for the directory, and refuses what is not this engine's or is damaged.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use runtime::Scope;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::backend::BackendError;
use crate::store::disk::Disk;
use crate::store::format::{Directory, DirectoryError};
use crate::store::reserve::Reserve;
use crate::store::{Embedded, Options, StoreEvent};

/// How often a directory is tried that another process holds.
const LOCK_RETRY: Duration = Duration::from_millis(200);
/// How often a full file system is tried.
const ROOM_RETRY: Duration = Duration::from_secs(2);

/// What was found.
pub(super) enum Opened {
    Store(Arc<Embedded<Disk>>, mpsc::Receiver<StoreEvent>),
    /// What is on disk is not this engine's, or is damaged. The process stays up, not ready.
    Refused(String),
}

/// Opens the store, waiting while another process has its directory or the file system is full.
///
/// # Errors
/// The process stops while it waits, or the file system refuses the directory.
pub(super) async fn open(
    config: &Config,
    metrics: &Metrics,
    scope: &Scope,
) -> anyhow::Result<Opened> {
    let foreign = config.reference_dir.join("member");
    if foreign.exists() {
        return Ok(Opened::Refused(format!(
            "{} holds jobs of an etcd, which this version does not read. Nothing is written. To \
             keep them, run the scheduler that wrote them (in Kubernetes: helm rollback, or the \
             chart value global.scheduler.external=true, see docs/upgrade.md), or export them \
             there (dapr scheduler export) and import them into a scheduler with an empty \
             --etcd-data-dir. To give them up, delete {0}",
            foreign.display()
        )));
    }
    let directory = match take(config, scope).await? {
        Ok(directory) => Arc::new(directory),
        Err(error @ (DirectoryError::Foreign(_) | DirectoryError::Newer { .. })) => {
            return Ok(Opened::Refused(error.to_string()));
        }
        Err(error @ DirectoryError::Io(..)) => return Err(error.into()),
    };
    let space = Arc::new(Reserve::new(directory.path()));
    loop {
        // The directory is held as long as the store may be opened again.
        let held = directory.clone();
        let options = Options {
            quota_bytes: config.quota_bytes,
            observer: Box::new(metrics.clone()),
            space: space.clone(),
        };
        match Embedded::start(move || Disk::open(&held.data()), options, scope) {
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

/// Takes the directory, waiting while another process has it.
async fn take(config: &Config, scope: &Scope) -> anyhow::Result<Result<Directory, DirectoryError>> {
    let mut waits = false;
    loop {
        match Directory::take(&config.store_dir) {
            Ok(Some(directory)) => return Ok(Ok(directory)),
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        if !std::mem::replace(&mut waits, true) {
            tracing::warn!(target: "dapr.scheduler",
                "{} is in use by another process; waiting", config.store_dir.display());
        }
        wait(LOCK_RETRY, scope).await?;
    }
}

async fn wait(time: Duration, scope: &Scope) -> anyhow::Result<()> {
    let pause = tokio::time::sleep(time);
    scope.token().run_until_cancelled(pause).await.context("stopped while waiting")
}
