//! Notifies of changed files. The directories are watched, because volumes of Kubernetes replace a
//! symbolic link in them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Time to wait after an event: one change causes several.
const SETTLE: Duration = Duration::from_millis(50);

/// Why files are not watched.
#[derive(Debug, thiserror::Error)]
pub enum FileWatchError {
    /// The operating system offers no watch.
    #[error("start the file watch")]
    Start(#[source] notify::Error),
    /// The directory does not exist or cannot be watched.
    #[error("watch directory {directory}")]
    Directory {
        /// Path of the directory.
        directory: String,
        /// The error of the operating system.
        #[source]
        cause: notify::Error,
    },
}

/// A watch of the directories of some files. It ends when it is dropped.
pub struct FileWatch {
    woken: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl FileWatch {
    /// Watches the directories of `files`.
    ///
    /// # Errors
    /// [`FileWatchError`]: a directory does not exist or cannot be watched; the text names it.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<Self, FileWatchError> {
        let (wake, woken) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // An event that was lost may have been a change.
            if event.is_ok_and(|event| is_read(event.kind)) {
                return;
            }
            // Full: a wake-up is pending already.
            let _ = wake.try_send(());
        })
        .map_err(FileWatchError::Start)?;
        let mut directories: Vec<PathBuf> = files.into_iter().map(directory).collect();
        directories.sort();
        directories.dedup();
        for directory in directories {
            watcher.watch(&directory, RecursiveMode::NonRecursive).map_err(|cause| {
                let directory = directory.display().to_string();
                FileWatchError::Directory { directory, cause }
            })?;
        }
        Ok(Self { woken, _watcher: watcher })
    }

    /// Waits for a change, at most `limit`, and until a burst of changes has settled.
    pub async fn changed(&mut self, limit: Duration) {
        // In either case the caller reads its files.
        let _ = tokio::time::timeout(limit, self.woken.recv()).await;
        tokio::time::sleep(SETTLE).await;
        while self.woken.try_recv().is_ok() {}
    }
}

/// Whether files stay the same. Reading a file must not count as a change.
fn is_read(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn directory(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Longer than a notification takes.
    const LIMIT: Duration = Duration::from_secs(10);
    const NEVER: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn a_change_wakes_and_a_read_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("ca.crt"), folder.path().join("ca.new"));
        std::fs::write(&file, "a").unwrap();
        let mut watch = FileWatch::new([file.as_path()]).unwrap();
        std::fs::write(&file, "b").unwrap();
        timeout(LIMIT, watch.changed(NEVER)).await.unwrap();
        let quiet = SETTLE * 4;
        while timeout(quiet, watch.changed(NEVER)).await.is_ok() {} // all events of the write
        for _ in 0..3 {
            std::fs::read(&file).unwrap();
        }
        assert!(timeout(quiet, watch.changed(NEVER)).await.is_err(), "a read is no change");
        std::fs::write(&other, "c").unwrap();
        std::fs::rename(&other, &file).unwrap();
        timeout(LIMIT, watch.changed(NEVER)).await.unwrap();
    }
}
