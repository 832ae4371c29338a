//! Signatures of images and files, by `cosign`: with a private key, or without one by the
//! identity of the forge's workflow.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{Scratch, Tool, environment, process};

/// The signing identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// A private key of `cosign generate-key-pair` with the password in `COSIGN_PASSWORD`. Nothing
    /// is written to a transparency log, so this works without a network.
    Key(PathBuf),
    /// The identity of the workflow's token; the signature is in the public transparency log.
    Keyless,
}

impl Signer {
    /// A new key pair in `folder` without password, for rehearsals. The public key is
    /// `cosign.pub` beside it.
    ///
    /// # Errors
    /// When cosign fails.
    pub fn rehearsal(folder: &Path) -> Result<Self> {
        let mut cosign = cosign()?;
        cosign.arg("generate-key-pair").current_dir(folder).env("COSIGN_PASSWORD", "");
        process::output(&mut cosign)?;
        Ok(Self::Key(folder.join("cosign.key")))
    }

    /// Signs an image of a registry.
    ///
    /// # Errors
    /// When the image has no digest or cosign fails.
    pub fn sign_image(&self, image: &str) -> Result<()> {
        by_digest(image)?;
        process::output(self.command("sign")?.arg("--recursive").arg(image)).map(drop)
    }

    /// Attaches signed provenance (see `provenance::predicate`) to an image of a registry.
    ///
    /// # Errors
    /// As [`Signer::sign_image`].
    pub fn attest(&self, image: &str, predicate: &Value) -> Result<()> {
        by_digest(image)?;
        let scratch = Scratch::new("provenance")?;
        let file = scratch.write("predicate.json", predicate.to_string())?;
        let mut cosign = self.command("attest")?;
        cosign.args(["--type", "slsaprovenance1", "--predicate"]).arg(file).arg(image);
        process::output(&mut cosign).map(drop)
    }

    /// Signs a file; the signature is beside it, with the extension `.sigstore.json`. Returns its
    /// path.
    ///
    /// # Errors
    /// When cosign fails.
    pub fn sign_file(&self, file: &Path) -> Result<PathBuf> {
        let name = file.file_name().context("a file has a name")?.to_string_lossy();
        let bundle = file.with_file_name(format!("{name}.sigstore.json"));
        process::output(self.command("sign-blob")?.arg("--bundle").arg(&bundle).arg(file))?;
        Ok(bundle)
    }

    fn command(&self, task: &str) -> Result<Command> {
        let mut cosign = cosign()?;
        cosign.args([task, "--yes"]);
        if let Self::Key(key) = self {
            cosign
                .arg("--key")
                .arg(key)
                .args(["--tlog-upload=false", "--use-signing-config=false"]);
            if environment::var("COSIGN_PASSWORD").is_none() {
                cosign.env("COSIGN_PASSWORD", ""); // cosign asks on a terminal otherwise
            }
        }
        Ok(cosign)
    }
}

fn cosign() -> Result<Command> {
    Ok(Command::new(Tool::COSIGN.path()?))
}

/// A tag may move between the check and the signature.
fn by_digest(image: &str) -> Result<()> {
    ensure!(image.contains("@sha256:"), "sign {image} by its digest: NAME@sha256:...");
    Ok(())
}
