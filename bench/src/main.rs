//! `cargo xtask bench` runs this program, built with optimisation.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match bench::runner::run(&bench::flags::Flags::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
