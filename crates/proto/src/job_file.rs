//! The file of a backup: the format of a snapshot of the scheduler's client port and of `daprctl
//! jobs export`. Pairs of keys and values, each with its length before it; zeros up to the next 512
//! bytes; SHA-256 of all that. `etcdctl snapshot save` checks exactly this frame.

use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::etcd::mvccpb::KeyValue;

/// First bytes of the file.
pub const MAGIC: &[u8] = b"trilby jobs 1\n";
/// The part before the hash is a multiple of this many bytes.
const BLOCK: usize = 512;
const HASH: usize = 32;

/// Why a file is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileError {
    /// The file of another program or of a later version.
    Foreign,
    /// Truncated, or bytes have changed.
    Damaged,
}

impl std::fmt::Display for FileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Foreign => "it is neither an export of jobs nor a snapshot of a Trilby scheduler",
            Self::Damaged => "its checksum does not match: it was cut off or changed",
        })
    }
}

impl std::error::Error for FileError {}

/// Encodes a file in pieces.
#[derive(Debug, Clone)]
pub struct Writer {
    hash: Sha256,
    bytes: usize,
}

impl Writer {
    /// Starts a file with its first piece.
    pub fn start() -> (Self, Vec<u8>) {
        let mut writer = Self { hash: Sha256::new(), bytes: 0 };
        let first = writer.note(MAGIC.to_vec());
        (writer, first)
    }

    /// Encodes one pair.
    pub fn pair(&mut self, pair: &KeyValue) -> Vec<u8> {
        self.note(pair.encode_length_delimited_to_vec())
    }

    /// Encodes the last two pieces: the rest of the block, and the hash.
    pub fn finish(mut self) -> (Vec<u8>, Vec<u8>) {
        // At least one zero, which no pair begins with, ends the list.
        let padding = BLOCK - self.bytes % BLOCK;
        let zeros = self.note(vec![0; padding]);
        (zeros, self.hash.finalize().to_vec())
    }

    /// Bytes of the whole file if it ended now.
    pub fn size(&self) -> usize {
        self.bytes + BLOCK - self.bytes % BLOCK + HASH
    }

    fn note(&mut self, piece: Vec<u8>) -> Vec<u8> {
        self.hash.update(&piece);
        self.bytes += piece.len();
        piece
    }
}

/// Reads a whole file.
///
/// # Errors
/// The file belongs to another program, or is damaged.
pub fn read(file: &[u8]) -> Result<Vec<KeyValue>, FileError> {
    if !file.starts_with(MAGIC) {
        return Err(FileError::Foreign);
    }
    let (body, hash) = file.split_last_chunk::<HASH>().ok_or(FileError::Damaged)?;
    if body.len() % BLOCK != 0 || Sha256::digest(body).as_slice() != hash {
        return Err(FileError::Damaged);
    }
    let mut rest = body.get(MAGIC.len()..).ok_or(FileError::Damaged)?;
    let mut pairs = Vec::new();
    while rest.first().is_some_and(|first| *first != 0) {
        pairs.push(KeyValue::decode_length_delimited(&mut rest).map_err(|_| FileError::Damaged)?);
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(number: usize) -> KeyValue {
        let value = vec![7; number];
        KeyValue { key: format!("k{number}").into(), value: value.into(), ..KeyValue::default() }
    }

    fn file(pairs: &[KeyValue]) -> Vec<u8> {
        let (mut writer, mut file) = Writer::start();
        pairs.iter().for_each(|pair| file.extend(writer.pair(pair)));
        let size = writer.size();
        let (zeros, hash) = writer.finish();
        file.extend([zeros, hash].concat());
        assert_eq!(file.len(), size);
        file
    }

    #[test]
    fn what_was_written_is_read_whatever_its_length() {
        for count in [0, 1, 2, 5, 40] {
            let pairs: Vec<KeyValue> = (0..count).map(pair).collect();
            let file = file(&pairs);
            assert_eq!(file.len() % BLOCK, HASH, "{count}");
            assert_eq!(read(&file), Ok(pairs));
        }
        for length in 480..520 {
            assert_eq!(read(&file(&[pair(length)])), Ok(vec![pair(length)]));
        }
    }

    #[test]
    fn damage_and_other_files_are_named() {
        let whole = file(&[pair(3)]);
        assert_eq!(read(b"else"), Err(FileError::Foreign));
        assert_eq!(read(MAGIC), Err(FileError::Damaged));
        assert_eq!(read(&whole[..whole.len() - 1]), Err(FileError::Damaged));
        for at in MAGIC.len()..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert_eq!(read(&changed), Err(FileError::Damaged), "byte {at}");
        }
    }
}
