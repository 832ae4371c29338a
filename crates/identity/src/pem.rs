//! PEM as Go peers parse it: text between blocks, CRLF, header lines and a missing final newline are
//! accepted; an invalid block is skipped. Source: RFC 7468; Go 1.26, package `encoding/pem`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";

/// Length of a base64 line.
const LINE: usize = 64;

/// One block. The content may be a key and is zeroized on drop.
pub(crate) struct Block {
    pub(crate) label: String,
    pub(crate) der: Zeroizing<Vec<u8>>,
    /// Whether a header says that the content is encrypted. Source: RFC 1421 §4.6.1.1.
    pub(crate) encrypted: bool,
}

struct Open {
    label: String,
    body: Zeroizing<String>,
    encrypted: bool,
}

/// The valid blocks of a text, in order.
pub(crate) fn blocks(text: &[u8]) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Open> = None;
    for line in text.split(|b| *b == b'\n') {
        let Ok(line) = str::from_utf8(line) else { continue };
        let line = line.trim_end();
        if let Some(label) = marker(line, BEGIN) {
            let (label, body) = (label.to_owned(), Zeroizing::new(String::new()));
            open = Some(Open { label, body, encrypted: false });
        } else if let Some(label) = marker(line, END) {
            if let Some(Open { label: begun, body, encrypted }) = open.take()
                && begun == label
                && let Ok(der) = STANDARD.decode(body.as_bytes())
            {
                found.push(Block { label: begun, der: Zeroizing::new(der), encrypted });
            }
        } else if let Some(open) = &mut open {
            if let Some((header, value)) = line.split_once(':') {
                open.encrypted |= header == "Proc-Type" && value.contains("ENCRYPTED");
            } else {
                open.body.extend(line.chars().filter(|c| !c.is_ascii_whitespace()));
            }
        }
    }
    found
}

/// How many blocks with this label begin in a text.
pub(crate) fn begun(text: &[u8], label: &str) -> usize {
    let lines = text.split(|b| *b == b'\n').filter_map(|line| str::from_utf8(line).ok());
    lines.filter(|line| marker(line.trim(), BEGIN) == Some(label)).count()
}

fn marker<'a>(line: &'a str, kind: &str) -> Option<&'a str> {
    line.strip_prefix(kind)?.strip_suffix(DASHES)
}

/// Encodes one block, with a final newline.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(STANDARD.encode(der));
    let mut text = Zeroizing::new(String::with_capacity(body.len() + body.len() / LINE + 80));
    text.extend([BEGIN, label, DASHES, "\n"]);
    for line in body.as_bytes().chunks(LINE) {
        text.extend(line.iter().map(|b| char::from(*b)));
        text.push('\n');
    }
    text.extend([END, label, DASHES, "\n"]);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    fn labels(text: &str) -> Vec<String> {
        blocks(text.as_bytes()).into_iter().map(|b| b.label).collect()
    }

    #[rstest]
    #[case::plain("-----BEGIN A-----\nAAAA\n-----END A-----\n", &["A"])]
    #[case::crlf("-----BEGIN A-----\r\nAAAA\r\n-----END A-----\r\n", &["A"])]
    #[case::no_last_newline("-----BEGIN A-----\nAAAA\n-----END A-----", &["A"])]
    #[case::text_around("hello\n-----BEGIN A-----\nAAAA\n-----END A-----\nbye\n", &["A"])]
    #[case::headers("-----BEGIN A-----\nKey: value\n\nAAAA\n-----END A-----\n", &["A"])]
    #[case::empty("-----BEGIN A-----\n-----END A-----\n", &["A"])]
    #[case::bad_base64("-----BEGIN A-----\nA!AA\n-----END A-----\n", &[])]
    #[case::other_end("-----BEGIN A-----\nAAAA\n-----END B-----\n", &[])]
    #[case::no_end("-----BEGIN A-----\nAAAA\n", &[])]
    #[case::bad_then_good(
        "-----BEGIN A-----\nA\n-----BEGIN B-----\nAAAA\n-----END B-----\n", &["B"])]
    #[case::two("-----BEGIN A-----\nAAAA\n-----END A-----\n-----BEGIN B-----\nAAAA\n-----END B-----", &["A", "B"])]
    #[case::none("", &[])]
    fn finds_blocks(#[case] text: &str, #[case] want: &[&str]) {
        assert_eq!(labels(text), want, "{text:?}");
    }

    proptest! {
        #[test]
        fn encoded_blocks_are_read_back(der in prop::collection::vec(any::<u8>(), 0..300)) {
            let text = encode("CERTIFICATE", &der);
            let read = blocks(text.as_bytes());
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(&*read[0].der, &der);
        }

        #[test]
        fn no_bytes_panic(text in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = blocks(&text);
        }
    }
}
