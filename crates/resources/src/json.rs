//! JSON text with numbers in Go's form.
use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

/// Prints `value` as compact JSON; floating-point numbers keep the API server's form, because
/// sidecars pass the text of free-form values to components (Dapr 1.18).
///
/// # Errors
/// `value` cannot be serialised, for example a map with keys that are not strings.
pub fn to_vec(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    value.serialize(&mut Serializer::with_formatter(&mut out, GoNumbers))?;
    Ok(out)
}

/// Numbers as Go's `encoding/json` prints them: no exponent from 1e-6 up to 1e21.
struct GoNumbers;

impl Formatter for GoNumbers {
    fn write_f64<W: ?Sized + io::Write>(&mut self, to: &mut W, value: f64) -> io::Result<()> {
        let size = value.abs();
        if size == 0.0 || (1e-6..1e21).contains(&size) {
            return write!(to, "{value}");
        }
        let text = format!("{value:e}");
        match text.split_once('e') {
            Some((digits, exponent)) if !exponent.starts_with('-') => {
                write!(to, "{digits}e+{exponent}")
            }
            _ => to.write_all(text.as_bytes()),
        }
    }

    fn write_f32<W: ?Sized + io::Write>(&mut self, to: &mut W, value: f32) -> io::Result<()> {
        CompactFormatter.write_f32(to, value)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::Value;

    use super::*;

    /// Texts as kube-apiserver 1.34 prints them.
    #[rstest]
    #[case("1")]
    #[case("1.5")]
    #[case("9007199254740993")]
    #[case("-9223372036854775808")]
    #[case("1.2345678901234568e+29")]
    #[case("100000000000000000000")]
    #[case("1e+21")]
    #[case("0.000001")]
    #[case("1e-7")]
    #[case("-2.5e-10")]
    #[case("0.1")]
    fn prints_numbers_as_the_api_server_wrote_them(#[case] text: &str) {
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(String::from_utf8(to_vec(&value).unwrap()).unwrap(), text);
    }
}
