//! What krew installs as `kubectl dapr`: an archive of `daprctl` for each platform, and the manifest
//! of the plugin, which names them with their checksums.
//!
//! Source of the layout: krew's developer guide, `krew.googlecontainertools.github.com/v1alpha2`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::archive::tar_gz;
use crate::reproducible::sha256;
use crate::{Architecture, Scratch, environment};

/// The operating systems of archives, as Go names them.
const SYSTEMS: [&str; 3] = ["linux", "darwin", "windows"];

/// A platform of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    system: &'static str,
    architecture: Architecture,
}

impl Platform {
    /// Windows, for which this machine can build.
    pub const WINDOWS: Self = Self { system: "windows", architecture: Architecture::Amd64 };

    /// Linux.
    pub const fn linux(architecture: Architecture) -> Self {
        Self { system: "linux", architecture }
    }

    /// All of them, in the order of the manifest.
    fn all() -> impl Iterator<Item = Self> {
        SYSTEMS.into_iter().flat_map(|system| {
            Architecture::ALL.into_iter().map(move |architecture| Self { system, architecture })
        })
    }

    fn file(self) -> String {
        format!("daprctl_{}_{}.tar.gz", self.system, self.architecture.name())
    }

    fn program(self) -> &'static str {
        if self.system == "windows" { "daprctl.exe" } else { "daprctl" }
    }
}

/// Packs a program into `folder`, with the licence beside it. Returns the archive.
///
/// # Errors
/// When the program is missing or the folder cannot be written.
pub fn pack(folder: &Path, platform: Platform, program: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let stage = Scratch::new("krew")?;
    let entries = [
        (platform.program(), program.to_owned()),
        ("LICENSE", environment::workspace().join("LICENSE")),
    ];
    for (name, file) in &entries {
        let file = file.canonicalize().with_context(|| format!("find {}", file.display()))?;
        symlink(file, stage.path().join(name))?;
    }
    let archive = folder.join(platform.file());
    tar_gz(&archive, stage.path(), &entries.map(|(name, _)| name))?;
    Ok(archive)
}

/// Writes `dapr.yaml` for the archives of `folder`, which will be published below `address`. Returns
/// the manifest.
///
/// # Errors
/// When `address` is invalid, `folder` has no archive, or the manifest cannot be written.
pub fn write_manifest(folder: &Path, address: &str) -> Result<PathBuf> {
    ensure!(
        address.starts_with("https://") && !address.ends_with('/'),
        "--url {address:?} is no folder of a release; write for example \
         https://github.com/OWNER/REPOSITORY/releases/download/v{}",
        env!("CARGO_PKG_VERSION")
    );
    let mut platforms = Vec::new();
    for platform in Platform::all() {
        let archive = folder.join(platform.file());
        if archive.is_file() {
            platforms.push(entry(platform, address, &sha256(&archive)?));
        }
    }
    ensure!(!platforms.is_empty(), "{} has no daprctl_OS_ARCH.tar.gz", folder.display());
    let file = folder.join("dapr.yaml");
    // JSON is YAML, which krew reads.
    fs::write(&file, format!("{:#}\n", manifest(&platforms)))
        .with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}

fn entry(platform: Platform, address: &str, sha256: &str) -> Value {
    let (file, program) = (platform.file(), platform.program());
    json!({
        "selector": {"matchLabels": {"os": platform.system, "arch": platform.architecture.name()}},
        "uri": format!("{address}/{file}"),
        "sha256": sha256,
        "bin": program,
        "files": [{"from": program, "to": "."}, {"from": "LICENSE", "to": "."}],
    })
}

fn manifest(platforms: &[Value]) -> Value {
    json!({
        "apiVersion": "krew.googlecontainertools.github.com/v1alpha2",
        "kind": "Plugin",
        "metadata": {"name": "dapr"},
        "spec": {
            "version": concat!("v", env!("CARGO_PKG_VERSION")),
            "homepage": "https://dapr.io",
            "shortDescription": "Check and inspect a Dapr control plane",
            "description": "Checks a cluster or an installation of Dapr and names a remedy for each \
                problem; lists sidecars and jobs; checks manifests; opens the dashboard; writes \
                support bundles without secrets.",
            "platforms": platforms,
        },
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::process;

    const ADDRESS: &str = "https://releases.example.com/v1";

    #[test]
    fn the_manifest_names_each_archive_with_its_checksum() {
        let folder = Scratch::new("krew").unwrap();
        let program = folder.write("program", "the program").unwrap();
        let archive = pack(folder.path(), Platform::linux(Architecture::Arm64), &program).unwrap();
        let windows = pack(folder.path(), Platform::WINDOWS, &program).unwrap();
        let list = process::output(Command::new("tar").arg("-tzf").arg(windows)).unwrap();
        assert_eq!(list, "daprctl.exe\nLICENSE\n");
        let manifest = write_manifest(folder.path(), ADDRESS).unwrap();
        let manifest: Value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
        let at = |path: &str| manifest.pointer(path).and_then(Value::as_str).unwrap_or_default();
        assert_eq!(at("/metadata/name"), "dapr");
        let linux = format!("{ADDRESS}/daprctl_linux_arm64.tar.gz");
        assert_eq!(at("/spec/platforms/0/uri"), linux);
        assert_eq!(at("/spec/platforms/0/sha256"), sha256(&archive).unwrap());
        assert_eq!(at("/spec/platforms/0/selector/matchLabels/arch"), "arm64");
        assert_eq!(at("/spec/platforms/1/selector/matchLabels/os"), "windows");
        assert_eq!(at("/spec/platforms/1/bin"), "daprctl.exe");
        assert_eq!(manifest.pointer("/spec/platforms/2"), None);
    }

    #[test]
    fn an_archive_has_the_program_and_the_licence_and_always_the_same_bytes() {
        let folder = Scratch::new("krew").unwrap();
        let program = folder.write("program", "the program").unwrap();
        let archive = pack(folder.path(), Platform::linux(Architecture::Amd64), &program).unwrap();
        let first = sha256(&archive).unwrap();
        let list = process::output(Command::new("tar").arg("-tzf").arg(&archive)).unwrap();
        assert_eq!(list, "daprctl\nLICENSE\n");
        let mut read = Command::new("tar");
        let text = process::output(read.arg("-xzOf").arg(&archive).arg("daprctl")).unwrap();
        assert_eq!(text, "the program");
        pack(folder.path(), Platform::linux(Architecture::Amd64), &program).unwrap();
        assert_eq!(sha256(&archive).unwrap(), first);
    }

    #[test]
    fn a_folder_without_archives_and_an_invalid_address_are_refused() {
        let folder = Scratch::new("krew").unwrap();
        let empty = write_manifest(folder.path(), ADDRESS).unwrap_err().to_string();
        assert!(empty.contains("daprctl_OS_ARCH.tar.gz"), "{empty}");
        for address in ["http://releases.example.com", "https://releases.example.com/", ""] {
            let refused = write_manifest(folder.path(), address).unwrap_err().to_string();
            assert!(refused.contains("--url"), "{refused}");
        }
    }
}
