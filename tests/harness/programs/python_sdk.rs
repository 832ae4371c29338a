//! Official SDKs of Dapr for Python, in an environment of their own in the cache.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::{environment, packages, process, progress::step};

/// The SDK of workflows, and what it brings. All versions are named, so that the environment is the
/// same on every machine.
const WORKFLOW: [&str; 3] = ["dapr-ext-workflow==1.18.3", "dapr==1.19.0", "grpcio==1.85.3"];

/// The Python that has the SDK of workflows; installed from its registry on first use.
///
/// # Errors
/// When there is no Python with `venv`, or the registry cannot be reached.
pub fn workflow() -> Result<PathBuf> {
    packages::require(&packages::PYTHON)?;
    let cache = environment::cache()?;
    let folder = cache.join(WORKFLOW[0].replace("==", "-"));
    let python = folder.join("bin/python");
    let locks = cache.join("locks");
    fs::create_dir_all(&locks).with_context(|| format!("make {}", locks.display()))?;
    let lock = fs::File::create(locks.join("python-sdk"))?;
    lock.lock()?;
    let complete = folder.join("complete");
    if complete.exists() {
        return Ok(python);
    }
    step("install Dapr's workflow SDK for Python", || {
        if folder.exists() {
            fs::remove_dir_all(&folder)?; // of an installation that was interrupted
        }
        let system = environment::find_program("python3").context("python3 is missing")?;
        process::output(Command::new(system).args(["-m", "venv"]).arg(&folder))
            .context("make a virtual environment (Debian: package python3-venv)")?;
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        process::output(pip.args(WORKFLOW))?;
        fs::write(&complete, "").context("mark it complete").map(drop)
    })?;
    ensure!(python.exists(), "no {}", python.display());
    Ok(python)
}
