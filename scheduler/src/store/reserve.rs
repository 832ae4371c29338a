//! Reserved room on the file system: a file that is deleted when the disk is full, so that
//! deletions can still be written.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::embedded::shared::Space;

/// With fewer free bytes the disk counts as full.
const LEAST_FREE_BYTES: u64 = 1 << 20;
/// Largest size of the reserve.
const LARGEST_BYTES: u64 = 64 << 20;
/// Largest part of the free room at the start.
const PART_OF_FREE: u64 = 8;
const FILE: &str = "RESERVE";

/// The reserve of one directory.
#[derive(Debug)]
pub(crate) struct Reserve {
    file: PathBuf,
    bytes: u64,
    held: Mutex<bool>,
    free: fn(&Path) -> io::Result<u64>,
}

impl Reserve {
    /// Creates the reserve. Without room for it, it counts as given up.
    pub(crate) fn new(directory: &Path) -> Self {
        Self::with(directory, free_bytes)
    }

    fn with(directory: &Path, free: fn(&Path) -> io::Result<u64>) -> Self {
        let file = directory.join(FILE);
        // Left by an earlier process.
        let _ = fs::remove_file(&file);
        let bytes = LARGEST_BYTES.min(free(directory).unwrap_or(0) / PART_OF_FREE);
        let reserve = Self { file, bytes, held: Mutex::new(false), free };
        reserve.look();
        reserve
    }

    fn free(&self) -> u64 {
        // Without an answer the disk does not count as full: writes will fail if it is.
        let directory = self.file.parent().unwrap_or(Path::new("."));
        (self.free)(directory).unwrap_or(u64::MAX)
    }

    fn make(&self) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&self.file)?;
        if self.bytes > 0 {
            fallocate(&file, FallocateFlags::empty(), 0, self.bytes)?;
        }
        Ok(())
    }
}

impl Space for Reserve {
    fn give_up(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *held) {
            let _ = fs::remove_file(&self.file);
        }
    }

    fn look(&self) -> bool {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let free = self.free();
        if !*held && free >= self.bytes.saturating_add(LEAST_FREE_BYTES) {
            *held = self.make().is_ok();
            if !*held {
                let _ = fs::remove_file(&self.file);
            }
        }
        free < LEAST_FREE_BYTES || !*held && free < self.bytes.saturating_add(LEAST_FREE_BYTES)
    }

    fn free_bytes(&self) -> u64 {
        self.free()
    }
}

fn free_bytes(directory: &Path) -> io::Result<u64> {
    let found = statvfs(directory)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    static FREE: AtomicU64 = AtomicU64::new(0);

    #[test]
    fn a_disk_is_full_until_the_reserve_is_whole_again() {
        let dir = tempfile::tempdir().unwrap();
        let set = |bytes| FREE.store(bytes, Ordering::Relaxed);
        set(16 * LEAST_FREE_BYTES);
        let reserve = Reserve::with(dir.path(), |_| Ok(FREE.load(Ordering::Relaxed)));
        let file = dir.path().join(FILE);
        assert_eq!(fs::metadata(&file).unwrap().len(), 2 * LEAST_FREE_BYTES);
        assert!(!reserve.look());
        set(LEAST_FREE_BYTES - 1);
        assert!(reserve.look());
        set(LEAST_FREE_BYTES);
        assert!(!reserve.look(), "the reserve is still there");
        reserve.give_up();
        assert!(!file.exists());
        set(3 * LEAST_FREE_BYTES - 1);
        assert!(reserve.look(), "too little for the reserve");
        assert!(!file.exists());
        set(3 * LEAST_FREE_BYTES);
        assert!(!reserve.look());
        assert!(file.exists());
    }

    #[test]
    fn the_real_file_system_answers() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free_bytes(dir.path()).unwrap() > 0);
    }
}
