//! Archives of programs, byte for byte the same for the same content.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process;

/// Writes a tar.gz of these entries of a folder. Symbolic links are followed.
///
/// # Errors
/// When an entry is missing or the archive cannot be written.
pub(crate) fn tar_gz(archive: &Path, folder: &Path, entries: &[&str]) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--dereference", "--sort=name", "--mtime=@0", "--owner=0", "--group=0"]);
    tar.args(["--numeric-owner", "--use-compress-program=gzip -n", "--file"]).arg(archive);
    process::output(tar.arg("--directory").arg(folder).args(entries)).map(drop)
}
