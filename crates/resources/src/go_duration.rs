//! Go's duration syntax (`1h30m`, `1.5h`, `100ms`), which the peers' flags and resources use.
//! Source: Go 1.26, package `time`, `ParseDuration`.

use std::fmt;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Why a text is not a Go duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GoDurationError {
    /// A number is missing or malformed.
    #[error("{0:?} is not a duration; write for example 300ms, 15m or 1h30m")]
    Malformed(String),
    /// A number without its unit.
    #[error("{0:?} has no unit; write for example {0}s or {0}m")]
    MissingUnit(String),
    /// A unit that is none of `ns us µs ms s m h`.
    #[error("{text:?} has the unknown unit {unit:?}; units are ns, us, ms, s, m, h")]
    UnknownUnit {
        /// The text that was parsed.
        text: String,
        /// The invalid unit in it.
        unit: String,
    },
    /// More than 2^63-1 nanoseconds (about 292 years).
    #[error("{0:?} is longer than a duration can be (292 years)")]
    Overflow(String),
    /// Negative where only spans of time make sense.
    #[error("{0:?} is negative")]
    Negative(String),
}

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// Reads a Go duration that is a span of time.
///
/// # Errors
/// See the variants of [`GoDurationError`]; a negative duration other than `-0` is refused.
pub fn parse(text: &str) -> Result<Duration, GoDurationError> {
    u64::try_from(parse_nanos(text)?)
        .map(Duration::from_nanos)
        .map_err(|_| GoDurationError::Negative(text.to_owned()))
}

/// Reads a Go duration of either sign, in nanoseconds.
///
/// # Errors
/// See the variants of [`GoDurationError`] other than `Negative`.
pub fn parse_nanos(text: &str) -> Result<i64, GoDurationError> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(GoDurationError::Malformed(text.to_owned()));
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (part, after) = part(text, rest)?;
        nanos = nanos
            .checked_add(part)
            .filter(|n| *n <= i64::MAX as u128)
            .ok_or_else(|| GoDurationError::Overflow(text.to_owned()))?;
        rest = after;
    }
    let nanos = i64::try_from(nanos).map_err(|_| GoDurationError::Overflow(text.to_owned()))?;
    Ok(if negative { -nanos } else { nanos })
}

/// One `number unit` pair in nanoseconds, and what follows it.
fn part<'a>(text: &str, rest: &'a str) -> Result<(u128, &'a str), GoDurationError> {
    let malformed = || GoDurationError::Malformed(text.to_owned());
    let overflow = || GoDurationError::Overflow(text.to_owned());
    let (whole, after) = digits(rest);
    let (fraction, after) = match after.strip_prefix('.') {
        Some(tail) => digits(tail),
        None => ("", after),
    };
    if whole.is_empty() && fraction.is_empty() {
        return Err(malformed());
    }
    let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
    let (unit, tail) = after.split_at(end);
    if unit.is_empty() {
        return Err(GoDurationError::MissingUnit(text.to_owned()));
    }
    let scale =
        UNITS.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale).ok_or_else(|| {
            GoDurationError::UnknownUnit { text: text.to_owned(), unit: unit.to_owned() }
        })?;
    let mut nanos = 0;
    if !whole.is_empty() {
        let number: u64 = whole.parse().map_err(|_| overflow())?;
        nanos = u128::from(number) * scale;
    }
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        nanos += u128::from(digit - b'0') * place;
    }
    Ok((nanos, tail))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Prints a duration as Go does (`1h30m0s`, `1.5s`, `100ms`, `0s`).
/// Source: Go 1.26, `time.Duration.String`.
pub fn format(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let decimal = |value: u128, scale: u128, unit: &str| {
        let (whole, part) = (value / scale, value % scale);
        let width = scale.ilog10() as usize;
        let fraction = if part == 0 { String::new() } else { format!(".{part:0width$}") };
        format!("{whole}{}{unit}", fraction.trim_end_matches('0'))
    };
    match nanos {
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => decimal(n, 1_000, "\u{b5}s"),
        n if n < 1_000_000_000 => decimal(n, 1_000_000, "ms"),
        n => {
            let seconds = decimal(n % 60_000_000_000, 1_000_000_000, "s");
            let minutes = n / 60_000_000_000;
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, m) => format!("{m}m{seconds}"),
                (h, m) => format!("{h}h{m}m{seconds}"),
            }
        }
    }
}

/// A duration in Go's form, such as `1h30m`; checked, and printed in Go's normal form (`1h30m0s`).
///
/// Custom resources with another text are accepted by the API server but cannot be decoded by
/// sidecars (Dapr 1.18).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct GoDuration(String);

impl GoDuration {
    /// Reads `text` by the rules of Go's `time.ParseDuration`.
    ///
    /// # Errors
    /// As [`parse_nanos`].
    pub fn parse(text: &str) -> Result<Self, GoDurationError> {
        let nanos = parse_nanos(text)?;
        let sign = if nanos < 0 { "-" } else { "" };
        Ok(Self(format!("{sign}{}", format(Duration::from_nanos(nanos.unsigned_abs())))))
    }

    /// The text in Go's normal form.
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::compound("1h2m3.5s", Ok(Duration::from_millis(3_723_500)))]
    #[case::bare_zero("0", Ok(Duration::ZERO))]
    #[case::fraction_only(".5s", Ok(Duration::from_millis(500)))]
    #[case::micro("1.5us", Ok(Duration::from_nanos(1_500)))]
    #[case::signed("+1m", Ok(Duration::from_mins(1)))]
    #[case::no_unit("5", Err(GoDurationError::MissingUnit("5".into())))]
    #[case::empty("", Err(GoDurationError::Malformed(String::new())))]
    #[case::word("soon", Err(GoDurationError::Malformed("soon".into())))]
    #[case::day("1d", Err(GoDurationError::UnknownUnit { text: "1d".into(), unit: "d".into() }))]
    #[case::too_long("2562048h", Err(GoDurationError::Overflow("2562048h".into())))]
    #[case::negative("-1s", Err(GoDurationError::Negative("-1s".into())))]
    fn parses_go_durations(#[case] text: &str, #[case] want: Result<Duration, GoDurationError>) {
        assert_eq!(parse(text), want, "input {text:?}");
    }

    #[rstest]
    #[case(Duration::ZERO, "0s")]
    #[case(Duration::from_hours(24), "24h0m0s")]
    #[case(Duration::from_millis(1_500), "1.5s")]
    #[case(Duration::from_millis(100), "100ms")]
    #[case(Duration::from_nanos(1_050), "1.05\u{b5}s")]
    #[case(Duration::from_secs(90), "1m30s")]
    fn formats_like_go(#[case] duration: Duration, #[case] want: &str) {
        assert_eq!(format(duration), want);
    }

    #[rstest]
    #[case("60s", "1m0s")]
    #[case("24h", "24h0m0s")]
    #[case("1.5h", "1h30m0s")]
    #[case("100us", "100\u{b5}s")]
    #[case("0", "0s")]
    #[case("-90s", "-1m30s")]
    fn resources_show_the_normal_form(#[case] text: &str, #[case] want: &str) {
        assert_eq!(GoDuration::parse(text).unwrap().as_str(), want);
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_is_read_back(nanos in 0..i64::MAX) {
            let duration = Duration::from_nanos(nanos.unsigned_abs());
            proptest::prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,24}") {
            let _ = parse(&text);
        }
    }

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

    proptest::proptest! {
        #[test]
        fn accepts_what_go_prints(h in 0u64..1000, m in 0u64..60, ms in 0u64..60_000) {
            let text = format!("{h}h{m}m{}.{:03}s", ms / 1000, ms % 1000);
            proptest::prop_assert!(GoDuration::parse(&text).is_ok());
        }
    }
}
