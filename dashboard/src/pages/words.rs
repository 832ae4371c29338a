//! Times and numbers as text.

use jiff::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// How long ago something happened: `3 days`, `5 minutes`, `unknown` without a time.
pub(crate) fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map_or_else(|| "unknown".to_owned(), |since| span(now.duration_since(since).as_secs()))
}

/// A span of seconds in its largest whole unit; zero if it is negative.
pub(crate) fn span(seconds: i64) -> String {
    let (number, unit) = match seconds {
        DAY.. => (seconds / DAY, "day"),
        HOUR.. => (seconds / HOUR, "hour"),
        MINUTE.. => (seconds / MINUTE, "minute"),
        _ => (seconds.max(0), "second"),
    };
    count(usize::try_from(number).unwrap_or_default(), unit)
}

/// A number and its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

/// `1 more limit is not shown`, `2 more limits are not shown`.
pub(crate) fn not_shown(number: usize, noun: &str) -> String {
    let (plural, verb) = if number == 1 { ("", "is") } else { ("s", "are") };
    format!("{number} more {noun}{plural} {verb} not shown")
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(-5, "0 seconds")]
    #[case(1, "1 second")]
    #[case(59, "59 seconds")]
    #[case(60, "1 minute")]
    #[case(3_599, "59 minutes")]
    #[case(86_399, "23 hours")]
    #[case(172_800, "2 days")]
    fn spans_have_one_unit(#[case] seconds: i64, #[case] want: &str) {
        assert_eq!(span(seconds), want);
    }

    #[test]
    fn what_is_not_shown_is_counted() {
        assert_eq!(not_shown(1, "limit"), "1 more limit is not shown");
        assert_eq!(not_shown(2, "limit"), "2 more limits are not shown");
    }
}
