//! The file of `dapr scheduler export`, both ways: one Go *gob* value of the type
//! `struct { Jobs, Counters map[string][]byte }` (Dapr CLI 1.16). Pure.
//!
//! A gob stream is a list of messages, each with its length before it. A message with a negative
//! type id defines a type; the others are values (package `encoding/gob` of Go, "Encoding
//! Details").

use bytes::Bytes;
use proto::etcd::mvccpb::KeyValue;

use super::file_error::FileError;
use super::{COUNTERS, JOBS};

/// Definitions of the struct (id 64) and of its map type (id 65), as the Dapr CLI writes them.
const TYPES: &[u8] = b"\x2f\x7f\x03\x01\x01\x0aExportFile\x01\xff\x80\x00\x01\x02\x01\x04Jobs\x01\xff\x82\x00\x01\x08Counters\x01\xff\x82\x00\x00\x00\x22\xff\x81\x04\x01\x01\x12map[string][]uint8\x01\xff\x82\x00\x01\x0c\x01\x0a\x00\x00";
/// Type id of the struct, as it stands before the value.
const STRUCT: &[u8] = b"\xff\x80";
/// Type ids that every gob stream knows.
const BYTES: i64 = 5;
const STRING: i64 = 6;

/// Encodes these pairs, which are jobs and counters.
pub(super) fn write(pairs: &[KeyValue]) -> Vec<u8> {
    let mut value = STRUCT.to_vec();
    let mut delta = 1;
    for prefix in [JOBS, COUNTERS] {
        let part: Vec<_> = pairs.iter().filter(|pair| pair.key.starts_with(prefix)).collect();
        if part.is_empty() {
            delta += 1;
            continue;
        }
        put_uint(&mut value, delta);
        delta = 1;
        put_uint(&mut value, part.len() as u64);
        for pair in part {
            for bytes in [&pair.key, &pair.value] {
                put_uint(&mut value, bytes.len() as u64);
                value.extend_from_slice(bytes);
            }
        }
    }
    value.push(0);
    let mut file = TYPES.to_vec();
    put_uint(&mut file, value.len() as u64);
    file.extend(value);
    file
}

/// Numbers below 128 are one byte; others are the negated count of their bytes and the bytes.
fn put_uint(into: &mut Vec<u8>, number: u64) {
    if number < 128 {
        into.push(number.to_be_bytes()[7]);
        return;
    }
    let bytes = number.to_be_bytes();
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(7);
    let count = bytes.len() - first;
    into.push(0_u8.wrapping_sub(u8::try_from(count).unwrap_or(8)));
    into.extend_from_slice(bytes.get(first..).unwrap_or_default());
}

/// Reads a file of at most `max_pairs` pairs, jobs before counters, each in the order of keys.
///
/// # Errors
/// The file has another format, is truncated, or has more pairs.
pub(super) fn read(file: &[u8], max_pairs: usize) -> Result<Vec<KeyValue>, FileError> {
    let mut rest = file;
    let mut types = Types::default();
    loop {
        let mut message = take_message(&mut rest)?;
        let id = int(&mut message)?;
        if id >= 0 {
            if Some(id) != types.whole || !rest.is_empty() {
                return Err(FileError::Foreign);
            }
            let mut pairs = value(&types, message, max_pairs)?;
            let group = |pair: &KeyValue| !pair.key.starts_with(JOBS);
            pairs.sort_by(|a, b| (group(a), &a.key).cmp(&(group(b), &b.key)));
            return Ok(pairs);
        }
        types.define(-id, &mut message)?;
    }
}

/// The types that a stream has defined.
#[derive(Default)]
struct Types {
    /// Id of the struct.
    whole: Option<i64>,
    /// Its members and their types.
    members: Vec<(Vec<u8>, i64)>,
    /// The maps from strings to bytes.
    maps: Vec<i64>,
}

impl Types {
    /// Reads a `wireType`, of which member 3 is a struct and member 4 a map.
    fn define(&mut self, id: i64, message: &mut &[u8]) -> Result<(), FileError> {
        match uint(message)? {
            3 if self.whole.is_none() => {
                self.whole = Some(id);
                self.members = members(message)?;
                Ok(())
            }
            4 => {
                expect(message, 1)?;
                common(message)?;
                expect(message, 1)?;
                let key = int(message)?;
                expect(message, 1)?;
                if (key, int(message)?) != (STRING, BYTES) {
                    return Err(FileError::Foreign);
                }
                self.maps.push(id);
                Ok(())
            }
            _ => Err(FileError::Foreign),
        }
    }
}

/// The members of a struct type: `{Common, Field: [{Name, Id}]}`.
fn members(message: &mut &[u8]) -> Result<Vec<(Vec<u8>, i64)>, FileError> {
    /// The struct has two.
    const MAX_MEMBERS: u64 = 2;
    expect(message, 1)?;
    common(message)?;
    expect(message, 1)?;
    let count = uint(message)?;
    if count > MAX_MEMBERS {
        return Err(FileError::Foreign);
    }
    let mut members = Vec::new();
    for _ in 0..count {
        expect(message, 1)?;
        let name = bytes(message)?.to_vec();
        expect(message, 1)?;
        members.push((name, int(message)?));
        expect(message, 0)?;
    }
    Ok(members)
}

/// Skips `{Name, Id}` of a type.
fn common(message: &mut &[u8]) -> Result<(), FileError> {
    loop {
        match uint(message)? {
            0 => return Ok(()),
            // Either only an id follows, or the name and then the id.
            1 => drop(bytes(message)?),
            2 => drop(int(message)?),
            _ => return Err(FileError::Foreign),
        }
        if message.first() == Some(&1) {
            expect(message, 1)?;
            int(message)?;
        }
    }
}

fn value(types: &Types, mut rest: &[u8], max_pairs: usize) -> Result<Vec<KeyValue>, FileError> {
    let mut pairs = Vec::new();
    let mut member = 0_u64;
    loop {
        let delta = uint(&mut rest)?;
        if delta == 0 {
            return if rest.is_empty() { Ok(pairs) } else { Err(FileError::Damaged) };
        }
        member = member.saturating_add(delta);
        let index = usize::try_from(member - 1).unwrap_or(usize::MAX);
        let (name, kind) = types.members.get(index).ok_or(FileError::Foreign)?;
        let prefix = match name.as_slice() {
            b"Jobs" => JOBS,
            b"Counters" => COUNTERS,
            _ => return Err(FileError::Foreign),
        };
        if !types.maps.contains(kind) {
            return Err(FileError::Foreign);
        }
        for _ in 0..uint(&mut rest)? {
            let (key, value) = (bytes(&mut rest)?, bytes(&mut rest)?);
            if !key.starts_with(prefix) {
                return Err(FileError::Foreign);
            }
            if pairs.len() == max_pairs {
                return Err(FileError::TooManyPairs(max_pairs));
            }
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            pairs.push(KeyValue { key, value, ..KeyValue::default() });
        }
    }
}

fn take_message<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FileError> {
    bytes(rest)
}

fn expect(rest: &mut &[u8], number: u64) -> Result<(), FileError> {
    if uint(rest)? == number { Ok(()) } else { Err(FileError::Foreign) }
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FileError> {
    let length = usize::try_from(uint(rest)?).map_err(|_| FileError::Damaged)?;
    let (bytes, tail) = rest.split_at_checked(length).ok_or(FileError::Damaged)?;
    *rest = tail;
    Ok(bytes)
}

/// The sign is the lowest bit.
fn int(rest: &mut &[u8]) -> Result<i64, FileError> {
    let number = uint(rest)?;
    let half = i64::try_from(number >> 1).map_err(|_| FileError::Damaged)?;
    Ok(if number & 1 == 1 { !half } else { half })
}

fn uint(rest: &mut &[u8]) -> Result<u64, FileError> {
    let (first, tail) = rest.split_first().ok_or(FileError::Damaged)?;
    *rest = tail;
    if *first < 128 {
        return Ok(u64::from(*first));
    }
    let count = usize::from(0_u8.wrapping_sub(*first));
    if count > 8 {
        return Err(FileError::Damaged);
    }
    let (bytes, tail) = rest.split_at_checked(count).ok_or(FileError::Damaged)?;
    *rest = tail;
    Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by `encoding/gob` of Go 1.26 from a value of the CLI's type.
    const OF_GO: &[u8] = include_bytes!("fixtures/one.gob");
    const EMPTY: &[u8] = include_bytes!("fixtures/empty.gob");
    const MAX: usize = 10;

    fn pair(key: &str, value: &[u8]) -> KeyValue {
        KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value),
            ..KeyValue::default()
        }
    }

    fn pairs() -> Vec<KeyValue> {
        vec![
            pair("dapr/jobs/app||ns||a||j", &[0; 300]),
            pair("dapr/counters/app||ns||a||j", &[1, 2, 3]),
        ]
    }

    #[test]
    fn a_file_of_go_is_read_and_the_same_bytes_are_written() {
        assert_eq!(read(OF_GO, MAX), Ok(pairs()));
        assert_eq!(write(&pairs()), OF_GO);
        assert_eq!(read(EMPTY, MAX), Ok(Vec::new()));
        assert_eq!(write(&[]), EMPTY);
    }

    #[test]
    fn only_counters_read_back() {
        let counters = vec![pair("dapr/counters/a", b"1"), pair("dapr/counters/b", b"2")];
        assert_eq!(read(&write(&counters), MAX), Ok(counters));
    }

    #[test]
    fn a_truncated_or_longer_file_is_rejected() {
        for end in 0..OF_GO.len() {
            assert!(read(&OF_GO[..end], MAX).is_err(), "{end} bytes");
        }
        assert!(read(&[OF_GO, b"\x01\x00"].concat(), MAX).is_err());
    }

    #[test]
    fn changed_bytes_never_panic() {
        for at in 0..OF_GO.len() {
            for bit in 0..8 {
                let mut changed = OF_GO.to_vec();
                changed[at] ^= 1 << bit;
                drop(read(&changed, MAX));
            }
        }
    }

    #[test]
    fn the_number_of_pairs_is_limited() {
        assert!(read(OF_GO, 2).is_ok());
        assert_eq!(read(OF_GO, 1), Err(FileError::TooManyPairs(1)));
    }

    #[test]
    fn other_keys_than_jobs_and_counters_are_rejected() {
        let file = write(&pairs());
        let at = file.windows(9).position(|part| part == b"dapr/jobs").unwrap();
        let mut other = file;
        other[at] = b'x';
        assert_eq!(read(&other, MAX), Err(FileError::Foreign));
    }
}
