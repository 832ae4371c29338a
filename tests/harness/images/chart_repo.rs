//! A Helm repository: a folder with the chart and its index, as any web server can serve it. The
//! official CLI installs from one (`DAPR_HELM_REPO_URL`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Scratch, Tool, environment, process};

/// The line of values.yaml that says where images come from: `global.controlPlane.registry`.
const NO_REGISTRY: &str = "\n    registry: \"\"\n";

/// Packages the chart into `folder`, with `registry` as the default place of its images if one is
/// given, and brings the folder's index up to date. Returns the package.
///
/// # Errors
/// When `registry` is none, or helm refuses the chart.
pub fn add_chart(folder: &Path, registry: Option<&str>) -> Result<PathBuf> {
    add_own(folder, "dapr", registry)?;
    Ok(folder.join(format!("dapr-{}.tgz", env!("CARGO_PKG_VERSION"))))
}

/// Adds the chart `dapr-dashboard` in the same way. The official CLI up to 1.17 installs it after the
/// control plane, and fails where the repository has none. Without a registry it installs nothing.
///
/// # Errors
/// As [`add_chart`].
pub fn add_dashboard(folder: &Path, registry: Option<&str>) -> Result<()> {
    add_own(folder, "dapr-dashboard", registry)
}

fn add_own(folder: &Path, chart: &str, registry: Option<&str>) -> Result<()> {
    let scratch = Scratch::new("chart")?;
    let copy = scratch.path().join(chart);
    copy_tree(&environment::workspace().join("charts").join(chart), &copy)?;
    if let Some(registry) = registry {
        let values = copy.join("values.yaml");
        fs::write(&values, with_registry(&fs::read_to_string(&values)?, registry)?)?;
    }
    add(folder, &copy)
}

/// Packages any chart into `folder` and brings its index up to date.
///
/// # Errors
/// When helm refuses the chart.
pub fn add(folder: &Path, chart: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let helm = Tool::HELM.path()?;
    process::output(Command::new(&helm).arg("package").arg(chart).arg("-d").arg(folder))?;
    process::output(Command::new(&helm).args(["repo", "index"]).arg(folder)).map(drop)
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
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bakes_the_registry_into_the_values_of_the_tree() {
        for chart in ["dapr", "dapr-dashboard"] {
            let values = environment::workspace().join("charts").join(chart).join("values.yaml");
            let values = fs::read_to_string(values).unwrap();
            let baked = with_registry(&values, "registry.example.com/trilby").unwrap();
            assert!(baked.contains("\n    registry: \"registry.example.com/trilby\"\n"));
            assert_eq!(baked.lines().count(), values.lines().count());
        }
    }

    #[test]
    fn refuses_what_is_no_registry() {
        let refused = with_registry("", "a registry").unwrap_err().to_string();
        assert!(refused.contains("\"a registry\""), "{refused}");
    }
}
