//! Six-field cron schedules and their descriptors.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;

use super::field::{self, Values};
use super::{ScheduleError, zone};

/// How far the search for the next instant goes. The 29th of February is the rarest day that a
/// schedule can name: eight years lie between those of 2096 and 2104.
const SEARCH_MONTHS: usize = 9 * 12;

/// A schedule that matches the instants whose local time has certain seconds, minutes, hours, days
/// and months.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: Values,
    months: u64,
    weekdays: Values,
    zone: TimeZone,
}

impl Cron {
    /// Parses `sec min hour dom month dow` or a descriptor other than `@every`.
    ///
    /// # Errors
    /// The first mistake, from left to right.
    pub(super) fn parse(spec: &str, zone: Option<TimeZone>) -> Result<Self, ScheduleError> {
        let spec = if spec.starts_with('@') { descriptor(spec)? } else { spec };
        let fields: Vec<&str> = spec.split_whitespace().collect();
        let &[seconds, minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(ScheduleError::FieldCount(fields.into_iter().map(str::to_owned).collect()));
        };
        Ok(Self {
            seconds: field::parse(seconds, &field::SECONDS)?.bits,
            minutes: field::parse(minutes, &field::MINUTES)?.bits,
            hours: field::parse(hours, &field::HOURS)?.bits,
            days: field::parse(days, &field::DAYS)?,
            months: field::parse(months, &field::MONTHS)?.bits,
            weekdays: field::parse(weekdays, &field::WEEKDAYS)?,
            zone: zone.unwrap_or(TimeZone::UTC),
        })
    }

    /// The first whole second after an instant that matches. A local time that a change of the
    /// clocks skips has no instant, one that it repeats has two.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        // Before 1970 the parts of a time stamp are negative, and its second is the next one.
        let step = i64::from(after.subsec_nanosecond() >= 0);
        let mut from = Timestamp::from_second(after.as_second() + step).ok()?;
        let mut months_left = SEARCH_MONTHS;
        loop {
            let span = zone::span(&self.zone, from);
            let local = span.offset.to_datetime(from);
            let end = span.end.map(|end| span.offset.to_datetime(end));
            let found = self.next_local(local, end, &mut months_left);
            if let Some(found) = found {
                return span.offset.to_timestamp(found).ok();
            }
            from = span.end.filter(|_| months_left > 0)?;
        }
    }

    /// The first matching local time from `from` on and before `end`. Each month that is searched
    /// counts against `months_left`.
    fn next_local(
        &self,
        from: DateTime,
        end: Option<DateTime>,
        months_left: &mut usize,
    ) -> Option<DateTime> {
        let before_end = |at: &DateTime| end.is_none_or(|end| *at < end);
        let days = self.days_in(from.date());
        let today = 1u64 << from.day();
        if days & today != 0
            && let Some(time) = self.time_from(from.time())
        {
            return Some(from.date().to_datetime(time)).filter(before_end);
        }
        let midnight = self.time_from(Time::midnight())?;
        let mut month = from.date().first_of_month();
        let mut later = days & !(today | (today - 1));
        loop {
            if let Some(day) = lowest(later) {
                let date = Date::new(month.year(), month.month(), day).ok()?;
                return Some(date.to_datetime(midnight)).filter(before_end);
            }
            *months_left = months_left.checked_sub(1)?;
            month = month.last_of_month().tomorrow().ok()?;
            if !before_end(&month.to_datetime(Time::midnight())) {
                return None;
            }
            later = self.days_in(month);
        }
    }

    /// The matching days of a month, as bits.
    fn days_in(&self, any_day: Date) -> u64 {
        if self.months & (1 << any_day.month()) == 0 {
            return 0;
        }
        let all = (2u64 << any_day.days_in_month()) - 2;
        let first = any_day.first_of_month().weekday().to_sunday_zero_offset();
        let by_weekday = (1..=any_day.days_in_month())
            .filter(|day| self.weekdays.bits & (1 << ((day - 1 + first) % 7)) != 0)
            .fold(0, |bits, day| bits | 1u64 << day);
        let by_day = self.days.bits & all;
        // A field that is not restricted leaves the decision to the other one.
        if self.days.star || self.weekdays.star { by_day & by_weekday } else { by_day | by_weekday }
    }

    /// The first matching time of a day from `from` on.
    fn time_from(&self, from: Time) -> Option<Time> {
        let (hour, minute, second) = (from.hour(), from.minute(), from.second());
        let at = |hour, minute, second| Time::new(hour, minute, second, 0).ok();
        let first_second = lowest(self.seconds)?;
        let first_minute = lowest(self.minutes)?;
        if matches(self.hours, hour) {
            if matches(self.minutes, minute)
                && let Some(second) = lowest_from(self.seconds, second)
            {
                return at(hour, minute, second);
            }
            if let Some(minute) = lowest_from(self.minutes, minute + 1) {
                return at(hour, minute, first_second);
            }
        }
        at(lowest_from(self.hours, hour + 1)?, first_minute, first_second)
    }
}

fn matches(bits: u64, value: i8) -> bool {
    lowest_from(bits, value) == Some(value)
}

fn lowest(bits: u64) -> Option<i8> {
    (bits != 0).then(|| i8::try_from(bits.trailing_zeros()).unwrap_or(i8::MAX))
}

/// The lowest value that is not below `from`, which is at most 60.
fn lowest_from(bits: u64, from: i8) -> Option<i8> {
    lowest(bits & (u64::MAX << from))
}

fn descriptor(spec: &str) -> Result<&'static str, ScheduleError> {
    Ok(match spec {
        "@yearly" | "@annually" => "0 0 0 1 1 *",
        "@monthly" => "0 0 0 1 * *",
        "@weekly" => "0 0 0 * * 0",
        "@daily" | "@midnight" => "0 0 0 * * *",
        "@hourly" => "0 0 * * * *",
        _ => return Err(ScheduleError::Descriptor(spec.to_owned())),
    })
}

#[cfg(test)]
impl Cron {
    /// Whether the local time of an instant matches, without any search.
    pub(super) fn matches(&self, at: Timestamp) -> bool {
        let local = at.to_zoned(self.zone.clone());
        at.subsec_nanosecond() == 0
            && matches(self.seconds, local.second())
            && matches(self.minutes, local.minute())
            && matches(self.hours, local.hour())
            && self.days_in(local.date()) & (1 << local.day()) != 0
    }
}
