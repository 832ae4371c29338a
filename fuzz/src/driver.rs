//! Runs a target on its seeds and on mutations of them.
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use testkit::Choice;

use crate::mutation::mutate;
use crate::targets::Target;

/// The end of a run.
#[derive(Clone, Copy, Debug)]
pub enum Budget {
    /// After this number of mutated inputs.
    Inputs(u64),
    /// At this time.
    Until(Instant),
}

/// The result of a run.
#[derive(Debug, Default)]
pub struct Found {
    /// Number of inputs, seeds included.
    pub inputs: u64,
    /// Files with inputs that made the target panic, at most one for each seed of the corpus.
    pub panics: Vec<PathBuf>,
}

/// The folder of a target's seeds.
fn folder(target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target.name)
}

/// The seeds of a target, in the order of their file names.
///
/// # Errors
/// There are none, or one cannot be read.
pub fn seeds(target: &Target) -> Result<Vec<Vec<u8>>> {
    seeds_in(&folder(target))
}

fn seeds_in(folder: &Path) -> Result<Vec<Vec<u8>>> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    ensure!(!paths.is_empty(), "{} has no seeds", folder.display());
    paths.iter().map(|path| Ok(fs::read(path)?)).collect()
}

/// Runs a target on its seeds and on mutations of them. Inputs that make it panic are written
/// beside the seeds.
///
/// # Errors
/// The seeds cannot be read, or a found input cannot be written.
pub fn run(target: &Target, seed: u64, budget: Budget) -> Result<Found> {
    run_in(&folder(target), target, seed, budget)
}

fn run_in(folder: &Path, target: &Target, seed: u64, budget: Budget) -> Result<Found> {
    let seeds = seeds_in(folder)?;
    let (mut found, mut choice) = (Found::default(), Choice::new(seed));
    for input in &seeds {
        try_input(folder, target, input, &mut found)?;
    }
    let mut tried = 0;
    while has_budget(budget, tried) && found.panics.len() < seeds.len() {
        let Some(from) = choice.pick(&seeds) else { break };
        let input = mutate(&from, &seeds, &mut choice);
        try_input(folder, target, &input, &mut found)?;
        tried += 1;
    }
    Ok(found)
}

fn has_budget(budget: Budget, tried: u64) -> bool {
    match budget {
        Budget::Inputs(limit) => tried < limit,
        Budget::Until(end) => runtime::clock::monotonic() < end,
    }
}

fn try_input(folder: &Path, target: &Target, input: &[u8], found: &mut Found) -> Result<()> {
    found.inputs += 1;
    if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_ok() {
        return Ok(());
    }
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let path = folder.join(format!("found-{:016x}", hasher.finish()));
    fs::write(&path, input).with_context(|| format!("write {}", path.display()))?;
    if !found.panics.contains(&path) {
        found.panics.push(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_panics_is_found_and_its_input_is_kept() {
        let name = format!("trilby-fuzz-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("seed"), b"short").unwrap();
        let picky =
            Target { name: "picky", run: |data| assert!(data.len() < 100, "longer than expected") };
        let found = run_in(&folder, &picky, 1, Budget::Inputs(20_000)).unwrap();
        assert_eq!(found.panics.len(), 1, "a run with one seed ends at its first panic");
        assert!(fs::read(&found.panics[0]).unwrap().len() >= 100);
        let again = run_in(&folder, &picky, 1, Budget::Inputs(0)).unwrap();
        assert_eq!(again.panics, found.panics, "a found input is a seed of the next run");
        fs::remove_dir_all(&folder).unwrap();
    }
}
