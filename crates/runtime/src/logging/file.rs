//! A log file that is rotated by size. Rotated files are named as Go's lumberjack names them,
//! `<name>-<time><extension>`, so that tools which collect them find them.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// When a log file is rotated, and how long rotated files are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// The file is rotated before it would grow beyond this; `None` never rotates.
    pub(crate) max_bytes: Option<u64>,
    /// The newest rotated files that are kept; `None` keeps all.
    pub(crate) max_backups: Option<usize>,
    /// How long rotated files are kept; `None` keeps them.
    pub(crate) max_age: Option<Duration>,
    /// Whether rotated files are compressed with gzip.
    pub(crate) compress: bool,
}

/// A file that lines are appended to. A line is written as a whole or, on a full disk, not at all.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    file: File,
    length: u64,
    /// Compresses the file that was rotated last; logging does not wait for it.
    compressing: Option<JoinHandle<()>>,
}

const TIME: &str = "%Y-%m-%dT%H-%M-%S%.3f";
const COMPRESSED: &str = ".gz";

impl LogFile {
    /// Opens the file for appending, creating it if need be.
    pub(crate) fn open(path: &Path, rotation: Rotation) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_path_buf(), rotation, file, length, compressing: None })
    }

    /// Appends one line, after a rotation where it is due.
    ///
    /// # Errors
    /// The line cannot be written; the file contains none of it then. A failed rotation is no
    /// error: the file grows until the rotation of a later line succeeds.
    pub(crate) fn append(&mut self, line: &[u8], now: Timestamp) -> io::Result<()> {
        let after = self.length.saturating_add(line.len() as u64);
        if self.length > 0 && self.rotation.max_bytes.is_some_and(|max| after > max) {
            let _ = self.rotate(now);
        }
        let written = self.file.write_all(line);
        if written.is_ok() {
            self.length = self.length.saturating_add(line.len() as u64);
        } else {
            // Part of it may be in the file. A device that cannot be truncated has no length
            // either.
            let _ = self.file.set_len(self.length);
        }
        written
    }

    /// Renames the file and opens a new one. If that is impossible the old one stays in use.
    fn rotate(&mut self, now: Timestamp) -> io::Result<()> {
        self.finish_compression();
        let rotated = rotated_name(&self.path, now);
        fs::rename(&self.path, &rotated)?;
        match Self::open(&self.path, self.rotation) {
            Ok(new) => *self = new,
            Err(error) => {
                fs::rename(&rotated, &self.path)?;
                return Err(error);
            }
        }
        let (path, rotation) = (self.path.clone(), self.rotation);
        if rotation.compress {
            let work = move || {
                let _ = compress(&rotated); // on a full disk the file stays as it is
                remove_old(&path, rotation, now);
            };
            self.compressing = thread::Builder::new().name("log-gzip".to_owned()).spawn(work).ok();
        } else {
            remove_old(&path, rotation, now);
        }
        Ok(())
    }

    /// Waits for the compression of the file that was rotated last: one at a time.
    fn finish_compression(&mut self) {
        if let Some(thread) = self.compressing.take() {
            let _ = thread.join();
        }
    }
}

/// A name that no rotated file has yet.
fn rotated_name(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, extension) = name_parts(path);
    let mut time = now;
    loop {
        let name = format!("{stem}-{}{extension}", time.strftime(TIME));
        let compressed = path.with_file_name(format!("{name}{COMPRESSED}"));
        let rotated = path.with_file_name(name);
        if !rotated.exists() && !compressed.exists() {
            return rotated;
        }
        time += SignedDuration::from_millis(1);
    }
}

/// `a` and `.log` of `a.log`.
fn name_parts(path: &Path) -> (String, String) {
    let text = |part: Option<&OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let extension = text(path.extension()).map(|extension| format!(".{extension}"));
    (text(path.file_stem()).unwrap_or_default(), extension.unwrap_or_default())
}

/// Removes rotated files beyond the kept number and age. A file that cannot be removed stays.
fn remove_old(path: &Path, rotation: Rotation, now: Timestamp) {
    let max_age = rotation.max_age.and_then(|max| SignedDuration::try_from(max).ok());
    for (position, (rotated, path)) in backups(path).into_iter().enumerate() {
        let too_many = rotation.max_backups.is_some_and(|max| position >= max);
        if too_many || max_age.is_some_and(|max| now.duration_since(rotated) > max) {
            let _ = fs::remove_file(path);
        }
    }
}

/// The rotated files of a log file, the newest first.
fn backups(path: &Path) -> Vec<(Timestamp, PathBuf)> {
    let (stem, extension) = name_parts(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let entries = fs::read_dir(folder.unwrap_or(Path::new("."))).into_iter().flatten().flatten();
    let mut backups: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(COMPRESSED).unwrap_or(&name);
            let time = name.strip_prefix(&stem)?.strip_prefix('-')?.strip_suffix(&extension)?;
            let time = DateTime::strptime(TIME, time).ok()?;
            Some((Offset::UTC.to_timestamp(time).ok()?, entry.path()))
        })
        .collect();
    backups.sort_by(|a, b| b.cmp(a));
    backups
}

/// Replaces a file by its gzip. An incomplete one is removed again.
fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(COMPRESSED);
    let done = (|| {
        let mut encoder = GzEncoder::new(File::create(&target)?, Compression::default());
        io::copy(&mut File::open(path)?, &mut encoder)?;
        encoder.finish()?.flush()
    })();
    fs::remove_file(if done.is_ok() { path.as_os_str() } else { &target })?;
    done
}

#[cfg(test)]
mod tests;
