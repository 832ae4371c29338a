//! The last acknowledged batch, stored beside the database: fjall truncates a journal at the first
//! entry that it cannot read, even in the middle, without an error.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The file, beside the directory of the database.
pub(super) const FILE: &str = "SEQUENCE";
/// The number and its complement, which detects a torn write.
const BYTES: usize = 16;

/// The number of the last batch that was written. It is written after its batch is durable, so that
/// it is never ahead; it is not synced with every batch, so that a power failure may leave it
/// behind.
#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    last: u64,
}

impl Witness {
    /// Opens the file beside `database`, or creates it.
    pub(super) fn open(database: &Path) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(database.with_file_name(FILE))?;
        let mut bytes = [0; BYTES];
        let last = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => decode(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { file, last })
    }

    /// The number that was found when opened; 0 for none.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Records a batch.
    pub(super) fn saw(&self, sequence: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(sequence), 0)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        // After a shutdown it is as durable as the batches.
        let _ = self.file.sync_data();
    }
}

fn encode(sequence: u64) -> [u8; BYTES] {
    (u128::from(sequence) << 64 | u128::from(!sequence)).to_be_bytes()
}

fn decode(bytes: [u8; BYTES]) -> u64 {
    let both = u128::from_be_bytes(bytes);
    let sequence = u64::try_from(both >> 64).unwrap_or(0);
    if encode(sequence) == bytes { sequence } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_last_batch_and_ignores_a_torn_write() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().join("db");
        let first = Witness::open(&database).unwrap();
        assert_eq!(first.last(), 0);
        first.saw(300).unwrap();
        drop(first);
        assert_eq!(Witness::open(&database).unwrap().last(), 300);
        let file = dir.path().join(FILE);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[7] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert_eq!(Witness::open(&database).unwrap().last(), 0);
    }
}
