//! Finds the etcd program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::environment;
use tokio::process::Command;

/// The name of the program.
const PROGRAM: &str = "etcd";
/// The version of etcd in Dapr's own scheduler, which can read the data of this one.
const VERSION: &str = "3.5.";
/// Time limit for etcd to print its version.
const ANSWER: Duration = Duration::from_secs(20);

/// Why no etcd can be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProgramError {
    #[error("there is no program etcd beside the scheduler or in PATH")]
    Missing,
    #[error("{} does not say its version: {why}", path.display())]
    Silent { path: PathBuf, why: String },
    #[error("{} has version {found}, but {VERSION}x is needed", path.display())]
    Version { path: PathBuf, found: String },
}

/// The etcd beside this program, else in `PATH`.
///
/// # Errors
/// [`ProgramError`]: there is none, or it has another version.
pub(crate) async fn find() -> Result<PathBuf, ProgramError> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = environment::var("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&path));
    let mut files = folders.map(|folder| folder.join(PROGRAM));
    let file = files.find(|file| file.is_file()).ok_or(ProgramError::Missing)?;
    let silent = |why: String| ProgramError::Silent { path: file.clone(), why };
    let answer = Command::new(&file).arg("--version").env_clear().kill_on_drop(true).output();
    let answer = tokio::time::timeout(ANSWER, answer).await;
    let answer = answer.map_err(|_| silent("no answer".to_owned()))?;
    let answer = answer.map_err(|error| silent(error.to_string()))?;
    let text = String::from_utf8_lossy(&answer.stdout);
    let found = version(&text).ok_or_else(|| silent("an unknown answer".to_owned()))?;
    if !found.starts_with(VERSION) {
        return Err(ProgramError::Version { path: file, found: found.to_owned() });
    }
    Ok(file)
}

fn version(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("etcd Version:"))?;
    Some(line.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_first_line() {
        let text = "etcd Version: 3.5.27\nGit SHA: Not provided\nGo Version: go1.26\n";
        assert_eq!(version(text), Some("3.5.27"));
        assert_eq!(version("usage: etcd"), None);
    }
}
