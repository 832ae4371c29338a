//! The directory of the embedded store: its owner, its format version, and its lock.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// First line of the format file.
const PROGRAM: &str = "trilby scheduler store";
/// Second line. A change that an older version would misread adds 1.
const VERSION: u32 = 1;
const FORMAT_FILE: &str = "FORMAT";
const LOCK_FILE: &str = "LOCK";
const DATA: &str = "db";
/// The format file is written under this name first, so that it exists whole or not at all.
const NEW_FORMAT_FILE: &str = "FORMAT.new";

/// Why a directory is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectoryError {
    /// It contains files, but no format file.
    #[error("{} holds files of another program; it is not touched. Give another --etcd-data-dir or empty the directory", .0.display())]
    Foreign(PathBuf),
    /// A later version wrote it.
    #[error("{} was written by a later version of the scheduler (format {found}, this version reads {VERSION}); it is not touched. Run that version again", path.display())]
    Newer { path: PathBuf, found: u32 },
    /// The file system refuses.
    #[error("use {} for the job store", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// A directory that this process has locked. The kernel releases it with the process.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Locks the directory, creating it when it is missing; `None` while another process has it.
    pub(crate) fn take(path: &Path) -> Result<Option<Self>, DirectoryError> {
        let failed = |error| DirectoryError::Io(path.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        check(path)?;
        let lock = private().create(true).truncate(false).open(path.join(LOCK_FILE));
        let lock = lock.map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Another process may have written the format file between the two checks.
        if check(path)? == Found::Nothing {
            write_format(path).map_err(failed)?;
        }
        Ok(Some(Self { path: path.to_owned(), _lock: lock }))
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the engine keeps its files.
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Ours,
}

fn check(path: &Path) -> Result<Found, DirectoryError> {
    let failed = |error| DirectoryError::Io(path.to_owned(), error);
    match fs::read_to_string(path.join(FORMAT_FILE)) {
        Ok(text) => match read_version(&text) {
            Some(VERSION) => Ok(Found::Ours),
            Some(found) => Err(DirectoryError::Newer { path: path.to_owned(), found }),
            None => Err(DirectoryError::Foreign(path.to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            for entry in fs::read_dir(path).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                if name != LOCK_FILE && name != NEW_FORMAT_FILE {
                    return Err(DirectoryError::Foreign(path.to_owned()));
                }
            }
            Ok(Found::Nothing)
        }
        // No text at all.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(DirectoryError::Foreign(path.to_owned()))
        }
        Err(error) => Err(failed(error)),
    }
}

fn read_version(text: &str) -> Option<u32> {
    let mut lines = text.lines();
    (lines.next() == Some(PROGRAM)).then(|| lines.next()?.strip_prefix("version ")?.parse().ok())?
}

fn write_format(path: &Path) -> io::Result<()> {
    let new = path.join(NEW_FORMAT_FILE);
    let mut file = private().create(true).truncate(true).open(&new)?;
    file.write_all(format!("{PROGRAM}\nversion {VERSION}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(new, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn a_directory_belongs_to_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = Directory::take(&path).unwrap().unwrap();
        assert!(Directory::take(&path).unwrap().is_none());
        drop(first);
        assert!(Directory::take(&path).unwrap().is_some());
    }

    #[rstest]
    #[case(FORMAT_FILE, "trilby scheduler store\nversion 2\n", "format 2")]
    #[case(FORMAT_FILE, "something else\n", "another program")]
    #[case(FORMAT_FILE, "trilby scheduler store\nversion x\n", "another program")]
    #[case("member", "", "another program")]
    fn foreign_and_newer_directories_are_refused_untouched(
        #[case] file: &str,
        #[case] content: &str,
        #[case] want: &str,
    ) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(file), content).unwrap();
        let error = Directory::take(dir.path()).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        assert!(error.contains(&dir.path().display().to_string()), "{error}");
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(names.len(), 1);
        assert_eq!(fs::read_to_string(dir.path().join(file)).unwrap(), content);
    }

    #[test]
    fn an_interrupted_start_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK_FILE), "").unwrap();
        fs::write(dir.path().join(NEW_FORMAT_FILE), "tri").unwrap();
        assert!(Directory::take(dir.path()).unwrap().is_some());
        assert_eq!(check(dir.path()).unwrap(), Found::Ours);
    }
}
