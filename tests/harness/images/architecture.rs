//! The processors that images are made for, and what it takes to build for another one.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::{environment, process};

/// A processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
}

impl Architecture {
    /// All that images are made for.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// This machine's.
    ///
    /// # Errors
    /// When it is another one.
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

    /// Rust's name of Linux on it.
    pub fn target(self) -> String {
        format!("{}-unknown-linux-gnu", self.rust_name())
    }

    /// Lets a cargo command build for it, with a linker and a C compiler of Debian's where it is
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
        let question = ["--print", "target-libdir", "--target", &target];
        let library = process::output(Command::new("rustc").args(question))?;
        if !Path::new(library.trim()).is_dir() {
            bail!("Rust's library for {target} is missing: rustup target add {target}");
        }
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

impl Architecture {
    /// Lets a cargo command build static programs for it whose bytes do not depend on where the
    /// sources and the packages lie: paths are written as `/src` and `/cargo`.
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
