//! The architectures of images, and cross compilation.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{environment, process};

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// All architectures of images.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// The architecture of this machine.
    ///
    /// # Errors
    /// When images are not built for it.
    pub fn here() -> Result<Self> {
        let found = Self::ALL.into_iter().find(|one| one.rust_name() == std::env::consts::ARCH);
        match found {
            Some(here) => Ok(here),
            None => bail!("no images for {}, only for amd64 and arm64", std::env::consts::ARCH),
        }
    }

    /// Its name in images and in the file names of releases.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    const fn rust_name(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    /// Rust's target triple.
    pub fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.rust_name())
    }

    /// Configures a cargo command to build for it, with Debian's linker and C compiler where it is
    /// not this machine's.
    ///
    /// # Errors
    /// When Rust's library or the compiler for it is missing; the error says how to install it.
    pub(crate) fn build_with(self, cargo: &mut Command) -> Result<()> {
        cargo.args(["--target", &self.target()]);
        if Self::here().is_ok_and(|here| here == self) {
            return Ok(());
        }
        let target = self.target();
        needs_library(&target)?;
        let prefix = format!("{}-linux-gnu", self.rust_name());
        if environment::find_program(&format!("{prefix}-gcc")).is_none() {
            let name = prefix.replace('_', "-"); // Debian's names of packages have no underscore
            bail!("the C compiler for {target} is missing: apt-get install gcc-{name}");
        }
        let suffix = target.replace('-', "_");
        cargo
            .env(format!("CARGO_TARGET_{}_LINKER", suffix.to_uppercase()), format!("{prefix}-gcc"));
        cargo.env(format!("CC_{suffix}"), format!("{prefix}-gcc"));
        cargo.env(format!("AR_{suffix}"), format!("{prefix}-ar"));
        Ok(())
    }
}

/// Rust's target triple of Windows on x86-64.
const WINDOWS: &str = "x86_64-pc-windows-gnu";
/// Debian's C compiler for it, which cargo and the `cc` crate find by its name.
const WINDOWS_COMPILER: &str = "x86_64-w64-mingw32-gcc";

/// Configures a cargo command to build for Windows.
///
/// # Errors
/// When Rust's library or the C compiler for it is missing; the error says how to install it.
pub(crate) fn build_for_windows_with(cargo: &mut Command) -> Result<()> {
    needs_library(WINDOWS)?;
    if environment::find_program(WINDOWS_COMPILER).is_none() {
        bail!("the C compiler for {WINDOWS} is missing: apt-get install gcc-mingw-w64-x86-64");
    }
    cargo.args(["--target", WINDOWS]);
    Ok(())
}

fn needs_library(target: &str) -> Result<()> {
    let question = ["--print", "target-libdir", "--target", target];
    let library = process::output(Command::new("rustc").args(question))?;
    if !Path::new(library.trim()).is_dir() {
        bail!("Rust's library for {target} is missing: rustup target add {target}");
    }
    Ok(())
}

impl Architecture {
    /// Configures a cargo command to build static programs for it whose bytes do not depend on
    /// where the sources and the packages are: paths are replaced by `/src` and `/cargo`.
    ///
    /// # Errors
    /// As [`Architecture::build_with`].
    pub(crate) fn build_static_with(self, cargo: &mut Command, workspace: &Path) -> Result<()> {
        // The flags must not reach build scripts and macros; with a target named, they do not.
        self.build_with(cargo)?;
        let workspace = workspace.display();
        let packages = environment::cargo_home()?;
        let packages = packages.display();
        let flags = [
            "-Ctarget-feature=+crt-static".to_owned(),
            format!("--remap-path-prefix={packages}=/cargo"),
            format!("--remap-path-prefix={workspace}=/src"),
        ];
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
        let suffix = self.target().replace('-', "_");
        cargo.env(
            format!("CFLAGS_{suffix}"),
            format!("-ffile-prefix-map={packages}=/cargo -ffile-prefix-map={workspace}=/src"),
        );
        Ok(())
    }
}

impl std::str::FromStr for Architecture {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|one| one.name() == name) {
            Some(found) => Ok(found),
            None => bail!("no images for {name:?}, only for amd64 and arm64"),
        }
    }
}
