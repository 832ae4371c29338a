//! Maven, which downloads artifacts of Java; it leaves nothing in the home folder.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{Scratch, packages, process};

/// The plugin that downloads artifacts, at a fixed version.
const PLUGIN: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1";

/// Runs a goal of the plugin in a folder. Maven compares what it downloads with sums of the same
/// repository only; the caller compares with sums of its own.
///
/// # Errors
/// When Maven is missing, or the repository cannot be reached.
pub(super) fn run(goal: &str, settings: &[String], folder: &Path) -> Result<()> {
    packages::require(&packages::MAVEN)?;
    let repository = Scratch::new("maven")?;
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--quiet", "--strict-checksums"]);
    maven.arg(format!("-Dmaven.repo.local={}", repository.path().display()));
    maven.arg(format!("{PLUGIN}:{goal}")).args(settings).current_dir(folder);
    process::output(&mut maven).context("download with Maven").map(drop)
}
