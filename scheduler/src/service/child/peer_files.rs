//! The certificate of this process as files, for connections between the etcds of the members.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use transport::Svid;
use transport::file_client::FileClient;

use super::LOG;
use super::arguments::TlsFiles;

/// Interval of checks of the certificate, which is renewed at half of its lifetime.
const LOOK: Duration = Duration::from_secs(5);
/// Pause between restarts of members for new anchors, which etcd reads only at its start.
const STAGGER: Duration = Duration::from_secs(20);

/// The three files. Names: Dapr 1.18.
#[derive(Debug, Clone)]
pub(super) struct PeerFiles {
    certificate: PathBuf,
    key: PathBuf,
    anchors: PathBuf,
}

impl PeerFiles {
    /// Writes the files into the directory, which is created if it is missing.
    ///
    /// # Errors
    /// The file system refuses.
    pub(super) fn write_first(directory: &Path, svid: &Svid) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let files = Self {
            certificate: directory.join("cert.pem"),
            key: directory.join("key.pem"),
            anchors: directory.join("ca.pem"),
        };
        files.write(svid)?;
        Ok(files)
    }

    pub(super) fn as_tls(&self) -> TlsFiles<'_> {
        TlsFiles { certificate: &self.certificate, key: &self.key, anchors: &self.anchors }
    }

    /// For connections to other members.
    pub(super) fn as_client(&self) -> FileClient {
        let certificate = Some((self.certificate.clone(), self.key.clone()));
        FileClient { ca: Some(self.anchors.clone()), certificate }
    }

    fn write(&self, svid: &Svid) -> io::Result<()> {
        let current = svid.current();
        replace(&self.key, current.key_pem())?;
        replace(&self.certificate, &current.chain().to_pem())?;
        replace(&self.anchors, svid.anchors().borrow().pem())
    }

    /// Writes each new certificate and new anchors until `stop`. etcd reads the former at each
    /// handshake; for the latter it is restarted, this member as the `turn`th.
    pub(super) async fn renew(
        self,
        svid: Svid,
        restart: Arc<Notify>,
        turn: u32,
        stop: CancellationToken,
    ) {
        let mut anchors = svid.anchors();
        let (mut written, mut new_anchors) = (svid.current(), false);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                // Anchors that can no longer change leave the interval alone.
                Ok(()) = anchors.changed() => new_anchors = true,
                () = tokio::time::sleep(LOOK) => {}
            }
            let current = svid.current();
            if !new_anchors && Arc::ptr_eq(&written, &current) {
                continue;
            }
            if let Err(error) = self.write(&svid) {
                tracing::error!(target: LOG,
                    "write the certificate for the connections between members: {error}");
                continue;
            }
            written = current;
            if std::mem::take(&mut new_anchors) {
                stop.run_until_cancelled(tokio::time::sleep(STAGGER * turn)).await;
                restart.notify_one();
            }
        }
    }
}

/// Writes a file that only its owner can read; a reader sees the old or the new content.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use identity::TrustAnchors;
    use testkit::ca::Ca;
    use tokio::sync::watch;
    use transport::svid::CertifiedSvid;

    use super::*;

    fn svid(ca: &Ca, anchors: watch::Receiver<Arc<TrustAnchors>>) -> Svid {
        let own = ca.svid("dapr-system", "dapr-scheduler");
        Svid::fixed(CertifiedSvid::new(own.chain.clone(), &own.key).unwrap(), anchors)
    }

    #[tokio::test(start_paused = true)]
    async fn anchors_that_cannot_change_keep_nothing_busy() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), Ca::new());
        let svid = svid(&ca, watch::channel(Arc::new(ca.anchors())).1);
        let files = PeerFiles::write_first(dir.path(), &svid).unwrap();
        let stop = CancellationToken::new();
        let later = async {
            tokio::time::sleep(LOOK * 3).await;
            stop.cancel();
        };
        tokio::join!(files.renew(svid, Arc::default(), 0, stop.clone()), later);
    }

    #[tokio::test(start_paused = true)]
    async fn new_anchors_are_written_once_the_disk_accepts_them() {
        let (dir, old, new) = (tempfile::tempdir().unwrap(), Ca::new(), Ca::new());
        let (anchors, received) = watch::channel(Arc::new(old.anchors()));
        let svid = svid(&old, received);
        let files = PeerFiles::write_first(dir.path(), &svid).unwrap();
        let (stop, restart) = (CancellationToken::new(), Arc::new(Notify::new()));
        let written = || fs::read_to_string(dir.path().join("ca.pem")).unwrap();
        let change = async {
            let in_the_way = dir.path().join("ca.new");
            fs::create_dir(&in_the_way).unwrap();
            anchors.send(Arc::new(new.anchors())).unwrap();
            tokio::time::sleep(LOOK * 2).await;
            assert_eq!(written(), old.anchors().pem());
            fs::remove_dir(&in_the_way).unwrap();
            restart.notified().await;
            assert_eq!(written(), new.anchors().pem());
            stop.cancel();
        };
        tokio::join!(files.renew(svid, restart.clone(), 0, stop.clone()), change);
    }
}
