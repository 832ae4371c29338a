//! axe-core, which finds accessibility faults in a page; from the npm registry, pinned by hash.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha512};

use super::cached;
use crate::{environment, packages, process};

const VERSION: &str = "4.11.0";
/// SHA-512 of the package in the registry.
const HASH: &str =
    "ilYanEU8vxxBexpJd8cWM4ElSQq4QctCLKih0TSfjIfCQTeyH/6zVrmIJfLPrKTKJRbiG+cfnZbQIjAlJmF1jQ==";

/// The script; fetched on first use.
///
/// # Errors
/// When npm is missing, the registry cannot be reached, or the package has another hash.
pub fn script() -> Result<String> {
    let script = cached::folder(&format!("axe-core-{VERSION}"), fetch)?.join("package/axe.min.js");
    fs::read_to_string(&script).with_context(|| format!("read {}", script.display()))
}

fn fetch(folder: &Path) -> Result<()> {
    packages::require(&packages::NPM)?;
    let npm = environment::find_program("npm").context("npm is missing")?;
    let mut pack = Command::new(npm);
    pack.args(["pack", "--silent", &format!("axe-core@{VERSION}")]).current_dir(folder);
    process::output(&mut pack)?;
    let package = folder.join(format!("axe-core-{VERSION}.tgz"));
    let hash = STANDARD.encode(Sha512::digest(fs::read(&package)?));
    ensure!(hash == HASH, "axe-core {VERSION} has the hash {hash}");
    let mut unpack = Command::new("tar");
    unpack.arg("-xzf").arg(&package).arg("package/axe.min.js").current_dir(folder);
    process::output(&mut unpack).map(drop)
}
