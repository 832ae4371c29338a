//! ISO 8601 durations as the reference reads them, which is looser than the standard.

use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// A duration of calendar units and seconds, each of either sign.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct IsoDuration {
    years: i64,
    months: i64,
    days: i64,
    seconds: i64,
    /// `R<n>`; −1 and none are the same.
    repetitions: Option<i64>,
}

impl IsoDuration {
    /// Parses `[R<int>[/]][P[<int>Y|M|W|D]…[T[<int>H|M|S]…]]`. Units may repeat and come in any
    /// order; of several years or months the last counts, other units add up. Text after the last
    /// unit is ignored. `None` when the text is something else or
    /// a sum exceeds 64 bits.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() < 2 {
            return None;
        }
        let mut parsed = Self::default();
        let mut rest = text;
        if let Some(repeated) = text.strip_prefix('R') {
            let (count, duration) = repeated.split_once('/').unwrap_or((repeated, ""));
            parsed.repetitions = Some(number(count)?).filter(|count| *count != -1);
            if duration.is_empty() {
                return Some(parsed);
            }
            rest = duration;
        }
        parsed.add_units(rest.strip_prefix('P')?)?;
        Some(parsed)
    }

    /// Adds each number that is followed by one of the unit letters.
    fn add_units(&mut self, units: &str) -> Option<()> {
        let mut in_time = false;
        let mut rest = units;
        while let Some(at) = rest.find(['Y', 'M', 'W', 'D', 'T', 'H', 'S']) {
            let (digits, tail) = rest.split_at(at);
            let unit = tail.chars().next()?;
            rest = tail.strip_prefix(unit)?;
            if unit == 'T' {
                in_time = true;
                if digits.is_empty() {
                    continue;
                }
                return None;
            }
            let number = number(digits)?;
            let (total, scale) = match (unit, in_time) {
                ('Y', false) => {
                    self.years = number;
                    continue;
                }
                ('M', false) => {
                    self.months = number;
                    continue;
                }
                ('W', false) => (&mut self.days, 7),
                ('D', false) => (&mut self.days, 1),
                ('H', true) => (&mut self.seconds, 3600),
                ('M', true) => (&mut self.seconds, 60),
                ('S', true) => (&mut self.seconds, 1),
                _ => return None,
            };
            *total = number.checked_mul(scale)?.checked_add(*total)?;
        }
        Some(())
    }

    /// Whether the duration asks for repetitions.
    pub(super) fn repeats(&self) -> bool {
        self.repetitions.is_some()
    }

    /// Adds the duration in UTC: years and months first, where a day that the month lacks runs into
    /// the next month (31 January and a month is 2 or 3 March), then days, then the time. `None`
    /// beyond the years that a time stamp can hold.
    pub(super) fn add_to(&self, from: Timestamp) -> Option<Timestamp> {
        let local = Offset::UTC.to_datetime(from);
        let months = i64::from(local.year())
            .checked_add(self.years)?
            .checked_mul(12)?
            .checked_add(i64::from(local.month()) - 1)?
            .checked_add(self.months)?;
        let year = i16::try_from(months.div_euclid(12)).ok()?;
        let month = i8::try_from(months.rem_euclid(12) + 1).ok()?;
        let days = self.days.checked_add(i64::from(local.day()) - 1)?.checked_mul(86_400)?;
        let day = Date::new(year, month, 1).ok()?.to_datetime(local.time());
        Offset::UTC
            .to_timestamp(day)
            .ok()?
            .checked_add(SignedDuration::from_secs(days.checked_add(self.seconds)?))
            .ok()
    }
}

/// A decimal number with an optional sign.
fn number(text: &str) -> Option<i64> {
    text.parse().ok()
}
