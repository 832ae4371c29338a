//! Builds a service from a copy of the sources, to check whether its bytes depend on the path.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use crate::{Architecture, Service, environment, process};

/// Copies the files that git knows, with changes that are not committed, to `folder`, which must
/// not exist, and builds the static program of `service` there for this machine's processor, with
/// no artefact of an earlier build.
///
/// # Errors
/// When a file cannot be copied or the copy does not compile.
pub fn build_copy(folder: &Path, service: Service, profile: &str) -> Result<PathBuf> {
    ensure!(!folder.exists(), "{} exists: a copy needs a new folder", folder.display());
    let root = environment::workspace();
    let listed = process::output(Command::new("git").current_dir(&root).args(["ls-files", "-z"]))?;
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        let (from, to) = (root.join(name), folder.join(name));
        if !from.is_file() {
            continue; // deleted and not committed
        }
        let parent = to.parent().context("a file has a folder")?;
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        fs::copy(&from, &to)
            .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    let architecture = Architecture::here()?;
    let target = folder.join("target");
    let mut cargo = Command::new(environment::var("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    cargo.current_dir(folder).args(["build", "--quiet", "--locked", "--profile", profile]);
    cargo.args(["--package", service.package(), "--target-dir"]).arg(&target);
    architecture.build_static_with(&mut cargo, folder)?;
    let status = cargo.stdin(Stdio::null()).status().context("run cargo")?;
    ensure!(status.success(), "the copy in {} does not compile, see above", folder.display());
    let profile_folder = if profile == "dev" { "debug" } else { profile };
    Ok(target.join(architecture.target()).join(profile_folder).join(service.binary()))
}

/// SHA-256 of a file, in hexadecimal.
///
/// # Errors
/// When it cannot be read.
pub fn sha256(file: &Path) -> Result<String> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    Ok(environment::hex(&Sha256::digest(bytes)))
}
