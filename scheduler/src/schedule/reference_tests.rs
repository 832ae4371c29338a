//! Compares with answers of the reference; see `scheduler/tests/fixtures/schedule/README.md`.

use std::str::FromStr as _;

use jiff::{SignedDuration, Timestamp};
use rstest::rstest;

use super::iso::IsoDuration;
use super::point::{self, Point};
use super::{Schedule, parse_schedule};

const NEXT: &str = include_str!("../../tests/fixtures/schedule/next.tsv");
const TEXTS: &str = include_str!("../../tests/fixtures/schedule/texts.tsv");
const POINTS: &str = include_str!("../../tests/fixtures/schedule/points.tsv");

/// Steps where the reference is wrong, of 13,896.
const FAULTS: usize = 124;

/// Nanoseconds of a decimal number of seconds.
fn nanos(text: &str) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    i128::from_str(whole).unwrap() * 1_000_000_000
        + i128::from_str(&format!("{fraction:0<9}")).unwrap()
}

/// The lines of a fixture with their tab-separated columns.
fn rows<const N: usize>(fixture: &'static str) -> impl Iterator<Item = [&'static str; N]> {
    fixture.lines().map(|line| {
        line.split('\t').collect::<Vec<_>>().try_into().unwrap_or_else(|_| panic!("{line}"))
    })
}

/// Whether the local time of an instant has the values that the schedule asks for.
fn matches(schedule: &Schedule, at: Timestamp) -> bool {
    let Schedule::Cron(cron) = schedule else { return true };
    cron.matches(at)
}

/// A tick is wrong when its local time does not match, when it is no later than the one before, or
/// when an earlier instant matches.
fn is_fault(schedule: &Schedule, after: Timestamp, theirs: Timestamp) -> bool {
    let ours = schedule.next(after).unwrap();
    assert!(ours > after && matches(schedule, ours), "{schedule:?} after {after}: {ours}");
    theirs <= after || !matches(schedule, theirs) || ours < theirs
}

#[test]
fn next_instants_are_those_of_the_reference() {
    let (mut equal, mut faults) = (0, 0);
    for [start, spec, steps] in rows(NEXT) {
        let schedule = parse_schedule(spec).unwrap();
        let mut at = Timestamp::from_nanosecond(nanos(start)).unwrap();
        for step in steps.split(' ') {
            if step == "none" {
                assert_eq!(schedule.next(at), None, "{spec} after {at}");
                continue;
            }
            if step == "hangs" {
                assert!(is_fault(&schedule, at, Timestamp::MAX), "{spec} after {at}");
                continue;
            }
            let step = SignedDuration::from_nanos(i64::try_from(nanos(step)).unwrap());
            let want = at.checked_add(step).unwrap();
            if schedule.next(at) == Some(want) {
                equal += 1;
            } else {
                assert!(is_fault(&schedule, at, want), "{spec} after {at}: {want}");
                faults += 1;
            }
            at = want;
        }
    }
    assert!(equal >= 10_000, "{equal}");
    assert_eq!(faults, FAULTS);
}

#[test]
fn schedules_are_refused_with_the_texts_of_the_reference() {
    for [spec, verdict] in rows(TEXTS) {
        let ours = parse_schedule(spec).map_or_else(|error| error.to_string(), |_| "ok".to_owned());
        assert_eq!(ours, verdict, "{spec:?}");
    }
}

#[test]
fn points_in_time_are_those_of_the_reference() {
    for [from, text, want] in rows(POINTS) {
        let from = Timestamp::from_nanosecond(nanos(from)).unwrap();
        let ours = match point::resolve(text, from) {
            Some(Point::At(at)) => {
                assert_eq!(at.as_nanosecond(), nanos(want), "{text:?} from {from}");
                continue;
            }
            Some(Point::Repeated) => "repeated",
            None => "refused",
        };
        assert_eq!(ours, want, "{text:?} from {from}");
    }
}

/// The reference lets these overflow and delivers the job at once.
#[rstest]
#[case::seconds("PT9223372036854775807S")]
#[case::days("P9223372036854775807D")]
#[case::beyond_the_calendar("P8000Y")]
fn refuses_durations_beyond_the_calendar(#[case] text: &str) {
    let from = Timestamp::from_second(1_700_000_000).unwrap();
    assert_eq!(IsoDuration::parse(text).and_then(|duration| duration.add_to(from)), None);
}
