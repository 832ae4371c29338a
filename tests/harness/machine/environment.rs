//! Variables, folders, free ports and randomness of this machine.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context as _, Result};
pub use free_port::free_port;

/// The variable, or `None` when it is unset or empty.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness is no service: it does not use `runtime`"
)]
pub fn var(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The folder of the workspace this harness was built from.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The variable with the folder of development builds that are up to date. `cargo xtask test` sets
/// it, so that no test calls cargo.
pub const PROGRAMS: &str = "TRILBY_PROGRAMS";

static BUILT: OnceLock<PathBuf> = OnceLock::new();

/// As [`PROGRAMS`], for the process that has built them.
pub fn set_programs(folder: &Path) {
    BUILT.get_or_init(|| folder.to_path_buf());
}

/// The folder of [`PROGRAMS`] or [`set_programs`], if there is one.
pub(crate) fn programs() -> Option<PathBuf> {
    var(PROGRAMS).map(PathBuf::from).or_else(|| BUILT.get().cloned())
}

/// Cargo's folder for what it builds.
pub fn target_folder() -> PathBuf {
    var("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// Where finished programs are kept between runs: `$TRILBY_CACHE`, else `trilby` below the
/// user's cache folder. Outside the work tree, so that a fresh clone is warm.
///
/// # Errors
/// When neither that nor `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    if let Some(folder) = var("TRILBY_CACHE") {
        return Ok(folder.into());
    }
    let base = var("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| var("HOME").map(|home| Path::new(&home).join(".cache")));
    Ok(base
        .context("set TRILBY_CACHE or HOME: no folder to keep built programs in")?
        .join("trilby"))
}

/// Where cargo keeps the packages: `$CARGO_HOME`, else `.cargo` in the home folder.
///
/// # Errors
/// When neither that nor `HOME` is set.
pub fn cargo_home() -> Result<PathBuf> {
    if let Some(folder) = var("CARGO_HOME") {
        return Ok(folder.into());
    }
    let home =
        var("HOME").context("set CARGO_HOME or HOME: where does cargo keep its packages?")?;
    Ok(Path::new(&home).join(".cargo"))
}

/// Where a test cluster that outlives its command keeps its state: `$TRILBY_STATE`, else `.cluster`
/// in the work tree.
pub fn state() -> PathBuf {
    var("TRILBY_STATE").map_or_else(|| workspace().join(".cluster"), PathBuf::from)
}

/// Removes the folder of [`state`] when nothing is in it.
pub(crate) fn remove_empty_state() {
    let _ = fs::remove_dir(state());
}

/// Whether this process may create namespaces, mounts and cgroups.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program of that name on `PATH`, or in the `sbin` folders that a user's `PATH` often lacks.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = var("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A fresh 128-bit secret in hexadecimal.
///
/// # Errors
/// When the kernel gives no randomness.
pub fn secret() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(hex(&bytes))
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
