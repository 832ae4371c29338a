//! `cargo xtask chart`: the chart as a package for others to install.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Scratch, Tool, environment, process};
use clap::Args;

use crate::output::print;

/// Packages the chart with a registry baked in as the default, and keeps the index of a chart
/// repository beside it: a folder that any web server can serve.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Where the control plane images were pushed to with `cargo xtask image --push`
    #[arg(long, value_name = "REGISTRY")]
    registry: String,
    /// Folder of the package and the index
    #[arg(long, value_name = "DIR", default_value = "target/charts")]
    repo: PathBuf,
}

/// The line of values.yaml that says where images come from: `global.controlPlane.registry`.
const NO_REGISTRY: &str = "\n    registry: \"\"\n";

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let root = environment::workspace();
    let scratch = Scratch::new("chart")?;
    let copy = scratch.path().join("dapr");
    copy_tree(&root.join("charts/dapr"), &copy)?;
    let values = copy.join("values.yaml");
    let text = with_registry(&std::fs::read_to_string(&values)?, &flags.registry)?;
    std::fs::write(&values, text)?;

    let repo = root.join(&flags.repo); // an absolute folder stays what it is
    std::fs::create_dir_all(&repo).with_context(|| format!("make {}", repo.display()))?;
    let helm = Tool::HELM.path()?;
    process::output(Command::new(&helm).arg("package").arg(&copy).arg("--destination").arg(&repo))?;
    process::output(Command::new(&helm).args(["repo", "index"]).arg(&repo))?;
    print(&format!("dapr-{}.tgz\t{}", env!("CARGO_PKG_VERSION"), repo.display()))
}

fn with_registry(values: &str, registry: &str) -> Result<String> {
    ensure!(
        !registry.is_empty()
            && registry.chars().all(|c| c.is_ascii_alphanumeric() || "-._:/".contains(c)),
        "--registry {registry:?} is no registry; write for example registry.example.com/trilby"
    );
    ensure!(values.matches(NO_REGISTRY).count() == 1, "values.yaml has no single empty registry");
    Ok(values.replace(NO_REGISTRY, &format!("\n    registry: {registry:?}\n")))
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bakes_the_registry_into_the_values_of_the_tree() {
        let values = environment::workspace().join("charts/dapr/values.yaml");
        let values = std::fs::read_to_string(values).unwrap();
        let baked = with_registry(&values, "registry.example.com/trilby").unwrap();
        assert!(baked.contains("\n    registry: \"registry.example.com/trilby\"\n"));
        assert_eq!(baked.lines().count(), values.lines().count());
    }

    #[test]
    fn refuses_what_is_no_registry() {
        let refused = with_registry("", "a registry").unwrap_err().to_string();
        assert!(refused.contains("\"a registry\""), "{refused}");
    }
}
