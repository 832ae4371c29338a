//! Dependency rules: between packages ([`packages`]), between the modules of a package ([`rooms`]), and which crates a source file may name ([`confined`]). Source files are parsed,
//! not searched, so a nested `use` or a path inside a macro counts as well.

mod confined;
mod packages;
mod paths;
mod rooms;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use blackbox::environment;
use clap::Args;

use paths::SourceFile;

/// Folders whose packages are part of the product.
pub(crate) const PRODUCT: [&str; 8] = [
    "crates",
    "operator",
    "sidecar-injector",
    "sentry",
    "placement",
    "scheduler",
    "daprctl",
    "dashboard",
];

/// Packages beside the product whose modules form no circle either.
const TOOLS: [&str; 2] = ["bench", "xtask"];

/// The layering check alone: between packages, between modules, and which crates a file names.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// The repository to check, instead of this one
    #[arg(long)]
    root: Option<PathBuf>,
}

pub(crate) fn run(flags: &Flags) -> Result<()> {
    let root = flags.root.clone().unwrap_or_else(environment::workspace);
    check(&root)
}

/// Fails with all violations, one line each: file, line, item and reason.
///
/// # Errors
/// When a rule is broken, or a source file cannot be read or parsed.
pub(crate) fn check(root: &Path) -> Result<()> {
    let offences = offences(root)?;
    ensure!(offences.is_empty(), "layering:\n  {}", offences.join("\n  "));
    Ok(())
}

fn offences(root: &Path) -> Result<Vec<String>> {
    let mut offences = packages::offences(root)?;
    for package in product_packages(root)? {
        let files = source_files(root, &package.join("src"))?;
        offences.extend(files.iter().flat_map(confined::offences));
        offences.extend(rooms::offences(&files));
    }
    for package in TOOLS {
        offences.extend(rooms::offences(&source_files(root, &root.join(package).join("src"))?));
    }
    Ok(offences)
}

/// The folder of each package of the product.
fn product_packages(root: &Path) -> Result<Vec<PathBuf>> {
    let mut packages = Vec::new();
    for folder in PRODUCT.map(|name| root.join(name)) {
        if folder.join("Cargo.toml").is_file() {
            packages.push(folder);
        } else {
            packages.extend(entries(&folder)?.into_iter().filter(|one| one.is_dir()));
        }
    }
    Ok(packages)
}

/// Every source file below `folder`, parsed.
fn source_files(root: &Path, folder: &Path) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            files.extend(source_files(root, &path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !is_test(&path) {
            let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path)?;
            files.push(SourceFile::parse(&name, &text).with_context(|| format!("parse {name}"))?);
        }
    }
    Ok(files)
}

/// Whether a file holds the unit tests of the file beside it.
fn is_test(path: &Path) -> bool {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem == "tests" || stem.ends_with("_tests")
}

/// The entries of a folder, sorted by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = std::fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut entries =
        read.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>, std::io::Error>>()?;
    entries.sort();
    Ok(entries)
}
