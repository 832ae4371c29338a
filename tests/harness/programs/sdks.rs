//! Dapr's official SDKs, each in its own folder of the cache. The files beside this one pin the
//! versions of everything that is installed, with checksums.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::{cached, gobuild, maven};
use crate::{Scratch, environment, packages, process, reproducible};

const REQUIREMENTS: &str = include_str!("sdks/requirements.txt");
const PACKAGE: &str = include_str!("sdks/package.json");
const PACKAGE_LOCK: &str = include_str!("sdks/package-lock.json");
const POM: &str = include_str!("sdks/pom.xml");
/// What Maven brings for [`POM`], in the format of `sha256sum`.
const JARS: &str = include_str!("sdks/jars.sha256");

/// Installs all of them.
///
/// # Errors
/// When a package manager is missing, or a registry cannot be reached.
pub fn provide() -> Result<()> {
    packages::require(&packages::JDK)?;
    for install in [python, javascript, java] {
        install()?;
    }
    Ok(())
}

/// The Python that has the SDK, its workflows and Flask.
///
/// # Errors
/// When Python with `venv` is missing, or the registry cannot be reached.
pub fn python() -> Result<PathBuf> {
    let folder = cached::folder(&named("python-sdk", REQUIREMENTS), |folder| {
        packages::require(&packages::PYTHON)?;
        let system = environment::find_program("python3").context("python3 is missing")?;
        process::output(Command::new(system).args(["-m", "venv"]).arg(folder))
            .context("make a virtual environment (Debian: package python3-venv)")?;
        let list = folder.join("requirements.txt");
        fs::write(&list, REQUIREMENTS)?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement"]);
        process::output(pip.arg(list)).map(drop)
    })?;
    Ok(folder.join("bin/python"))
}

/// The `node_modules` with the SDK for JavaScript.
///
/// # Errors
/// When npm is missing, or the registry cannot be reached.
pub fn javascript() -> Result<PathBuf> {
    let folder = cached::folder(&named("javascript-sdk", PACKAGE_LOCK), |folder| {
        packages::require(&packages::NPM)?;
        fs::write(folder.join("package.json"), PACKAGE)?;
        fs::write(folder.join("package-lock.json"), PACKAGE_LOCK)?;
        let npm = environment::find_program("npm").context("npm is missing")?;
        let cache = Scratch::new("npm")?;
        let mut install = Command::new(npm);
        install.args(["ci", "--silent", "--ignore-scripts", "--no-audit", "--cache"]);
        process::output(install.arg(cache.path()).current_dir(folder)).map(drop)
    })?;
    Ok(folder.join("node_modules"))
}

/// The folder with the jar files of the SDK for Java.
///
/// # Errors
/// When Maven is missing, its repository cannot be reached, or a file is another one.
pub fn java() -> Result<PathBuf> {
    let folder = cached::folder(&named("java-sdk", JARS), |folder| {
        fs::write(folder.join("pom.xml"), POM)?;
        let settings = ["-DincludeScope=runtime", "-DoutputDirectory=jars"].map(str::to_owned);
        maven::run("copy-dependencies", &settings, folder)?;
        let found = sums(&folder.join("jars"))?;
        ensure!(found == JARS, "the jar files of Dapr's SDK have other sums:\n{found}");
        Ok(())
    })?;
    Ok(folder.join("jars"))
}

/// Builds the program of a Go module of ours, whose `go.sum` pins the SDK.
///
/// # Errors
/// When Go is missing, a module cannot be downloaded, or the program does not compile.
pub fn go(module: &Path, program: &Path) -> Result<()> {
    gobuild::build_own(module, program)
}

/// The name of a folder that depends on what is installed.
fn named(name: &str, lock: &str) -> String {
    let hash = environment::hex(&Sha256::digest(lock));
    format!("{name}-{}", hash.chars().take(12).collect::<String>())
}

/// The sums of the files of a folder, sorted by name, in the format of `sha256sum`.
fn sums(folder: &Path) -> Result<String> {
    let mut files: Vec<_> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    files.sort();
    let line = |name: &std::ffi::OsString| {
        let sum = reproducible::sha256(&folder.join(name))?;
        Ok(format!("{sum}  {}\n", name.to_string_lossy()))
    };
    files.iter().map(line).collect()
}
