//! Runs the fuzz targets for a time. Exit code 1 when one panicked.
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use fuzz::{Budget, TARGETS, run, target};

#[derive(Debug, Parser)]
struct Flags {
    /// Minutes for all targets together.
    #[arg(long, default_value_t = 17)]
    minutes: u32,
    /// Only this target.
    #[arg(long)]
    target: Option<String>,
    /// Seed of the random mutations.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match fuzz(&Flags::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn fuzz(flags: &Flags) -> Result<bool> {
    let targets = match &flags.target {
        Some(name) => vec![target(name).with_context(|| format!("no target {name:?}"))?],
        None => TARGETS.to_vec(),
    };
    let share = Duration::from_mins(flags.minutes.into()) / u32::try_from(targets.len())?.max(1);
    let mut clean = true;
    for target in targets {
        let end = runtime::clock::monotonic() + share;
        let found = run(&target, flags.seed, Budget::Until(end))?;
        eprintln!("{}: {} inputs, {} panics", target.name, found.inputs, found.panics.len());
        for path in &found.panics {
            eprintln!("  {}", path.display());
        }
        clean &= found.panics.is_empty();
    }
    Ok(clean)
}
