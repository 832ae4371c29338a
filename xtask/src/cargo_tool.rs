//! Programs that extend cargo, in the version that this workspace expects: from `PATH`, from the
//! cache, or built into the cache on first use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::progress::step;
use blackbox::{environment, process};

/// A package of crates.io with one program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CargoTool {
    /// Name of package and program.
    name: &'static str,
    version: &'static str,
    /// The arguments that make it print its version.
    ask_version: &'static [&'static str],
    /// Arguments of `cargo install` beside name and version.
    install: &'static [&'static str],
    /// Seconds that a first build takes on two cores.
    build_seconds: u32,
}

impl CargoTool {
    /// The test runner. `.config/nextest.toml` is written for this version. Without optimisation:
    /// it waits for tests, and builds in half the time.
    pub(crate) const NEXTEST: Self = Self {
        name: "cargo-nextest",
        version: "0.9.151",
        ask_version: &["nextest", "--version"],
        install: &["--no-default-features", "--features", "default-no-update", "--profile", "dev"],
        build_seconds: 180,
    };

    /// Checks licences, sources, doubled packages and advisories by the rules of `deny.toml`.
    pub(crate) const DENY: Self = Self {
        name: "cargo-deny",
        version: "0.20.2",
        ask_version: &["deny", "--version"],
        install: &["--profile", "dev"],
        build_seconds: 240,
    };

    /// The path of the program: from `PATH` in this version, from the cache, or built now.
    ///
    /// # Errors
    /// cargo cannot build it.
    pub(crate) fn provide(self) -> Result<PathBuf> {
        if let Some(found) = environment::find_program(self.name)
            && process::output(Command::new(&found).args(self.ask_version))
                .is_ok_and(|text| text.contains(self.version))
        {
            return Ok(found);
        }
        let folder = environment::cache()?.join(format!("{}-{}", self.name, self.version));
        let program = folder.join("bin").join(self.name);
        if !program.is_file() {
            let what =
                format!("build {} (first time only, about {} s)", self.name, self.build_seconds);
            step(&what, || self.build(&folder))?;
        }
        Ok(program)
    }

    fn build(self, folder: &Path) -> Result<()> {
        let build = folder.join("build");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["install", "--quiet", "--locked", "--version", self.version, self.name]);
        cargo.args(self.install);
        cargo.arg("--target-dir").arg(&build).arg("--root").arg(folder);
        let status = cargo.status().context("run cargo install")?;
        ensure!(status.success(), "cargo install {}: {status}", self.name);
        fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))
    }
}
