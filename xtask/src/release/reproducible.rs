//! `cargo xtask reproducible`: compares two builds of one program.

use std::fs;

use anyhow::{Context as _, Result, bail};
use blackbox::progress::step;
use blackbox::{Scratch, Service, reproducible};
use clap::Args;

use crate::output::print;

/// Builds a service twice from copies of the sources in two folders, each without earlier artefacts,
/// and compares the programs byte by byte. Takes two release builds for each service.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// A service; by default all
    #[arg(long, value_name = "NAME", value_parser = Service::parse)]
    service: Vec<Service>,
    /// Cargo's profile; images contain `release`
    #[arg(long, default_value = "release")]
    profile: String,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let services =
        if flags.service.is_empty() { Service::ALL.to_vec() } else { flags.service.clone() };
    for service in services {
        compare(service, &flags.profile)?;
    }
    Ok(())
}

/// Fails, and keeps both programs, when they differ.
fn compare(service: Service, profile: &str) -> Result<()> {
    let scratch = Scratch::new("reproducible")?;
    let name = service.binary();
    // Paths of different length: a path in the program moves everything after it.
    let places = ["a", "another/folder/with/a/longer/path"];
    let mut programs = Vec::new();
    for place in places {
        let folder = scratch.path().join(place);
        programs.push(step(&format!("build {name} in {}", folder.display()), || {
            reproducible::build_copy(&folder, service, profile)
        })?);
    }
    let mut sums = Vec::new();
    for program in &programs {
        sums.push(reproducible::sha256(program)?);
    }
    if sums.iter().any(|sum| Some(sum) != sums.first()) {
        let kept = blackbox::environment::target_folder().join("reproducible");
        fs::create_dir_all(&kept).with_context(|| format!("make {}", kept.display()))?;
        for (program, copy) in programs.iter().zip(["first", "second"]) {
            fs::copy(program, kept.join(format!("{name}-{copy}")))?;
        }
        bail!("the two builds of {name} differ; both are in {}", kept.display());
    }
    print(&format!("{}  {name}", sums.first().context("two builds give two sums")?))
}
