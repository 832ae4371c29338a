//! The data in the directory of an etcd. One that runs may change it meanwhile: what cannot be read
//! is not known.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::bolt;

/// The bucket of the members, in etcd's database.
const MEMBERS: &[u8] = b"members";
const DATABASE: &str = "member/snap/db";
const LOG_DIR: &str = "member/wal";

/// The data of an etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EtcdData {
    /// No data.
    Absent,
    /// The data of a member of a cluster with this many members; `None` if the file does not
    /// contain the number.
    Member(Option<usize>),
}

/// Reads the directory `dapr-0.1`. Blocks on the disk.
pub(crate) fn find(directory: &Path) -> EtcdData {
    if !directory.join("member").exists() {
        return EtcdData::Absent;
    }
    let file = File::open(directory.join(DATABASE));
    let members = file.map_err(bolt::BoltError::from).and_then(|file| bolt::count(&file, MEMBERS));
    match members {
        Ok(count) => EtcdData::Member(count.filter(|count| *count > 0)),
        Err(error) => {
            let file = directory.join(DATABASE);
            tracing::warn!(target: "dapr.scheduler", "The members in {} are not known: {error}",
                file.display());
            EtcdData::Member(None)
        }
    }
}

/// Creates the directory of etcd, and the marker file without which Dapr's own scheduler deletes
/// the data in it. Blocks on the disk.
///
/// # Errors
/// The file system refuses.
pub(crate) fn prepare(directory: &Path, marker: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(marker)?;
    if let Some(parent) = marker.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Whether the directory has a log, by which an etcd knows its cluster. Without one it starts as a
/// new member, even if there are other files.
pub(crate) fn has_log(directory: &Path) -> bool {
    let files = fs::read_dir(directory.join(LOG_DIR)).into_iter().flatten().flatten();
    files.map(|file| file.path()).any(|path| path.extension().is_some_and(|is| is == "wal"))
}

/// Whether the marker file exists. If the disk does not tell, [`prepare`] reports the error.
pub(crate) fn is_marked(marker: &Path) -> bool {
    fs::exists(marker).unwrap_or(true)
}
