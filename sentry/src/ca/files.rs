//! The three files that hold the CA of a standalone sentry.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::Stream;
use identity::BundlePem;
use identity::stored::{PartNames, Stored};
use resources::names::{KEY_TLS_CHAIN, KEY_TLS_KEY};
use transport::file_watch::FileWatch;

use super::record::BundleNames;
use super::store_error::StoreError;

/// Read and write for the owner only: one of the files is a private key.
const PRIVATE: u32 = 0o600;

/// Access to the files.
#[derive(Debug)]
pub(crate) struct BundleFiles {
    names: BundleNames,
}

impl BundleFiles {
    /// Access to the named files; reads nothing.
    pub(crate) fn new(names: BundleNames) -> Self {
        Self { names }
    }

    /// Reads the files that exist.
    ///
    /// # Errors
    /// [`StoreError::File`] if a file exists and cannot be read.
    pub(crate) fn read(&self) -> Result<Stored, StoreError> {
        let native = Stored::new(
            read(&self.names.anchors)?,
            read(&self.names.issuer_chain)?,
            read(&self.names.issuer_key)?,
        );
        let tls = |name: &str| directory(&self.names.issuer_chain).join(name);
        let (tls_chain, tls_key) = (tls(KEY_TLS_CHAIN), tls(KEY_TLS_KEY));
        let stored = native.or_cert_manager(read(&tls_chain)?, read(&tls_key)?);
        let text = |path: &Path| path.display().to_string();
        let native = PartNames {
            object: None,
            anchors: text(&self.names.anchors),
            issuer_chain: text(&self.names.issuer_chain),
            issuer_key: text(&self.names.issuer_key),
        };
        Ok(stored.named(native, [text(&tls_chain), text(&tls_key)]))
    }

    /// Writes a new CA. All three parts are on disk before the first one is renamed into place: a
    /// full disk leaves no file. The key is renamed first: a crash between the renames leaves files
    /// that sentry rejects, and never trust anchors without a signing key.
    ///
    /// # Errors
    /// [`StoreError::File`] if a file cannot be written.
    pub(crate) fn write(&self, pem: &BundlePem) -> Result<(), StoreError> {
        let parts = [
            (&self.names.issuer_key, pem.issuer_key.as_str()),
            (&self.names.issuer_chain, &pem.issuer_chain),
            (&self.names.anchors, &pem.anchors),
        ];
        let written = parts.iter().try_for_each(|(path, text)| {
            create(&temporary(path), text).map_err(|e| failed("write", path, e))
        });
        if written.is_err() {
            // Partial files would occupy the space that the next attempt needs.
            for (path, _) in parts {
                let _ = fs::remove_file(temporary(path));
            }
        }
        written?;
        for (path, _) in parts {
            fs::rename(temporary(path), path).map_err(|e| failed("rename", path, e))?;
        }
        Ok(())
    }

    /// Yields when something changes in one of the directories. Dropping the stream ends the watch.
    ///
    /// # Errors
    /// [`StoreError::Watch`] if a directory does not exist or cannot be watched.
    pub(crate) fn changes(&self) -> Result<impl Stream<Item = ()> + Send + use<>, StoreError> {
        let paths = [&self.names.anchors, &self.names.issuer_chain, &self.names.issuer_key];
        let watch = FileWatch::new(paths.map(PathBuf::as_path));
        let watch = watch.map_err(|e| StoreError::Watch(runtime::chain(&e)))?;
        Ok(futures::stream::unfold(watch, |mut watch| async move {
            watch.changed(Duration::MAX).await;
            Some(((), watch))
        }))
    }
}

/// The content of a file, `None` if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path, e)),
    }
}

fn directory(path: &Path) -> PathBuf {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
}

/// Writes a file atomically.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), StoreError> {
    let written = create(&temporary(path), text).and_then(|()| fs::rename(temporary(path), path));
    written.map_err(|e| failed("write", path, e))
}

fn failed(verb: &'static str, path: &Path, source: io::Error) -> StoreError {
    StoreError::File { verb, path: path.to_owned(), source }
}

/// The temporary name under which a file is written before it is renamed into place.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    directory(path).join(format!(".{name}.new"))
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(PRIVATE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use identity::stored::{Plan, Published, plan};
    use testkit::ca::Ca;

    use super::*;

    #[test]
    fn a_written_ca_is_read_back_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let names = BundleNames {
            anchors: dir.path().join("ca.crt"),
            issuer_chain: dir.path().join("issuer.crt"),
            issuer_key: dir.path().join("issuer.key"),
        };
        let files = BundleFiles::new(names.clone());
        assert_eq!(files.read().unwrap().fingerprint(), None);
        files.write(Ca::new().pem()).unwrap();
        let stored = files.read().unwrap();
        let planned = plan(&stored, &Published::Nowhere, runtime::clock::now()).unwrap();
        assert!(matches!(planned, Plan::Use { publish: false, .. }), "{planned:?}");
        for path in [&names.anchors, &names.issuer_chain, &names.issuer_key] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no temporary file is left");
    }
}
