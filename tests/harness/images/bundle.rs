//! What `dapr init --from-dir` installs on a machine without a cluster: Dapr's own daprd, our
//! placement, scheduler and sentry, in the layout of Dapr's installer bundle.
//!
//! ```text
//!   details.json                             versions, and the names of the two folders
//!   dist/<program>_linux_<amd64|arm64>.tar.gz
//!   docker/                                  for images, of which a slim installation needs none
//! ```
//! Source of the layout: Dapr CLI 1.16.5, `dapr init --slim --from-dir`. That version insists on a
//! scheduler (since Dapr 1.14) and on a dashboard, which is archived: ours says so and ends.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::{Architecture, Scratch, process};

/// The oldest CLI that such a bundle was tried with.
const CLI: &str = "1.16.5";
/// What the CLI up to 1.17 installs as dashboard.
const DASHBOARD: &str = "#!/bin/sh
echo 'No dashboard: the one of Dapr is archived. Use dapr list and the metadata API of a sidecar.' >&2
exit 1
";

/// The programs of a bundle.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// The official sidecar.
    pub daprd: PathBuf,
    /// Our scheduler.
    pub scheduler: PathBuf,
    /// Our placement.
    pub placement: PathBuf,
    /// Our sentry, which no CLI installs: for those who want mTLS without a cluster.
    pub sentry: PathBuf,
}

impl Bundle {
    /// Writes the bundle into a folder.
    ///
    /// # Errors
    /// When daprd does not say its version, a program is missing, or the folder cannot be written.
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
            let program = program.canonicalize().with_context(|| format!("find {name}"))?;
            symlink(program, stage.path().join(name))?;
            pack(&dist, name, stage.path(), name)?;
        }
        let stage = Scratch::new("bundle")?;
        let dashboard = stage.write("release/dashboard", DASHBOARD)?;
        fs::set_permissions(dashboard, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(stage.path().join("release/web"))?; // the CLI moves it
        pack(&dist, "dashboard", stage.path(), "release")?;
        let details = json!({
            "daprd": version, "dashboard": "0.0.0", "cli": CLI,
            "daprBinarySubDir": "dist", "dockerImageSubDir": "docker",
            "daprImageName": format!("daprio/dapr:{version}"),
            "daprImageFileName": format!("daprio-dapr-{version}.tar.gz"),
        });
        let file = folder.join("details.json");
        fs::write(&file, format!("{details:#}\n"))
            .with_context(|| format!("write {}", file.display()))
    }
}

/// `<dist>/<name>_linux_<arch>.tar.gz` of `entry` below `stage`, byte for byte the same for the
/// same content.
fn pack(dist: &Path, name: &str, stage: &Path, entry: &str) -> Result<()> {
    let archive = dist.join(format!("{name}_linux_{}.tar.gz", Architecture::here()?.name()));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--dereference", "--sort=name", "--mtime=@0", "--owner=0", "--group=0"]);
    tar.args(["--numeric-owner", "--use-compress-program=gzip -n", "--file"]).arg(archive);
    process::output(tar.arg("--directory").arg(stage).arg(entry)).map(drop)
}
