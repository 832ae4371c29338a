//! The three files that hold the CA of a standalone sentry.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use futures::Stream;
use identity::BundlePem;
use identity::stored::Stored;
use resources::names::{KEY_TLS_CHAIN, KEY_TLS_KEY};
use transport::file_watch::FileWatch;

use crate::config::BundleNames;

/// Nobody but the owner reads a key.
const PRIVATE: u32 = 0o600;

/// Access to the files.
#[derive(Debug)]
pub struct BundleFiles {
    names: BundleNames,
}

impl BundleFiles {
    /// The files; nothing is read yet.
    pub fn new(names: BundleNames) -> Self {
        Self { names }
    }

    /// Reads what exists.
    ///
    /// # Errors
    /// A file exists and cannot be read, or its directory does not exist.
    pub fn read(&self) -> anyhow::Result<Stored> {
        let native = Stored::new(
            read(&self.names.anchors)?,
            read(&self.names.issuer_chain)?,
            read(&self.names.issuer_key)?,
        );
        let tls = |name: &str| read(&directory(&self.names.issuer_chain).join(name));
        Ok(native.or_cert_manager(tls(KEY_TLS_CHAIN)?, tls(KEY_TLS_KEY)?))
    }

    /// Writes a CA that was just made. All three parts are on the disk before the first gets its
    /// name: a full disk leaves nothing. The key is named first: a crash in between leaves files
    /// that are refused, not a CA that others trust and nobody can sign for.
    ///
    /// # Errors
    /// A file cannot be written; the text names it.
    pub fn save(&self, pem: &BundlePem) -> anyhow::Result<()> {
        let parts = [
            (&self.names.issuer_key, pem.issuer_key.as_str()),
            (&self.names.issuer_chain, &pem.issuer_chain),
            (&self.names.anchors, &pem.anchors),
        ];
        let written = parts.iter().try_for_each(|(path, text)| {
            fill(&beside(path), text).with_context(|| format!("write {}", path.display()))
        });
        if written.is_err() {
            // What is left of a failure is in the way of the next attempt.
            for (path, _) in parts {
                let _ = fs::remove_file(beside(path));
            }
        }
        written?;
        for (path, _) in parts {
            let named = fs::rename(beside(path), path);
            named.with_context(|| format!("name {}", path.display()))?;
        }
        Ok(())
    }

    /// Wakes whenever something changes in one of the directories. Keep the stream: dropping it
    /// ends the watch.
    ///
    /// # Errors
    /// A directory does not exist or cannot be watched.
    pub fn changes(&self) -> anyhow::Result<impl Stream<Item = ()> + Send + use<>> {
        let paths = [&self.names.anchors, &self.names.issuer_chain, &self.names.issuer_key];
        let watch = FileWatch::new(paths.map(PathBuf::as_path))?;
        Ok(futures::stream::unfold(watch, |mut watch| async move {
            watch.changed(Duration::MAX).await;
            Some(((), watch))
        }))
    }
}

/// The content of a file, none if it does not exist.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("read {}", path.display())),
    }
}

fn directory(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Writes beside the file and renames, so that no reader sees half of it.
pub(crate) fn write(path: &Path, text: &str) -> io::Result<()> {
    fill(&beside(path), text)?;
    fs::rename(beside(path), path)
}

/// Where a file is written before it gets its name, so that no reader sees half of it.
fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    directory(path).join(format!(".{name}.new"))
}

fn fill(path: &Path, text: &str) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(PRIVATE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use identity::stored::{Plan, Published, plan};
    use std::os::unix::fs::PermissionsExt as _;
    use testkit::ca::Ca;

    #[test]
    fn what_is_saved_is_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let names = BundleNames {
            anchors: dir.path().join("ca.crt"),
            issuer_chain: dir.path().join("issuer.crt"),
            issuer_key: dir.path().join("issuer.key"),
        };
        let files = BundleFiles::new(names.clone());
        assert_eq!(files.read().unwrap(), Stored::default());
        files.save(Ca::new().pem()).unwrap();
        let stored = files.read().unwrap();
        let planned = plan(&stored, &Published::Nowhere, runtime::clock::now()).unwrap();
        assert!(matches!(planned, Plan::Use { publish: false, .. }), "{planned:?}");
        for path in [&names.anchors, &names.issuer_chain, &names.issuer_key] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left behind");
    }
}
