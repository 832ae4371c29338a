//! Why a request is refused, in the reference's words: applications see them.

use resources::go_duration::GoDurationError;

/// Why a schedule, due time or ttl is refused. Source of the texts: Dapr 1.18 by experiment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScheduleError {
    #[error("job must have either a due time or a schedule")]
    NeitherScheduleNorDueTime,
    #[error("job must have a schedule to repeat")]
    RepeatsWithoutSchedule,
    #[error("defined repeats must be greater than 0")]
    NoRepeats,
    #[error("job must have a schedule to have a ttl")]
    TtlWithoutSchedule,
    #[error("empty spec string")]
    Empty,
    #[error("timezone prefix {0} is not followed by a schedule")]
    ZoneWithoutSchedule(String),
    #[error("provided bad location {name}: {reason}")]
    Zone { name: String, reason: String },
    #[error("timezone is not supported for @every schedules: {0}")]
    ZoneOfInterval(String),
    #[error("failed to parse duration {spec}: {reason}")]
    Interval { spec: String, reason: String },
    /// Not an error in the reference, which delivers such a job without end.
    #[error("interval must not be negative: {0}")]
    NegativeInterval(String),
    #[error("unrecognized descriptor: {0}")]
    Descriptor(String),
    #[error("expected exactly 6 fields, found {}: [{}]", .0.len(), .0.join(" "))]
    FieldCount(Vec<String>),
    #[error("too many hyphens: {0}")]
    Hyphens(String),
    #[error("too many slashes: {0}")]
    Slashes(String),
    #[error("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: {reason}")]
    Number { text: String, reason: &'static str },
    #[error("negative number ({number}) not allowed: {text}")]
    NegativeNumber { number: i64, text: String },
    #[error("beginning of range ({start}) below minimum ({minimum}): {range}")]
    BelowMinimum { start: u64, minimum: u64, range: String },
    #[error("end of range ({end}) above maximum ({maximum}): {range}")]
    AboveMaximum { end: u64, maximum: u64, range: String },
    #[error("beginning of range ({start}) beyond end of range ({end}): {range}")]
    Reversed { start: u64, end: u64, range: String },
    #[error("step of range should be a positive number: {0}")]
    ZeroStep(String),
    #[error("due time format not recognized")]
    DueTimeFormat,
    #[error("repeats not supported for due time")]
    DueTimeRepeats,
    #[error("ttl format not recognized")]
    TtlFormat,
    #[error("ttl must be greater than due time")]
    TtlBeforeDueTime,
    /// Not an error in the reference, which delivers such a job without end.
    #[error("schedule never matches: {0}")]
    NeverMatches(String),
}

/// Go's text for a duration that does not parse. Source: Go 1.26, `time.ParseDuration`.
pub(super) fn go_text(error: &GoDurationError, duration: &str) -> String {
    match error {
        GoDurationError::Malformed(_)
        | GoDurationError::Overflow(_)
        | GoDurationError::Negative(_) => format!("time: invalid duration {duration:?}"),
        GoDurationError::MissingUnit(_) => format!("time: missing unit in duration {duration:?}"),
        GoDurationError::UnknownUnit { unit, .. } => {
            format!("time: unknown unit {unit:?} in duration {duration:?}")
        }
    }
}
