//! What `dapr init --from-dir` installs on a machine without a cluster: Dapr's own daprd, our
//! placement, scheduler, sentry and dashboard, in the layout of Dapr's installer bundle.
//!
//! ```text
//!   details.json                             versions, and the names of the two folders
//!   dist/<program>_linux_<amd64|arm64>.tar.gz
//!   docker/                                  for images, of which a slim installation needs none
//! ```
//! Source of the layout: Dapr CLI 1.16.5, `dapr init --slim --from-dir`. That version insists on a
//! scheduler (since Dapr 1.14) and on a dashboard, which `dapr dashboard` starts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::archive::tar_gz;
use crate::{Architecture, Scratch, process};

/// The oldest CLI that is tested with such a bundle.
const CLI: &str = "1.16.5";
/// The programs of a bundle.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The official sidecar.
    pub daprd: PathBuf,
    /// Our scheduler.
    pub scheduler: PathBuf,
    /// Our placement.
    pub placement: PathBuf,
    /// Our sentry, which no CLI installs: for mTLS without a cluster.
    pub sentry: PathBuf,
    /// Our dashboard.
    pub dashboard: PathBuf,
}

impl Bundle {
    /// Writes the bundle into a folder.
    ///
    /// # Errors
    /// When daprd does not print its version, a program is missing, or the folder cannot be
    /// written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let version = process::output(Command::new(&self.daprd).arg("--version"))?;
        let version = version.trim().trim_start_matches('v');
        ensure!(!version.is_empty(), "{} has no version", self.daprd.display());
        let dist = folder.join("dist");
        for part in [dist.clone(), folder.join("docker")] {
            fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
        }
        for (name, program) in [
            ("daprd", &self.daprd),
            ("scheduler", &self.scheduler),
            ("placement", &self.placement),
            ("sentry", &self.sentry),
        ] {
            let stage = Scratch::new("bundle")?;
            link(program, &stage.path().join(name))?;
            pack(&dist, name, stage.path(), name)?;
        }
        let stage = Scratch::new("bundle")?;
        fs::create_dir_all(stage.path().join("release/web"))?; // the CLI moves it
        link(&self.dashboard, &stage.path().join("release/dashboard"))?;
        pack(&dist, "dashboard", stage.path(), "release")?;
        let details = json!({
            "daprd": version, "dashboard": env!("CARGO_PKG_VERSION"), "cli": CLI,
            "daprBinarySubDir": "dist", "dockerImageSubDir": "docker",
            "daprImageName": format!("daprio/dapr:{version}"),
            "daprImageFileName": format!("daprio-dapr-{version}.tar.gz"),
        });
        let file = folder.join("details.json");
        fs::write(&file, format!("{details:#}\n"))
            .with_context(|| format!("write {}", file.display()))
    }
}

fn link(program: &Path, at: &Path) -> Result<()> {
    let program = program.canonicalize().with_context(|| format!("find {}", program.display()))?;
    symlink(program, at).with_context(|| format!("link {}", at.display()))
}

/// `<dist>/<name>_linux_<arch>.tar.gz` of `entry` below `stage`.
fn pack(dist: &Path, name: &str, stage: &Path, entry: &str) -> Result<()> {
    let archive = dist.join(format!("{name}_linux_{}.tar.gz", Architecture::here()?.name()));
    tar_gz(&archive, stage, &[entry])
}
