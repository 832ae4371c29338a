//! The file of an export: read in either format, written in either, and the hash of its content.
//! Pure except for the two functions that open it.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::path::Path;

use proto::etcd::mvccpb::KeyValue;
use proto::job_file;
use sha2::{Digest as _, Sha256};

use super::file_error::FileError;
use super::flags::Format;
use super::{COUNTERS, JOBS, JobsError, gob};
use crate::output::private_file;

/// Upper limit of a file, which is held in memory.
pub(super) const MAX_FILE_BYTES: u64 = 2 << 30;
/// Upper limit of jobs and counters of an export.
pub(super) const MAX_PAIRS: usize = 4_000_000;

/// The pairs of a file in either format, jobs before counters, each in the order of keys.
///
/// # Errors
/// It is no export, it is damaged, or it has more than `max_pairs` pairs.
pub(super) fn parse(file: &[u8], max_pairs: usize) -> Result<Vec<KeyValue>, FileError> {
    if !file.starts_with(job_file::MAGIC) {
        return gob::read(file, max_pairs);
    }
    let mut pairs = job_file::read(file).map_err(|error| match error {
        job_file::FileError::Foreign => FileError::Foreign,
        job_file::FileError::Damaged => FileError::Damaged,
    })?;
    // A snapshot of a Trilby scheduler has the same format and more keys.
    pairs.retain(|pair| pair.key.starts_with(JOBS) || pair.key.starts_with(COUNTERS));
    if pairs.len() > max_pairs {
        return Err(FileError::TooManyPairs(max_pairs));
    }
    sort(&mut pairs);
    Ok(pairs)
}

/// Jobs before counters, each in the order of keys.
pub(super) fn sort(pairs: &mut [KeyValue]) {
    let group = |pair: &KeyValue| !pair.key.starts_with(JOBS);
    pairs.sort_by(|a, b| (group(a), &a.key).cmp(&(group(b), &b.key)));
}

/// The bytes of a file with these pairs.
///
/// # Errors
/// They are more than `max`, which an import would refuse.
pub(super) fn encode(format: Format, pairs: &[KeyValue], max: u64) -> Result<Vec<u8>, FileError> {
    let file = match format {
        Format::Dapr => gob::write(pairs),
        Format::Trilby => {
            let (mut writer, mut file) = job_file::Writer::start();
            for pair in pairs {
                let (key, value) = (pair.key.clone(), pair.value.clone());
                file.extend(writer.pair(&KeyValue { key, value, ..KeyValue::default() }));
            }
            let (zeros, hash) = writer.finish();
            file.extend(zeros);
            file.extend(hash);
            file
        }
    };
    if file.len() as u64 > max { Err(FileError::TooLarge(max)) } else { Ok(file) }
}

/// SHA-256 of keys and values in the order of [`sort`], whatever the format of the file, in
/// hexadecimal digits.
pub(super) fn content_hash(pairs: &[KeyValue]) -> String {
    let mut hash = Sha256::new();
    for bytes in pairs.iter().flat_map(|pair| [&pair.key, &pair.value]) {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    }
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or has more than `max` bytes.
pub(super) fn load(path: &Path, max: u64) -> Result<Vec<u8>, JobsError> {
    let failed = |source| JobsError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(max + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        let source = FileError::TooLarge(max);
        return Err(JobsError::File { path: path.to_owned(), source });
    }
    Ok(bytes)
}

/// Creates a file that only its owner reads, because payloads are in it, and syncs it.
///
/// # Errors
/// It exists, or cannot be written.
pub(super) fn save(path: &Path, bytes: &[u8]) -> Result<(), JobsError> {
    let failed = |source| JobsError::Write { path: path.to_owned(), source };
    let mut file = private_file::create(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn pair(key: &str, value: &str) -> KeyValue {
        let (key, value) = (key.to_owned().into(), value.to_owned().into());
        KeyValue { key, value, ..KeyValue::default() }
    }

    fn pairs() -> Vec<KeyValue> {
        vec![
            pair("dapr/jobs/app||ns||a||j", "1"),
            pair("dapr/jobs/app||ns||a||k", ""),
            pair("dapr/counters/app||ns||a||j", "2"),
        ]
    }

    #[rstest]
    #[case(Format::Trilby)]
    #[case(Format::Dapr)]
    fn what_is_written_reads_back(#[case] format: Format) {
        let file = encode(format, &pairs(), MAX_FILE_BYTES).unwrap();
        assert_eq!(parse(&file, 3), Ok(pairs()));
        assert_eq!(parse(&file, 2), Err(FileError::TooManyPairs(2)));
        assert!(parse(&file[..file.len() - 1], 3).is_err());
    }

    #[rstest]
    #[case(Format::Trilby)]
    #[case(Format::Dapr)]
    fn an_export_may_be_as_large_as_an_import(#[case] format: Format) {
        let file = encode(format, &pairs(), MAX_FILE_BYTES).unwrap();
        let size = file.len() as u64;
        assert_eq!(encode(format, &pairs(), size), Ok(file));
        assert_eq!(encode(format, &pairs(), size - 1), Err(FileError::TooLarge(size - 1)));
    }

    #[test]
    fn other_keys_of_a_snapshot_are_left_out() {
        let all = [vec![pair("dapr/leadership/a", "x")], pairs()].concat();
        let file = encode(Format::Trilby, &all, MAX_FILE_BYTES).unwrap();
        assert_eq!(parse(&file, 3), Ok(pairs()));
    }

    #[test]
    fn other_files_are_rejected() {
        for other in [&b""[..], b"{}", b"\x1f\x8b gzip"] {
            assert!(parse(other, 3).is_err());
        }
    }

    #[test]
    fn the_hash_tells_key_from_value() {
        let hash = |key, value| content_hash(&[pair(key, value)]);
        assert_eq!(hash("ab", "c"), hash("ab", "c"));
        assert_ne!(hash("ab", "c"), hash("a", "bc"));
    }

    #[test]
    fn a_file_may_be_as_large_as_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        save(&path, &[7; 10]).unwrap();
        assert_eq!(load(&path, 10).unwrap().len(), 10);
        let error = load(&path, 9).unwrap_err().to_string();
        assert!(error.contains("file"), "{error}");
    }
}
