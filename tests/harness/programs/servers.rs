//! Servers that the packages of Debian would start as services of this machine: their programs are
//! here without that.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cached;
use crate::{environment, packages, process};

/// The Redis server of this machine, or that of the package `redis-tools`: its tool for checks is
/// the server when it is called so.
///
/// # Errors
/// When the package is missing and cannot be installed.
pub(crate) fn redis() -> Result<PathBuf> {
    const NAME: &str = "redis-server";
    if let Some(program) = environment::find_program(NAME) {
        return Ok(program);
    }
    packages::require(&packages::REDIS_TOOLS)?;
    let [tool] = packages::REDIS_TOOLS;
    let tool = environment::find_program(tool.file).context("no tool in redis-tools")?;
    let folder = cached::folder(NAME, |folder| Ok(symlink(tool, folder.join(NAME))?))?;
    Ok(folder.join(NAME))
}

/// The Prometheus of this machine, or the one of its package, which is unpacked into the cache.
///
/// # Errors
/// When the package cannot be downloaded.
pub(crate) fn prometheus() -> Result<PathBuf> {
    const NAME: &str = "prometheus";
    if let Some(program) = environment::find_program(NAME) {
        return Ok(program);
    }
    let folder = cached::folder(NAME, |folder| unpack(NAME, folder))?;
    Ok(folder.join("usr/bin").join(NAME))
}

/// Downloads a package of Debian and unpacks it; nothing of it is run.
fn unpack(package: &str, folder: &Path) -> Result<()> {
    packages::update()?;
    process::output(Command::new("apt-get").args(["download", package]).current_dir(folder))?;
    let archives = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    for archive in archives.collect::<Result<Vec<_>>>()? {
        process::output(Command::new("dpkg").arg("-x").arg(&archive).arg(folder))?;
        fs::remove_file(&archive)?;
    }
    Ok(())
}
