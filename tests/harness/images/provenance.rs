//! How an image was built, as the predicate of an in-toto statement (SLSA provenance, version 1:
//! <https://slsa.dev/spec/v1.0/provenance>). The signature and the digest of the image are added by
//! the program that signs it.

use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::reproducible;
use crate::{Service, environment, process};

/// The build type of `cargo xtask image`.
const BUILD_TYPE: &str = "urn:trilby:cargo-xtask-image:v1";

/// The sources of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The commit, 40 hexadecimal digits.
    commit: String,
    /// Whether files differ from that commit.
    modified: bool,
    /// SHA-256 of `Cargo.lock`, which pins every package by its checksum.
    lock: String,
    /// `rustc --version --verbose`.
    compiler: String,
}

impl Sources {
    /// The sources of this work tree.
    ///
    /// # Errors
    /// When it is not a git work tree.
    pub fn here() -> Result<Self> {
        let root = environment::workspace();
        let git =
            |args: &[&str]| process::output(Command::new("git").current_dir(&root).args(args));
        let compiler = process::output(Command::new("rustc").args(["--version", "--verbose"]))?;
        Ok(Self {
            commit: git(&["rev-parse", "HEAD"]).context("read the commit")?.trim().to_owned(),
            modified: !git(&["status", "--porcelain"])?.trim().is_empty(),
            lock: reproducible::sha256(&root.join("Cargo.lock"))?,
            compiler: compiler.trim().to_owned(),
        })
    }

    /// Whether files differ from the commit, so that the build cannot be repeated elsewhere.
    pub fn modified(&self) -> bool {
        self.modified
    }
}

/// The predicate for the image of a service. `builder` is the URI of the builder.
pub fn predicate(service: Service, profile: &str, builder: &str, sources: &Sources) -> Value {
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "command": format!(
                    "cargo xtask image --service {} --profile {profile}",
                    service.binary()
                ),
            },
            "internalParameters": {"compiler": sources.compiler, "modified": sources.modified},
            "resolvedDependencies": [
                {"name": "sources", "digest": {"gitCommit": sources.commit}},
                {"name": "Cargo.lock", "digest": {"sha256": sources.lock}},
            ],
        },
        "runDetails": {"builder": {"id": builder}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predicate_names_the_commit_the_lock_file_and_the_compiler() {
        let sources = Sources {
            commit: "c0ffee".to_owned(),
            modified: true,
            lock: "10c4".to_owned(),
            compiler: "rustc 1.95.0".to_owned(),
        };
        let predicate = predicate(Service::Sentry, "release", "urn:example", &sources);
        for (place, want) in [
            ("/buildDefinition/resolvedDependencies/0/digest/gitCommit", json!("c0ffee")),
            ("/buildDefinition/resolvedDependencies/1/digest/sha256", json!("10c4")),
            ("/buildDefinition/internalParameters/compiler", json!("rustc 1.95.0")),
            ("/buildDefinition/internalParameters/modified", json!(true)),
            ("/runDetails/builder/id", json!("urn:example")),
            (
                "/buildDefinition/externalParameters/command",
                json!("cargo xtask image --service sentry --profile release"),
            ),
        ] {
            assert_eq!(predicate.pointer(place), Some(&want), "{place}");
        }
    }
}
