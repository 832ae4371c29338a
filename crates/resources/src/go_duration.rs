//! Durations as text in Go's form.
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// A duration in Go's form, such as `1h30m`; checked, the text is kept as written.
///
/// Custom resources whose text is none are accepted by the API server but cannot be decoded by
/// sidecars (Dapr 1.18).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GoDuration(String);

/// The text is not a duration in Go's form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a duration such as 30s or 1h30m: {0:?}")]
pub struct BadDuration(String);

impl GoDuration {
    /// Checks `text` by the rules of Go's `time.ParseDuration`.
    ///
    /// # Errors
    /// [`BadDuration`] when a unit is missing or unknown, or the sum exceeds 63 bits of
    /// nanoseconds.
    pub fn parse(text: &str) -> Result<Self, BadDuration> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let valid = unsigned == "0" || (!unsigned.is_empty() && sum_fits(unsigned));
        if valid { Ok(Self(text.to_owned())) } else { Err(BadDuration(text.to_owned())) }
    }

    /// The text as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// Longer units before their own beginnings (`ms` before `m`).
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Whether `text` is a row of `<decimal><unit>` whose sum fits in 63 bits of nanoseconds.
fn sum_fits(mut text: &str) -> bool {
    let mut total: u64 = 0;
    while !text.is_empty() {
        let Some((nanos, rest)) = term(text) else { return false };
        match total.checked_add(nanos).filter(|t| i64::try_from(*t).is_ok()) {
            Some(sum) => total = sum,
            None => return false,
        }
        text = rest;
    }
    true
}

fn term(text: &str) -> Option<(u64, &str)> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => split_digits(after),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (unit, rest) = UNITS
        .iter()
        .find_map(|(name, nanos)| rest.strip_prefix(name).map(|after| (*nanos, after)))?;
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    Some((whole.checked_mul(unit)?.checked_add(fraction_of(fraction, unit))?, rest))
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// `0.<digits>` of `unit`, rounded down; digits below a nanosecond count nothing.
fn fraction_of(digits: &str, unit: u64) -> u64 {
    let mut value = 0;
    let mut place = unit;
    for digit in digits.bytes() {
        place /= 10;
        value += u64::from(digit - b'0') * place;
    }
    value
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::seconds("30s", true)]
    #[case::compound("1h30m", true)]
    #[case::fraction("1.5h", true)]
    #[case::leading_point(".5s", true)]
    #[case::micro("100us", true)]
    #[case::micro_sign("100µs", true)]
    #[case::bare_zero("0", true)]
    #[case::negative("-5s", true)]
    #[case::longest("2562047h47m16.854775807s", true)]
    #[case::too_long("2562048h", false)]
    #[case::empty("", false)]
    #[case::sign_only("-", false)]
    #[case::no_unit("5", false)]
    #[case::days("1d", false)]
    #[case::words("1 minute", false)]
    #[case::point_only(".s", false)]
    #[case::two_points("1.2.3s", false)]
    #[case::blank(" 1s", false)]
    fn knows_go_durations(#[case] text: &str, #[case] valid: bool) {
        assert_eq!(GoDuration::parse(text).is_ok(), valid, "input {text:?}");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = GoDuration::parse(&text);
        }

        #[test]
        fn accepts_what_go_prints(h in 0u64..1000, m in 0u64..60, ms in 0u64..60_000) {
            let text = format!("{h}h{m}m{}.{:03}s", ms / 1000, ms % 1000);
            prop_assert!(GoDuration::parse(&text).is_ok());
        }
    }
}
