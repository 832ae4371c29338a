//! Sizes of the sources, see CONTRIBUTING.md: lines of a file, and files of a folder.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::docs::each_source;

/// Lines of a source file.
const MOST_LINES: usize = 500;
/// Source files of a folder.
const MOST_FILES: usize = 15;

/// Fails with every file and folder that is too large.
///
/// # Errors
/// When there is one, or a source file cannot be read.
pub(crate) fn check(root: &Path, folders: impl Iterator<Item = &'static str>) -> Result<()> {
    let mut lines = BTreeMap::new();
    each_source(root, folders, &mut |name, text| {
        lines.insert(PathBuf::from(name), text.lines().count());
        Ok(())
    })?;
    let offences = offences(&lines);
    ensure!(offences.is_empty(), "sizes:\n  {}", offences.join("\n  "));
    Ok(())
}

/// One line for each file and folder that is too large; `lines` are those of each file.
fn offences(lines: &BTreeMap<PathBuf, usize>) -> Vec<String> {
    let mut files: BTreeMap<&Path, usize> = BTreeMap::new();
    for folder in lines.keys().filter_map(|file| file.parent()) {
        *files.entry(folder).or_default() += 1;
    }
    let long = lines.iter().filter(|(_, lines)| **lines > MOST_LINES);
    let long = long.map(|(file, lines)| {
        format!("{} has {lines} lines; split it at {MOST_LINES}", file.display())
    });
    let full = files.into_iter().filter(|(_, files)| *files > MOST_FILES);
    let full = full.map(|(folder, files)| {
        format!("{} has {files} files; make folders of at most {MOST_FILES}", folder.display())
    });
    long.chain(full).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_and_a_folder_are_as_large_as_they_may_be() {
        let folder = |files: usize, lines: usize| {
            (0..files).map(|file| (format!("sentry/src/f{file}.rs").into(), lines)).collect()
        };
        assert!(offences(&folder(MOST_FILES, MOST_LINES)).is_empty());
        let long = offences(&folder(1, MOST_LINES + 1));
        assert_eq!(long, ["sentry/src/f0.rs has 501 lines; split it at 500"]);
        let full = offences(&folder(MOST_FILES + 1, 1));
        assert_eq!(full, ["sentry/src has 16 files; make folders of at most 15"]);
    }
}
