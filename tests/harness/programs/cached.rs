//! Folders of the cache that are filled from a registry on first use.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::tools;
use crate::environment;
use crate::progress::step;

/// The folder `name` of the cache. On first use `fill` fills it in another place, so that it is
/// there only when it is complete.
///
/// # Errors
/// Those of `fill`, or when the cache cannot be written to.
pub(crate) fn folder(name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let cache = environment::cache()?;
    let folder = cache.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    let _lock = tools::lock(&cache.join("locks"), name)?;
    if !folder.is_dir() {
        let unfinished = cache.join("build").join(name);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?; // of a process that was interrupted
        }
        fs::create_dir_all(&unfinished)
            .with_context(|| format!("create {}", unfinished.display()))?;
        step(&format!("fetch {name} (first time only)"), || fill(&unfinished))?;
        fs::rename(&unfinished, &folder)
            .with_context(|| format!("move {name} to {}", folder.display()))?;
    }
    Ok(folder)
}
