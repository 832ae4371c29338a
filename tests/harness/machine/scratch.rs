//! Folders that do not outlive the process that created them, however it ends.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::environment;

/// Waits for the end of its input, which comes when our process ends for any reason, then
/// removes the folder. `Drop` does not run for statics, nor after a kill.
const JANITOR: &str = r#"trap '' INT TERM HUP; cat >/dev/null
for _ in 1 2 3 4 5; do rm -rf -- "$1" 2>/dev/null && exit; sleep 0.2; done"#;

/// A temporary folder, removed on drop or, at the latest, when this process ends.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    janitor: Child,
}

impl Scratch {
    /// A new folder whose name starts with `trilby-<name>-`.
    ///
    /// # Errors
    /// When the temporary folder of the machine cannot be written to.
    pub fn new(name: &str) -> Result<Self> {
        let unique = environment::secret()?.chars().take(12).collect::<String>();
        let path = env::temp_dir().join(format!("trilby-{name}-{unique}"));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // a Ctrl-C in the terminal must not reach it
            .spawn()
            .context("start the shell that removes the temporary folder")?;
        Ok(Self { path, janitor })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file below the folder and returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let file = self.path.join(name);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut out =
            fs::File::create(&file).with_context(|| format!("create {}", file.display()))?;
        out.write_all(content.as_ref())?;
        Ok(file)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        let _ = self.janitor.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_gone_after_drop_with_all_that_is_in_it() {
        let scratch = Scratch::new("self-test").unwrap();
        let path = scratch.path().to_path_buf();
        scratch.write("a/b", "text").unwrap();
        assert!(path.join("a/b").is_file());
        drop(scratch);
        assert!(!path.exists());
    }
}
