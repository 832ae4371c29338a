//! One field of a cron schedule: a comma list of values, ranges and steps.

use super::ScheduleError;

/// The values of a field.
#[derive(Debug)]
pub(super) struct Bounds {
    min: u64,
    max: u64,
    /// Names of the values from `min` on, in lower case.
    names: &'static [&'static str],
}

pub(super) const SECONDS: Bounds = Bounds { min: 0, max: 59, names: &[] };
pub(super) const MINUTES: Bounds = Bounds { min: 0, max: 59, names: &[] };
pub(super) const HOURS: Bounds = Bounds { min: 0, max: 23, names: &[] };
pub(super) const DAYS: Bounds = Bounds { min: 1, max: 31, names: &[] };
pub(super) const MONTHS: Bounds = Bounds {
    min: 1,
    max: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
pub(super) const WEEKDAYS: Bounds =
    Bounds { min: 0, max: 6, names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"] };

/// The values that a field admits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Values {
    /// Bit n is set when the value n matches.
    pub(super) bits: u64,
    /// The field is `*` or `?` without a step above 1, alone or in its list. It decides how days of
    /// the month and of the week combine.
    pub(super) star: bool,
}

/// Parses a field. Empty members of the list are ignored, so `,` admits nothing.
///
/// # Errors
/// The first member that is not a range.
pub(super) fn parse(field: &str, bounds: &Bounds) -> Result<Values, ScheduleError> {
    let mut values = Values::default();
    for range in field.split(',').filter(|range| !range.is_empty()) {
        let part = parse_range(range, bounds)?;
        values.bits |= part.bits;
        values.star |= part.star;
    }
    Ok(values)
}

/// `*`, `?`, `n` or `n-m`, each with an optional `/step`.
fn parse_range(range: &str, bounds: &Bounds) -> Result<Values, ScheduleError> {
    let (ends, step_text) = match range.split_once('/') {
        Some((ends, step)) => (ends, Some(step)),
        None => (range, None),
    };
    let mut hyphenated = ends.split('-');
    let first = hyphenated.next().unwrap_or_default();
    // What follows the hyphen of `*-n` is ignored.
    let mut star = first == "*" || first == "?";
    let (start, mut end) = if star {
        (bounds.min, bounds.max)
    } else {
        let start = number_or_name(first, bounds)?;
        match (hyphenated.next(), hyphenated.next()) {
            (None, _) => (start, start),
            (Some(last), None) => (start, number_or_name(last, bounds)?),
            (Some(_), Some(_)) => return Err(ScheduleError::Hyphens(range.to_owned())),
        }
    };
    let step = match step_text {
        None => 1,
        Some(text) if text.contains('/') => return Err(ScheduleError::Slashes(range.to_owned())),
        Some(text) => {
            let step = number(text)?;
            if !ends.contains('-') {
                end = bounds.max;
            }
            star &= step <= 1;
            step
        }
    };
    check(start, end, step, range, bounds)?;
    let stride = usize::try_from(step).unwrap_or(usize::MAX);
    let bits = (start..=end).step_by(stride).fold(0, |bits, value| bits | 1 << value);
    Ok(Values { bits, star })
}

fn check(
    start: u64,
    end: u64,
    step: u64,
    range: &str,
    bounds: &Bounds,
) -> Result<(), ScheduleError> {
    let range = || range.to_owned();
    if start < bounds.min {
        return Err(ScheduleError::BelowMinimum { start, minimum: bounds.min, range: range() });
    }
    if end > bounds.max {
        return Err(ScheduleError::AboveMaximum { end, maximum: bounds.max, range: range() });
    }
    if start > end {
        return Err(ScheduleError::Reversed { start, end, range: range() });
    }
    if step == 0 {
        return Err(ScheduleError::ZeroStep(range()));
    }
    Ok(())
}

fn number_or_name(text: &str, bounds: &Bounds) -> Result<u64, ScheduleError> {
    let named =
        bounds.names.iter().zip(bounds.min..).find(|(name, _)| name.eq_ignore_ascii_case(text));
    match named {
        Some((_, value)) => Ok(value),
        None => number(text),
    }
}

/// A decimal number with an optional sign, as Go's `strconv.Atoi` reads it.
fn number(text: &str) -> Result<u64, ScheduleError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let refuse = |reason| Err(ScheduleError::Number { text: text.to_owned(), reason });
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse("invalid syntax");
    }
    let Ok(value) = text.parse::<i64>() else { return refuse("value out of range") };
    u64::try_from(value)
        .map_err(|_| ScheduleError::NegativeNumber { number: value, text: text.to_owned() })
}
