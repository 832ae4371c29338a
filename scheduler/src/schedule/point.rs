//! Points in time of requests: an instant, or a duration from a given instant.

use jiff::civil::{Date, Time};
use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

use super::iso::IsoDuration;

/// The meaning of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    /// An instant.
    At(Timestamp),
    /// An ISO 8601 duration with repetitions, which no point in time can have.
    Repeated,
}

/// Reads RFC 3339, else a Go duration from `from` on, else an ISO 8601 duration from `from` on.
/// `None` when it is none of these, or a duration leads outside of the years −9999 to 9999. The
/// last two days of the year 9999 are [`Timestamp::MAX`]: workflows that wait for an event without
/// a limit are due at the end of that year (Dapr 1.18, SDKs).
pub(super) fn resolve(text: &str, from: Timestamp) -> Option<Point> {
    if let Some(at) = rfc3339(text) {
        return Some(Point::At(at));
    }
    if let Ok(nanos) = resources::go_duration::parse_nanos(text) {
        return from.checked_add(SignedDuration::from_nanos(nanos)).ok().map(Point::At);
    }
    let duration = IsoDuration::parse(text)?;
    if duration.repeats() {
        return Some(Point::Repeated);
    }
    duration.add_to(from).map(Point::At)
}

/// RFC 3339 as Go reads it: capital `T` and `Z`, an hour of one or two digits, a comma or a point
/// before the fraction, of which nine digits count.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date, rest) = text.split_once('T')?;
    let mut date = date.split('-');
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    if date.next().is_some() {
        return None;
    }
    let date = Date::new(
        digits(year, 4)?.try_into().ok()?,
        digits(month, 2)?.try_into().ok()?,
        digits(day, 2)?.try_into().ok()?,
    )
    .ok()?;
    let (hour, rest) = rest.split_once(':')?;
    let hour = if hour.len() == 1 { digits(hour, 1)? } else { digits(hour, 2)? };
    let (minute, rest) = rest.split_once(':')?;
    let (second, rest) = rest.split_at_checked(2)?;
    let (nanos, zone) = fraction(rest)?;
    let time = Time::new(
        hour.try_into().ok()?,
        digits(minute, 2)?.try_into().ok()?,
        digits(second, 2)?.try_into().ok()?,
        nanos,
    )
    .ok()?;
    let offset = SignedDuration::from_secs(offset_seconds(zone)?);
    let utc = date.to_datetime(time).checked_sub(offset).ok();
    Some(utc.and_then(|utc| Offset::UTC.to_timestamp(utc).ok()).unwrap_or(Timestamp::MAX))
}

/// An optional fraction of a second in nanoseconds, and what follows it.
fn fraction(text: &str) -> Option<(i32, &str)> {
    let Some(rest) = text.strip_prefix(['.', ',']) else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (fraction, rest) = rest.split_at(end);
    let nanos: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    (!fraction.is_empty()).then_some((digits(&nanos, 9)?, rest))
}

/// `Z` or `±hh:mm`.
fn offset_seconds(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let (sign, rest) = match zone.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, zone.strip_prefix('+')?),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let (hours, minutes) = (i64::from(digits(hours, 2)?), i64::from(digits(minutes, 2)?));
    (hours <= MAX_OFFSET_HOURS && minutes <= MAX_OFFSET_MINUTES)
        .then_some(sign * (hours * 60 + minutes) * 60)
}

/// Go admits a little more than a day and an hour. Source: Go 1.26 by experiment.
const MAX_OFFSET_HOURS: i64 = 24;
const MAX_OFFSET_MINUTES: i64 = 60;

/// Exactly `count` digits.
fn digits(text: &str, count: usize) -> Option<i32> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}
