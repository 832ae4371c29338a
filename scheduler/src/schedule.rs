//! The schedule language: validation of requests, and due times.
//!
//! Start at [`Timetable`]. `cron` parses schedules and searches their next instant, `field` parses
//! one cron field, `zone` reads the time zone database, `point` and `iso` parse due times and ttls.
//!
//! Source of the language: Dapr 1.18, `Job.schedule`, `due_time`, `ttl` and `repeats`. The fixtures
//! below `scheduler/tests/fixtures` hold answers of the reference.

mod cron;
mod error;
mod field;
mod iso;
mod point;
mod zone;

#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod tests;

use std::num::NonZeroU32;
use std::time::Duration;

use jiff::Timestamp;

use self::cron::Cron;
pub(crate) use self::error::ScheduleError;
use self::point::Point;

/// The distance of the ticks of `@every 0s` when nothing else ends the job. The reference has none
/// and delivers such a job without pause.
const SHORTEST_ENDLESS_INTERVAL: Duration = Duration::from_millis(1);

/// The schedule members of a request, as sent. An empty text counts as present.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spec<'a> {
    /// `Job.schedule`.
    pub(crate) schedule: Option<&'a str>,
    /// `Job.due_time`.
    pub(crate) due_time: Option<&'a str>,
    /// `Job.ttl`.
    pub(crate) ttl: Option<&'a str>,
    /// `Job.repeats`.
    pub(crate) repeats: Option<u32>,
}

/// `stored.Job.begin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Creation time of a job without due time. No tick is at it.
    Start(Timestamp),
    /// The first tick.
    DueTime(Timestamp),
}

/// When a job is due: the checked form of its schedule, due time, ttl and repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timetable {
    begin: Begin,
    expiration: Option<Timestamp>,
    schedule: Option<Schedule>,
    repeats: Option<NonZeroU32>,
}

/// The ticks that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Schedule {
    /// A fixed interval.
    Every(Duration),
    /// Instants whose local time matches six fields.
    Cron(Box<Cron>),
}

/// Checks a request and resolves its relative times.
///
/// # Errors
/// In the order of [`ScheduleError`]'s variants; the text is the reason that the reference gives.
pub(crate) fn validate(spec: &Spec<'_>, now: Timestamp) -> Result<Timetable, ScheduleError> {
    if spec.schedule.is_none() {
        if spec.due_time.is_none() {
            return Err(ScheduleError::NeitherScheduleNorDueTime);
        }
        if spec.repeats.is_some_and(|repeats| repeats > 1) {
            return Err(ScheduleError::RepeatsWithoutSchedule);
        }
    }
    let repeats = spec
        .repeats
        .map(|repeats| NonZeroU32::new(repeats).ok_or(ScheduleError::NoRepeats))
        .transpose()?;
    if spec.schedule.is_none() && spec.ttl.is_some() {
        return Err(ScheduleError::TtlWithoutSchedule);
    }
    let schedule = spec.schedule.map(parse_schedule).transpose()?;
    let due_time = spec.due_time.map(|text| parse_due_time(text, now)).transpose()?;
    let expiration = spec.ttl.map(|text| parse_ttl(text, due_time.unwrap_or(now))).transpose()?;
    if let (Some(due), Some(end)) = (due_time, expiration)
        && end < due
    {
        return Err(ScheduleError::TtlBeforeDueTime);
    }
    let begin = due_time.map_or(Begin::Start(now), Begin::DueTime);
    if let (Begin::Start(start), Some(schedule)) = (begin, &schedule)
        && schedule.next(start).is_none()
    {
        return Err(ScheduleError::NeverMatches(spec.schedule.unwrap_or_default().to_owned()));
    }
    Ok(Timetable { begin, expiration, schedule, repeats })
}

fn parse_due_time(text: &str, now: Timestamp) -> Result<Timestamp, ScheduleError> {
    match point::resolve(text, now) {
        Some(Point::At(at)) => Ok(at),
        Some(Point::Repeated) => Err(ScheduleError::DueTimeRepeats),
        None => Err(ScheduleError::DueTimeFormat),
    }
}

fn parse_ttl(text: &str, from: Timestamp) -> Result<Timestamp, ScheduleError> {
    match point::resolve(text, from) {
        Some(Point::At(at)) => Ok(at),
        Some(Point::Repeated) | None => Err(ScheduleError::TtlFormat),
    }
}

impl Timetable {
    /// The timetable of a stored record.
    ///
    /// # Errors
    /// The schedule does not parse, `repeats` is zero, or a job without schedule has no due time.
    pub(crate) fn restore(
        begin: Begin,
        expiration: Option<Timestamp>,
        schedule: Option<&str>,
        repeats: Option<u32>,
    ) -> Result<Self, ScheduleError> {
        let schedule = schedule.map(parse_schedule).transpose()?;
        if schedule.is_none() && matches!(begin, Begin::Start(_)) {
            return Err(ScheduleError::NeitherScheduleNorDueTime);
        }
        let repeats = repeats
            .map(|repeats| NonZeroU32::new(repeats).ok_or(ScheduleError::NoRepeats))
            .transpose()?;
        Ok(Self { begin, expiration, schedule, repeats })
    }

    /// `stored.Job.begin`.
    pub(crate) fn begin(&self) -> Begin {
        self.begin
    }

    /// `stored.Job.expiration`.
    pub(crate) fn expiration(&self) -> Option<Timestamp> {
        self.expiration
    }

    /// The scheduled time of the tick that follows `finished` ticks, of which `last` was the
    /// latest; `None` when the job has ended. The time may lie in the past: no tick is left out.
    pub(crate) fn next(&self, finished: u32, last: Option<Timestamp>) -> Option<Timestamp> {
        if self.repeats.is_some_and(|repeats| finished >= repeats.get()) {
            return None;
        }
        let tick = match (&self.schedule, last, self.begin) {
            (None, None, Begin::DueTime(at)) if finished == 0 => at,
            (None, ..) => return None,
            (Some(_), None, Begin::DueTime(at)) => at,
            (Some(schedule), None, Begin::Start(at)) => schedule.next(at)?,
            (Some(schedule), Some(last), _) => self.later(schedule, last)?,
        };
        (self.expiration.is_none_or(|end| tick <= end)).then_some(tick)
    }

    fn later(&self, schedule: &Schedule, last: Timestamp) -> Option<Timestamp> {
        match schedule {
            Schedule::Every(interval) if interval.is_zero() && self.repeats.is_none() => {
                last.checked_add(SHORTEST_ENDLESS_INTERVAL).ok()
            }
            schedule => schedule.next(last),
        }
    }
}

impl Schedule {
    /// The first tick after an instant; `None` when there is none.
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(interval) => after.checked_add(*interval).ok(),
            Self::Cron(cron) => cron.next(after),
        }
    }
}

/// Six cron fields or a descriptor, both with an optional time zone, or `@every <duration>`.
fn parse_schedule(text: &str) -> Result<Schedule, ScheduleError> {
    if text.is_empty() {
        return Err(ScheduleError::Empty);
    }
    let (zone, spec) = zone::split(text)?;
    let Some(interval) = spec.strip_prefix("@every ") else {
        return Ok(Schedule::Cron(Box::new(Cron::parse(spec, zone)?)));
    };
    if zone.is_some() {
        return Err(ScheduleError::ZoneOfInterval(text.to_owned()));
    }
    let nanos = resources::go_duration::parse_nanos(interval).map_err(|error| {
        ScheduleError::Interval { spec: spec.to_owned(), reason: error::go_text(&error, interval) }
    })?;
    match u64::try_from(nanos) {
        Ok(nanos) => Ok(Schedule::Every(Duration::from_nanos(nanos))),
        Err(_) => Err(ScheduleError::NegativeInterval(spec.to_owned())),
    }
}
