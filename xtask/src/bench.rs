//! `cargo xtask bench`: builds the benchmark with optimisation and replaces this process by it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};
use blackbox::environment;
use clap::Args;

/// The benchmark against the reference control plane; `cargo xtask bench -- --help` lists its flags.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Flags {
    /// Passed to the benchmark
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let mut bench = Command::new(env!("CARGO"));
    bench.current_dir(environment::workspace());
    bench.args(["run", "--quiet", "--profile", "bench-load", "--package", "bench", "--"]);
    let failed = bench.args(&flags.rest).exec();
    Err(failed).context("run the benchmark")
}
