//! `cargo xtask fuzz`: the fuzz targets for a time.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::environment;
use clap::Args;

/// Runs the fuzz targets for a time; fails when one panics.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Minutes for all targets together
    #[arg(long, default_value_t = 17)]
    minutes: u64,
    /// Only this target
    #[arg(long)]
    target: Option<String>,
    /// Number from which the inputs follow
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let mut fuzz = Command::new("cargo");
    fuzz.current_dir(environment::workspace())
        .args(["run", "--quiet", "-p", "fuzz", "--"])
        .args([format!("--minutes={}", flags.minutes), format!("--seed={}", flags.seed)]);
    if let Some(target) = &flags.target {
        fuzz.arg(format!("--target={target}"));
    }
    let status = fuzz.status().context("run cargo")?;
    ensure!(status.success(), "a target panicked; its input is below fuzz/seeds");
    Ok(())
}
