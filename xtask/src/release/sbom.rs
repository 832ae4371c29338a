//! `cargo xtask sbom`: the contents of each program.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use blackbox::{Architecture, Service, environment, sbom};
use clap::Args;

use crate::output::print;

/// Writes the bill of materials of each service in `CycloneDX`'s JSON, as its image has it below
/// /usr/share/sbom: the packages, their licences and checksums, and their dependencies; for the
/// scheduler the etcd of its image too.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Folder to write the files to
    #[arg(value_name = "DIR", default_value = "target/sbom")]
    folder: PathBuf,
    /// A processor, amd64 or arm64; by default that of this machine
    #[arg(long, value_name = "NAME")]
    arch: Option<Architecture>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let folder = environment::workspace().join(&flags.folder); // an absolute path is unchanged
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let architecture = flags.arch.map_or_else(Architecture::here, Ok)?;
    for service in Service::ALL {
        let file = folder.join(format!("{}.cdx.json", service.binary()));
        fs::write(&file, format!("{:#}\n", sbom::of_image(service, architecture)?))?;
        print(&format!("{}", file.display()))?;
    }
    Ok(())
}
