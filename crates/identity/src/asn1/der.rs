//! The DER encodings that certificates and signing requests use. Source: ITU-T X.690.

use jiff::Timestamp;
use jiff::tz::TimeZone;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const CONTEXT: u8 = 0x80;
const CONSTRUCTED: u8 = 0x20;

/// First year that is encoded as `GeneralizedTime`, RFC 5280 §4.1.2.5.
const FIRST_GENERALIZED_YEAR: i16 = 2050;

/// Tag, length, content.
fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = content.len().to_be_bytes();
            let zeros = bytes.iter().take_while(|b| **b == 0).count();
            // At most eight bytes of length.
            #[expect(clippy::cast_possible_truncation, reason = "a usize has 8 bytes")]
            out.push(0x80 | (bytes.len() - zeros) as u8);
            out.extend(bytes.iter().skip(zeros));
        }
    }
    out.extend_from_slice(content);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, &parts.concat())
}

/// A set with one member. DER sorts members, and no other set is needed.
pub(crate) fn set_of_one(member: &[u8]) -> Vec<u8> {
    value(SET, member)
}

pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    value(OBJECT_IDENTIFIER, content)
}

pub(crate) fn null() -> Vec<u8> {
    value(NULL, &[])
}

pub(crate) fn boolean_true() -> Vec<u8> {
    value(BOOLEAN, &[0xff])
}

/// A non-negative integer from its big-endian bytes.
pub(crate) fn unsigned(big_endian: &[u8]) -> Vec<u8> {
    let zeros = big_endian.iter().take_while(|b| **b == 0).count();
    let mut content = Vec::with_capacity(big_endian.len() + 1);
    let first = big_endian.get(zeros);
    if first.is_none_or(|b| *b >= 0x80) {
        content.push(0);
    }
    content.extend(big_endian.iter().skip(zeros));
    value(INTEGER, &content)
}

pub(crate) fn octet_string(content: &[u8]) -> Vec<u8> {
    value(OCTET_STRING, content)
}

/// A bit string of whole bytes.
pub(crate) fn bit_string(content: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], content].concat())
}

/// A named bit list of one byte, without trailing zero bits, X.690 §11.2.2.
pub(crate) fn named_bits(bits: u8) -> Vec<u8> {
    #[expect(clippy::cast_possible_truncation, reason = "at most 8")]
    let unused = bits.trailing_zeros() as u8;
    value(BIT_STRING, &[unused, bits])
}

/// `PrintableString` if the text permits it, else `UTF8String`.
pub(crate) fn directory_string(text: &str) -> Vec<u8> {
    let printable = |b: u8| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b);
    let tag = if text.bytes().all(printable) { PRINTABLE_STRING } else { UTF8_STRING };
    value(tag, text.as_bytes())
}

/// `[n] content`, constructed.
pub(crate) fn explicit(n: u8, content: &[u8]) -> Vec<u8> {
    value(CONTEXT | CONSTRUCTED | n, content)
}

/// `[n] content`, primitive.
pub(crate) fn implicit(n: u8, content: &[u8]) -> Vec<u8> {
    value(CONTEXT | n, content)
}

/// UTC, truncated to whole seconds.
pub(crate) fn time(at: Timestamp) -> Vec<u8> {
    let utc = at.to_zoned(TimeZone::UTC);
    if utc.year() < FIRST_GENERALIZED_YEAR {
        value(UTC_TIME, utc.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        value(GENERALIZED_TIME, utc.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::zero(&[], &[2, 1, 0])]
    #[case::padded_zero(&[0, 0], &[2, 1, 0])]
    #[case::small(&[5], &[2, 1, 5])]
    #[case::leading_zero_is_omitted(&[0, 5], &[2, 1, 5])]
    #[case::high_bit_is_not_the_sign(&[0x80], &[2, 2, 0, 0x80])]
    fn encodes_integers(#[case] bytes: &[u8], #[case] want: &[u8]) {
        assert_eq!(unsigned(bytes), want);
    }

    #[rstest]
    #[case(127, &[4, 127])]
    #[case(128, &[4, 0x81, 128])]
    #[case(256, &[4, 0x82, 1, 0])]
    fn encodes_lengths(#[case] bytes: usize, #[case] want: &[u8]) {
        assert!(octet_string(&vec![0; bytes]).starts_with(want));
    }

    #[rstest]
    #[case("2026-11-21T11:22:33Z", b"\x17\x0d261121112233Z")]
    #[case("2049-12-31T23:59:59Z", b"\x17\x0d491231235959Z")]
    #[case("2050-01-01T00:00:00Z", b"\x18\x0f20500101000000Z")]
    fn encodes_times(#[case] at: Timestamp, #[case] want: &[u8]) {
        assert_eq!(time(at), want);
    }

    #[test]
    fn encodes_underscores_as_utf8() {
        assert_eq!(directory_string("a.b").first(), Some(&PRINTABLE_STRING));
        assert_eq!(directory_string("a_b").first(), Some(&UTF8_STRING));
    }

    #[test]
    fn omits_trailing_zero_bits() {
        assert_eq!(named_bits(0b1000_0000), [3, 2, 7, 0b1000_0000]);
        assert_eq!(named_bits(0b1000_0110), [3, 2, 1, 0b1000_0110]);
    }
}
