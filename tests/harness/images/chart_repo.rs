//! A Helm repository: a folder with the chart and its index, as any web server can serve it. The
//! official CLI installs from one (`DAPR_HELM_REPO_URL`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{Scratch, Tool, environment, process};

/// The line of values.yaml with the registry of images: `global.controlPlane.registry`.
const NO_REGISTRY: &str = "\n    registry: \"\"\n";

/// Packages the chart into `folder`, with `registry` as the default registry of its images if one
/// is given, and updates the folder's index. Returns the package.
///
/// # Errors
/// When `registry` is invalid, or helm rejects the chart.
pub fn add_chart(folder: &Path, registry: Option<&str>) -> Result<PathBuf> {
    add_own(folder, "dapr", registry)
}

/// Adds the chart `dapr-dashboard` in the same way. The official CLI up to 1.17 installs it after
/// the control plane, and fails where the repository has none. Without a registry it installs
/// nothing.
///
/// # Errors
/// As [`add_chart`].
pub fn add_dashboard(folder: &Path, registry: Option<&str>) -> Result<PathBuf> {
    add_own(folder, "dapr-dashboard", registry)
}

fn add_own(folder: &Path, chart: &str, registry: Option<&str>) -> Result<PathBuf> {
    let scratch = Scratch::new("chart")?;
    let copy = scratch.path().join(chart);
    copy_tree(&environment::workspace().join("charts").join(chart), &copy)?;
    if let Some(registry) = registry {
        let values = copy.join("values.yaml");
        fs::write(&values, with_registry(&fs::read_to_string(&values)?, registry)?)?;
    }
    add(folder, &copy)
}

/// Packages any chart into `folder` and updates its index. Returns the package.
///
/// # Errors
/// When helm rejects the chart.
pub fn add(folder: &Path, chart: &Path) -> Result<PathBuf> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let helm = Tool::HELM.path()?;
    let mut package = Command::new(&helm);
    let said = process::output(package.arg("package").arg(chart).arg("-d").arg(folder))?;
    process::output(Command::new(&helm).args(["repo", "index"]).arg(folder))?;
    let (_, package) = said.trim().rsplit_once(": ").context("helm named no package")?;
    Ok(PathBuf::from(package))
}

/// Pushes a packaged chart to a folder of a registry, such as `oci://registry.example.com/charts`.
/// Credentials are those of `helm registry login`; a registry on this machine is asked without TLS.
///
/// # Errors
/// When `folder` is no address of a registry, or the registry rejects the chart.
pub fn push(package: &Path, folder: &str) -> Result<()> {
    let host = folder.strip_prefix("oci://").with_context(|| {
        format!("{folder:?} is no registry; write for example oci://registry.example.com/charts")
    })?;
    let mut helm = Command::new(Tool::HELM.path()?);
    helm.arg("push").arg(package).arg(folder);
    if ["127.0.0.1:", "localhost:"].iter().any(|own| host.starts_with(own)) {
        helm.arg("--plain-http");
    }
    process::output(&mut helm).map(drop)
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
    fn writes_the_registry_into_the_values() {
        for chart in ["dapr", "dapr-dashboard"] {
            let values = environment::workspace().join("charts").join(chart).join("values.yaml");
            let values = fs::read_to_string(values).unwrap();
            let baked = with_registry(&values, "registry.example.com/trilby").unwrap();
            assert!(baked.contains("\n    registry: \"registry.example.com/trilby\"\n"));
            assert_eq!(baked.lines().count(), values.lines().count());
        }
    }

    #[test]
    fn a_chart_is_pushed_to_registries_only() {
        let refused = push(Path::new("dapr.tgz"), "https://registry.example.com").unwrap_err();
        assert!(refused.to_string().contains("oci://"), "{refused}");
    }

    #[test]
    fn rejects_an_invalid_registry() {
        let refused = with_registry("", "a registry").unwrap_err().to_string();
        assert!(refused.contains("\"a registry\""), "{refused}");
    }
}
