//! The real Zipkin, from its Maven repository, in the cache.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use super::{cached, maven};
use crate::reproducible;

const VERSION: &str = "3.5.1";
const SHA256: &str = "7ac633a6832647e71e50012a5e3e91fbc7054414955261724526030faf271d8d";

/// The server as one file for `java -jar`; fetched on first use.
///
/// # Errors
/// When Maven is missing, the repository cannot be reached, or the file is another one.
pub(crate) fn jar() -> Result<PathBuf> {
    let name = format!("zipkin-server-{VERSION}");
    let file = format!("{name}-exec.jar");
    let folder = cached::folder(&name, |folder| {
        let artifact = format!("-Dartifact=io.zipkin:zipkin-server:{VERSION}:jar:exec");
        let output = format!("-DoutputDirectory={}", folder.display());
        maven::run("copy", &[artifact, output], folder)?;
        let found = reproducible::sha256(&folder.join(&file))?;
        ensure!(found == SHA256, "Zipkin {VERSION} has the SHA-256 {found}");
        Ok(())
    })?;
    Ok(folder.join(file))
}
