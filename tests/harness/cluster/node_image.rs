//! The pause image, built on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::containerd::PAUSE_IMAGE;
use crate::{Image, environment, process};

const SOURCE: &str = include_str!("pause.rs");

/// Writes the image's archive below `folder` and returns its path.
///
/// # Errors
/// When rustc cannot build a static program.
pub(crate) fn write_pause(folder: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let source = folder.join("pause.rs");
    fs::write(&source, SOURCE)?;
    let program = folder.join("pause");
    let rustc = environment::var("RUSTC").unwrap_or_else(|| "rustc".to_owned());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-C", "panic=abort"]);
    command.args(["-C", "opt-level=s", "-C", "strip=symbols", "-o"]).arg(&program).arg(&source);
    process::output(&mut command).context("compile the pause program")?;
    let archive = folder.join("pause.tar");
    Image::new(PAUSE_IMAGE).entrypoint(&["/pause"]).file(&program, "/pause")?.write(&archive)?;
    Ok(archive)
}
