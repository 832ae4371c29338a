//! Mutations of inputs: bits, bytes, numbers, pieces, words of the format, other seeds.

use testkit::Choice;

/// Bytes of the longest input.
const MAX_BYTES: usize = 64 * 1024;
/// Largest number of changes to one input.
const MAX_CHANGES: usize = 6;
/// Byte values at the edges of ranges.
const EDGES: [u8; 9] = [0, 1, 0x7f, 0x80, 0xff, b'0', b'9', b'-', b'"'];
/// Texts that are special in one of the formats.
const WORDS: [&str; 24] = [
    "null",
    "true",
    "-1",
    "1e999",
    "9223372036854775808",
    "{}",
    "[]",
    "\"\"",
    "\\u0000",
    "\u{feff}",
    "\n",
    "\r\n",
    "---\n",
    "${x}",
    "*",
    "../",
    "%",
    ":",
    "=",
    ",",
    "-----BEGIN CERTIFICATE-----\n",
    "-----END CERTIFICATE-----\n",
    "@every ",
    "ä😀",
];

/// A part of a slice, empty if the slice is.
fn part<'a>(of: &'a [u8], choice: &mut Choice) -> &'a [u8] {
    let from = position(of, choice);
    let length = choice.below((of.len() - from).min(256) + 1);
    of.get(from..from + length).unwrap_or_default()
}

/// A position in a slice, 0 if it is empty.
fn position(of: &[u8], choice: &mut Choice) -> usize {
    if of.is_empty() { 0 } else { choice.below(of.len()) }
}

/// A changed copy of `input`; `others` are inputs to take parts from.
pub(crate) fn mutate(input: &[u8], others: &[Vec<u8>], choice: &mut Choice) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=choice.below(MAX_CHANGES) {
        change(&mut bytes, others, choice);
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], choice: &mut Choice) {
    let at = position(bytes, choice);
    match choice.below(9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << choice.below(8);
            }
        }
        1 => {
            let value = choice.pick(&EDGES).unwrap_or_default();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        2 => {
            let delta = u8::try_from(choice.below(16)).unwrap_or_default();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = byte.wrapping_add(delta).wrapping_sub(8);
            }
        }
        3 => {
            let length = part(bytes, choice).len().min(bytes.len() - at);
            bytes.drain(at..at + length);
        }
        4 => {
            let copy = part(bytes, choice).to_vec();
            insert(bytes, at, &copy);
        }
        5 => {
            let word = choice.of(&WORDS);
            insert(bytes, at, word.as_bytes());
        }
        6 => {
            let other = choice.pick(others).unwrap_or_default();
            insert(bytes, at, part(&other, choice));
        }
        7 => bytes.truncate(at),
        _ => {
            let byte = bytes.get(at).copied().unwrap_or(b'[');
            let times = 1 << choice.below(12);
            insert(bytes, at, &vec![byte; times]);
        }
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, part: &[u8]) {
    if bytes.len() + part.len() <= MAX_BYTES {
        bytes.splice(at..at, part.iter().copied());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_inputs_and_they_differ_from_each_other() {
        let others = [b"other input".to_vec()];
        let run = |seed| {
            let mut choice = Choice::new(seed);
            (0..200).map(|_| mutate(b"input", &others, &mut choice)).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        let distinct: std::collections::BTreeSet<_> = run(1).into_iter().collect();
        assert!(distinct.len() > 150, "{}", distinct.len());
        assert!(mutate(&[], &[], &mut Choice::new(3)).len() <= MAX_BYTES);
    }
}
