//! `cargo xtask sign`: signatures and provenance for what was pushed.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use blackbox::progress::{say, step};
use blackbox::signing::Signer;
use blackbox::{Service, environment, provenance, registry};
use clap::Args;

use crate::output::print;

/// Signs the images of `cargo xtask image --push` by their digests and attaches SLSA provenance;
/// signs packaged charts. docs/release.md has the commands that verify all of it.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The digests that `cargo xtask image --push` wrote
    #[arg(long, value_name = "FILE", default_value = "target/images/digests.json")]
    digests: PathBuf,
    /// A packaged chart; its signature is written beside it
    #[arg(long, value_name = "FILE")]
    chart: Vec<PathBuf>,
    /// Private key of `cosign generate-key-pair`, password in `COSIGN_PASSWORD`. Without it the
    /// workflow's identity signs, which needs the network
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The builder, as a URI for the provenance
    #[arg(long, value_name = "URI", default_value = "urn:trilby:workstation")]
    builder: String,
    /// Cargo's profile of the pushed images
    #[arg(long, default_value = "release")]
    profile: String,
    /// Sign although files differ from the commit
    #[arg(long)]
    allow_modified: bool,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let root = environment::workspace(); // an absolute path is unchanged
    let signer = match &flags.key {
        Some(key) => Signer::Key(root.join(key)),
        None => Signer::Keyless,
    };
    let sources = provenance::Sources::here()?;
    ensure!(
        flags.allow_modified || !sources.modified(),
        "files differ from the commit, so this build cannot be repeated: commit them, or pass \
         --allow-modified for a rehearsal"
    );
    for (service, image) in pushed(&root.join(&flags.digests))? {
        step(&format!("sign {image}"), || {
            signer.sign_image(&image)?;
            let predicate =
                provenance::predicate(service, &flags.profile, &flags.builder, &sources);
            signer.attest(&image, &predicate)
        })?;
        print(&image)?;
    }
    for chart in &flags.chart {
        let bundle = signer.sign_file(&root.join(chart))?;
        print(&format!("{}", bundle.display()))?;
    }
    if flags.chart.is_empty() {
        say("no --chart: only images are signed");
    }
    Ok(())
}

/// The images of the file of digests, with their services.
fn pushed(file: &std::path::Path) -> Result<Vec<(Service, String)>> {
    let read = || format!("read {}: run `cargo xtask image --push REGISTRY` first", file.display());
    let text = fs::read_to_string(file).with_context(read)?;
    let values = serde_json::from_str(&text).with_context(read)?;
    registry::pinned(&values).with_context(|| format!("in {}", file.display()))
}
