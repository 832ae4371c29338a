//! Waking when a file changes: the directories are watched, because volumes of Kubernetes swap a
//! link in them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// One change comes as several events.
const SETTLE: Duration = Duration::from_millis(50);

/// A watch of the directories of some files. It ends when it is dropped.
pub struct FileWatch {
    woken: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl FileWatch {
    /// Watches the directories of `files`.
    ///
    /// # Errors
    /// A directory does not exist or cannot be watched; the text names it.
    pub fn new<'a>(files: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<Self> {
        let (wake, woken) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |_| {
            // Full: a wake-up is pending already.
            let _ = wake.try_send(());
        })
        .context("start the file watch")?;
        let mut directories: Vec<PathBuf> = files.into_iter().map(directory).collect();
        directories.sort();
        directories.dedup();
        for directory in directories {
            watcher
                .watch(&directory, RecursiveMode::NonRecursive)
                .with_context(|| format!("watch directory {}", directory.display()))?;
        }
        Ok(Self { woken, _watcher: watcher })
    }

    /// Waits for a change, at most `limit`, and lets a burst of them settle.
    pub async fn changed(&mut self, limit: Duration) {
        // Either way the caller looks at its files.
        let _ = tokio::time::timeout(limit, self.woken.recv()).await;
        tokio::time::sleep(SETTLE).await;
        while self.woken.try_recv().is_ok() {}
    }
}

fn directory(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}
