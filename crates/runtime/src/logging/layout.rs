//! Time layouts of Go (`2006-01-02 15:04:05.000`), for `--log-timestamp-format`. Text that is not
//! part of the reference time is printed unchanged. Source: Go 1.26, package `time`, `Layout`.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;

/// A layout, parsed once per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(Field),
    /// `.000` and `,000` print all digits, `.999` and `,999` drop trailing zeros.
    Fraction {
        separator: char,
        digits: usize,
        trim: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Year,
    ShortYear,
    MonthName,
    MonthAbbreviation,
    Month,
    PaddedMonth,
    WeekdayName,
    WeekdayAbbreviation,
    Day,
    SpacedDay,
    PaddedDay,
    SpacedYearDay,
    PaddedYearDay,
    Hour,
    Hour12,
    PaddedHour12,
    Minute,
    PaddedMinute,
    Second,
    PaddedSecond,
    UpperPeriod,
    LowerPeriod,
    ZoneName,
    /// `Z07:00` and its relatives: UTC is `Z`.
    ZuluOffset,
    /// `-0700` and its relatives, as they print UTC.
    Offset(&'static str),
}

/// Longer spellings precede their prefixes.
const FIELDS: [(&str, Field); 33] = [
    ("January", Field::MonthName),
    ("Jan", Field::MonthAbbreviation),
    ("Monday", Field::WeekdayName),
    ("Mon", Field::WeekdayAbbreviation),
    ("MST", Field::ZoneName),
    ("2006", Field::Year),
    ("002", Field::PaddedYearDay),
    ("__2", Field::SpacedYearDay),
    ("_2", Field::SpacedDay),
    ("01", Field::PaddedMonth),
    ("02", Field::PaddedDay),
    ("03", Field::PaddedHour12),
    ("04", Field::PaddedMinute),
    ("05", Field::PaddedSecond),
    ("06", Field::ShortYear),
    ("15", Field::Hour),
    ("1", Field::Month),
    ("2", Field::Day),
    ("3", Field::Hour12),
    ("4", Field::Minute),
    ("5", Field::Second),
    ("PM", Field::UpperPeriod),
    ("pm", Field::LowerPeriod),
    ("-07:00:00", Field::Offset("+00:00:00")),
    ("-070000", Field::Offset("+000000")),
    ("-07:00", Field::Offset("+00:00")),
    ("-0700", Field::Offset("+0000")),
    ("-07", Field::Offset("+00")),
    ("Z07:00:00", Field::ZuluOffset),
    ("Z070000", Field::ZuluOffset),
    ("Z07:00", Field::ZuluOffset),
    ("Z0700", Field::ZuluOffset),
    ("Z07", Field::ZuluOffset),
];

impl Layout {
    /// Parses a layout; every text is valid.
    pub(crate) fn parse(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let length = if let Some((field, length)) = field(rest) {
                pieces.push(Piece::Field(field));
                length
            } else if let Some((piece, length)) = fraction(rest) {
                pieces.push(piece);
                length
            } else {
                match pieces.last_mut() {
                    Some(Piece::Literal(text)) => text.push(first),
                    _ => pieces.push(Piece::Literal(first.to_string())),
                }
                first.len_utf8()
            };
            rest = rest.get(length..).unwrap_or_default();
        }
        Self(pieces)
    }

    /// Formats a time in UTC.
    pub(crate) fn format(&self, now: Timestamp) -> String {
        let time = Offset::UTC.to_datetime(now);
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Field(field) => print(*field, time, &mut out),
                Piece::Fraction { separator, digits, trim } => {
                    let nanoseconds = format!("{:09}", time.subsec_nanosecond());
                    let shown = nanoseconds.get(..*digits).unwrap_or(&nanoseconds);
                    let shown = if *trim { shown.trim_end_matches('0') } else { shown };
                    if !shown.is_empty() {
                        out.push(*separator);
                        out.push_str(shown);
                    }
                }
            }
        }
        out
    }
}

/// The field at the start of `rest` and the length of its spelling.
fn field(rest: &str) -> Option<(Field, usize)> {
    if rest.starts_with("_2006") {
        return None; // an underscore, then the year
    }
    let (spelling, field) = FIELDS.iter().find(|(spelling, _)| rest.starts_with(spelling))?;
    let abbreviation = matches!(field, Field::MonthAbbreviation | Field::WeekdayAbbreviation);
    let after = rest.get(spelling.len()..)?.chars().next();
    if abbreviation && after.is_some_and(|c| c.is_ascii_lowercase()) {
        return None; // the start of a word, such as Month
    }
    Some((*field, spelling.len()))
}

/// `.000`, `,000`, `.999` or `,999` of any length at the start of `rest`.
fn fraction(rest: &str) -> Option<(Piece, usize)> {
    let mut chars = rest.chars();
    let separator = chars.next().filter(|c| matches!(c, '.' | ','))?;
    let digit = chars.next().filter(|c| matches!(c, '0' | '9'))?;
    let digits = 1 + chars.clone().take_while(|c| *c == digit).count();
    let followed_by_digit = chars.nth(digits - 1).is_some_and(|c| c.is_ascii_digit());
    let piece = Piece::Fraction { separator, digits: digits.min(9), trim: digit == '9' };
    (!followed_by_digit).then_some((piece, digits + 1))
}

fn print(field: Field, time: DateTime, out: &mut String) {
    let hour12 = match time.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    // Writing to a String cannot fail.
    let _ = match field {
        Field::Year => write!(out, "{:04}", time.year()),
        Field::ShortYear => write!(out, "{:02}", time.year() % 100),
        Field::MonthName => write!(out, "{}", time.strftime("%B")),
        Field::MonthAbbreviation => write!(out, "{}", time.strftime("%b")),
        Field::Month => write!(out, "{}", time.month()),
        Field::PaddedMonth => write!(out, "{:02}", time.month()),
        Field::WeekdayName => write!(out, "{}", time.strftime("%A")),
        Field::WeekdayAbbreviation => write!(out, "{}", time.strftime("%a")),
        Field::Day => write!(out, "{}", time.day()),
        Field::SpacedDay => write!(out, "{:2}", time.day()),
        Field::PaddedDay => write!(out, "{:02}", time.day()),
        Field::SpacedYearDay => write!(out, "{:3}", time.day_of_year()),
        Field::PaddedYearDay => write!(out, "{:03}", time.day_of_year()),
        Field::Hour => write!(out, "{:02}", time.hour()),
        Field::Hour12 => write!(out, "{hour12}"),
        Field::PaddedHour12 => write!(out, "{hour12:02}"),
        Field::Minute => write!(out, "{}", time.minute()),
        Field::PaddedMinute => write!(out, "{:02}", time.minute()),
        Field::Second => write!(out, "{}", time.second()),
        Field::PaddedSecond => write!(out, "{:02}", time.second()),
        Field::UpperPeriod => write!(out, "{}", if time.hour() < 12 { "AM" } else { "PM" }),
        Field::LowerPeriod => write!(out, "{}", if time.hour() < 12 { "am" } else { "pm" }),
        Field::ZoneName => write!(out, "UTC"),
        Field::ZuluOffset => write!(out, "Z"),
        Field::Offset(utc) => write!(out, "{utc}"),
    };
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    // The expected texts are from Go 1.26, `time.Format`.
    #[rstest]
    #[case::date_time("2006-01-02 15:04:05", "2026-03-07 09:05:08")]
    #[case::rfc3339("2006-01-02T15:04:05Z07:00", "2026-03-07T09:05:08Z")]
    #[case::nanoseconds("2006-01-02T15:04:05.999999999Z07:00", "2026-03-07T09:05:08.0401Z")]
    #[case::milliseconds("15:04:05.000", "09:05:08.040")]
    #[case::comma("15:04:05,000000", "09:05:08,040100")]
    #[case::ansi_c("Mon Jan _2 15:04:05 2006", "Sat Mar  7 09:05:08 2026")]
    #[case::rfc1123("Mon, 02 Jan 2006 15:04:05 MST", "Sat, 07 Mar 2026 09:05:08 UTC")]
    #[case::rfc1123z("Mon, 02 Jan 2006 15:04:05 -0700", "Sat, 07 Mar 2026 09:05:08 +0000")]
    #[case::rfc850("Monday, 02-Jan-06 15:04:05 MST", "Saturday, 07-Mar-26 09:05:08 UTC")]
    #[case::kitchen("3:04PM", "9:05AM")]
    #[case::small_numbers("1/2 3:4:5 pm", "3/7 9:5:8 am")]
    #[case::long_month("January 2, 2006", "March 7, 2026")]
    #[case::day_of_year("2006-002 __2", "2026-066  66")]
    #[case::underscore_year("x_2006", "x_2026")]
    #[case::words("Month: Janet", "Month: Janet")]
    #[case::unknown("at [] \u{fc}", "at [] \u{fc}")]
    #[case::offsets("-07 -07:00 -07:00:00 -070000 Z07", "+00 +00:00 +00:00:00 +000000 Z")]
    #[case::fractions("a.0001 b.0000000000 c,99", "a.0003 b.040100000 c,04")]
    fn formats_as_go_does(#[case] layout: &str, #[case] want: &str) {
        let now = "2026-03-07T09:05:08.0401Z".parse().unwrap();
        assert_eq!(Layout::parse(layout).format(now), want, "{layout}");
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_a_layout(text in ".{0,60}", seconds in 0_i64..4_000_000_000) {
            Layout::parse(&text).format(Timestamp::from_second(seconds).unwrap());
        }
    }
}
