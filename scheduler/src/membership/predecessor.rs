//! The lease of the last process of this member. Its keys keep the next process waiting until the
//! lease expires, unless the last one is dead for certain: two processes must not have the same jobs.
//!
//! A file beside the data has the lease, and the kernel on which its process runs. The process holds
//! a lock on the file, which the kernel drops with the process. So who gets the lock on the same
//! kernel knows that the process is gone. On another kernel a lock says nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;

const FILE: &str = "member.lease";
/// Differs between starts of kernels. Source: random(4).
const KERNEL: &str = "/proc/sys/kernel/random/boot_id";
/// Bytes of the file that are read; it has 54.
const BYTES: usize = 64;

/// The locked file.
#[derive(Debug)]
pub(crate) struct Predecessor {
    file: File,
    kernel: String,
}

impl Predecessor {
    /// Locks the file in this directory, creating both; `None` while another process has it.
    ///
    /// # Errors
    /// The file system refuses.
    pub(crate) fn take(directory: &Path) -> io::Result<Option<Self>> {
        Self::on(directory, fs::read_to_string(KERNEL)?.trim())
    }

    fn on(directory: &Path, kernel: &str) -> io::Result<Option<Self>> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(directory.join(FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file, kernel: kernel.to_owned() })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// The lease of the last process that noted one, if that process is dead for certain.
    pub(crate) fn lease(&self) -> Option<i64> {
        let mut bytes = [0; BYTES];
        let read = self.file.read_at(&mut bytes, 0).ok()?;
        let text = std::str::from_utf8(bytes.get(..read)?).ok()?;
        let (kernel, lease) = text.trim_end().split_once(' ')?;
        (kernel == self.kernel).then(|| u64::from_str_radix(lease, 16).ok())?.map(u64::cast_signed)
    }

    /// Notes the lease of this process. Without room for it the next process waits.
    pub(crate) fn note(&self, lease: i64) {
        // Always of the same length: one write replaces all.
        let text = format!("{} {:016x}\n", self.kernel, lease.cast_unsigned());
        if self.file.write_all_at(text.as_bytes(), 0).is_err() {
            let _ = self.file.set_len(0); // what is left of it names nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const HERE: &str = "5f2d3c1e-0000-4000-8000-000000000001";
    const ELSEWHERE: &str = "5f2d3c1e-0000-4000-8000-000000000002";

    #[rstest]
    #[case::same_kernel(HERE, Some(-7))]
    #[case::other_kernel(ELSEWHERE, None)]
    fn a_lease_is_known_when_its_process_has_ended_on_this_kernel(
        #[case] kernel: &str,
        #[case] want: Option<i64>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("data");
        let first = Predecessor::on(&directory, HERE).unwrap().unwrap();
        assert_eq!(first.lease(), None);
        first.note(i64::MAX);
        first.note(-7);
        assert!(Predecessor::on(&directory, kernel).unwrap().is_none(), "it still runs");
        drop(first);
        let second = Predecessor::on(&directory, kernel).unwrap().unwrap();
        assert_eq!(second.lease(), want);
        second.note(8);
        assert_eq!(second.lease(), Some(8));
    }

    #[rstest]
    #[case("")]
    #[case("5f2d3c1e-0000-4000-8000-000000000001")]
    #[case("5f2d3c1e-0000-4000-8000-000000000001 lease\n")]
    #[case("5f2d3c1e-0000-4000-8000-000000000001 11111111111111111111111111111111111111111\n")]
    fn what_is_no_lease_names_none(#[case] text: &str) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), text).unwrap();
        assert_eq!(Predecessor::on(dir.path(), HERE).unwrap().unwrap().lease(), None);
    }

    #[test]
    fn this_kernel_has_an_id() {
        let dir = tempfile::tempdir().unwrap();
        let taken = Predecessor::take(dir.path()).unwrap().unwrap();
        assert_eq!(taken.kernel.len(), HERE.len());
    }
}
