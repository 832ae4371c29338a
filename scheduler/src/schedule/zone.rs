//! Time zones of schedules. The database is part of the program.

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};

use super::ScheduleError;

/// Splits `TZ=<name> <schedule>` or `CRON_TZ=<name> <schedule>`. Without prefix there is no zone,
/// and the schedule is evaluated in UTC.
///
/// # Errors
/// The zone is unknown, or no schedule follows it.
pub(super) fn split(text: &str) -> Result<(Option<TimeZone>, &str), ScheduleError> {
    let Some(rest) = text.strip_prefix("TZ=").or_else(|| text.strip_prefix("CRON_TZ=")) else {
        return Ok((None, text));
    };
    let Some((name, schedule)) = rest.split_once(char::is_whitespace) else {
        return Err(ScheduleError::ZoneWithoutSchedule(text.to_owned()));
    };
    Ok((Some(find(name)?), schedule.trim()))
}

/// Looks a zone up by its exact name. The empty name, `UTC` and `Local` are UTC: the service
/// has no zone.
fn find(name: &str) -> Result<TimeZone, ScheduleError> {
    if matches!(name, "" | "UTC" | "Local") {
        return Ok(TimeZone::UTC);
    }
    let refuse = |reason: String| Err(ScheduleError::Zone { name: name.to_owned(), reason });
    if name.contains("..") || name.starts_with(['/', '\\']) {
        return refuse("time: invalid location name".to_owned());
    }
    match TimeZoneDatabase::bundled().get(name) {
        Ok(zone) if zone.iana_name() == Some(name) => Ok(zone),
        _ => refuse(format!("unknown time zone {name}")),
    }
}

/// A time during which local time and UTC differ by the same amount.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) offset: Offset,
    /// Start of the next span.
    pub(super) end: Option<Timestamp>,
}

/// The span of an instant.
pub(super) fn span(zone: &TimeZone, at: Timestamp) -> Span {
    let offset = zone.to_offset(at);
    let end = zone.following(at).find(|next| next.offset() != offset);
    Span { offset, end: end.map(|next| next.timestamp()) }
}
