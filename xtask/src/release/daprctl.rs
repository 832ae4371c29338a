//! `cargo xtask daprctl`: the command line tool, and the manifest of the kubectl plugin.

use std::path::PathBuf;

use anyhow::Result;
use blackbox::krew::{self, Platform};
use blackbox::progress::step;
use blackbox::{Architecture, build_daprctl_for_windows, build_daprctl_static, environment};
use clap::Args;

use crate::output::print;

/// Builds static programs of `daprctl` for Linux, packs each with the licence, and writes the
/// manifest of the plugin `kubectl dapr` for krew. An archive `daprctl_OS_ARCH.tar.gz` that is in
/// the folder already, such as one that was built on macOS (darwin), is part of the manifest.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Folder of the archives and of the manifest
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Where the archives will be published, without a `/` at the end
    #[arg(long, value_name = "URL")]
    url: String,
    /// A processor, amd64 or arm64; by default that of this machine
    #[arg(long, value_name = "NAME")]
    arch: Vec<Architecture>,
    /// Also for Windows on amd64: needs Rust's library `x86_64-pc-windows-gnu` and its C compiler
    #[arg(long)]
    windows: bool,
    /// Cargo's profile
    #[arg(long, default_value = "release")]
    profile: String,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let folder = environment::workspace().join(&flags.folder); // an absolute path is unchanged
    let architectures =
        if flags.arch.is_empty() { vec![Architecture::here()?] } else { flags.arch.clone() };
    for architecture in architectures {
        let program = step(&format!("build daprctl for {}", architecture.name()), || {
            build_daprctl_static(architecture, &flags.profile)
        })?;
        let archive = krew::pack(&folder, Platform::linux(architecture), &program)?;
        print(&format!("{}", archive.display()))?;
    }
    if flags.windows {
        let build = || build_daprctl_for_windows(&flags.profile);
        let program = step("build daprctl for Windows", build)?;
        let archive = krew::pack(&folder, Platform::WINDOWS, &program)?;
        print(&format!("{}", archive.display()))?;
    }
    print(&format!("{}", krew::write_manifest(&folder, &flags.url)?.display()))
}
