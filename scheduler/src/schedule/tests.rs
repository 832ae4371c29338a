use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use rstest::rstest;

use super::point::Point;
use super::{Begin, Spec, Timetable, parse_schedule, point, validate};

const NOW: i64 = 1_700_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn spec<'a>(
    schedule: impl Into<Option<&'a str>>,
    due_time: impl Into<Option<&'a str>>,
    ttl: impl Into<Option<&'a str>>,
    repeats: impl Into<Option<u32>>,
) -> Spec<'a> {
    Spec {
        schedule: schedule.into(),
        due_time: due_time.into(),
        ttl: ttl.into(),
        repeats: repeats.into(),
    }
}

#[rstest]
#[case::nothing(spec(None, None, None, None), "job must have either a due time or a schedule")]
#[case::only_repeats(spec(None, None, None, 2), "job must have either a due time or a schedule")]
#[case::repeats(spec(None, "0s", None, 2), "job must have a schedule to repeat")]
#[case::zero_repeats(spec("@daily", None, None, 0), "defined repeats must be greater than 0")]
#[case::zero_repeats_once(spec(None, "0s", None, 0), "defined repeats must be greater than 0")]
#[case::ttl(spec(None, "0s", "1s", None), "job must have a schedule to have a ttl")]
#[case::schedule_first(spec("", "x", "x", None), "empty spec string")]
#[case::due_before_ttl(spec("@daily", "x", "x", None), "due time format not recognized")]
#[case::empty_due_time(spec("@daily", "", None, None), "due time format not recognized")]
#[case::due_repeats(spec("@daily", "R2/PT1S", None, None), "repeats not supported for due time")]
#[case::ttl_text(spec("@daily", "0s", "x", None), "ttl format not recognized")]
#[case::ttl_repeats(spec("@daily", None, "R2/PT1S", None), "ttl format not recognized")]
#[case::ttl_early(spec("@daily", "2s", "-1s", None), "ttl must be greater than due time")]
#[case::never(spec("0 0 0 30 2 *", None, None, None), "schedule never matches: 0 0 0 30 2 *")]
#[case::backwards(
    spec("@every -1s", None, None, None),
    "interval must not be negative: @every -1s"
)]
fn refuses_requests(#[case] spec: Spec<'_>, #[case] reason: &str) {
    assert_eq!(validate(&spec, at(0)).unwrap_err().to_string(), reason);
}

#[rstest]
#[case::schedule(spec("@every 5s", None, None, None), Begin::Start(at(0)), None)]
#[case::due(spec(None, "10s", None, 1), Begin::DueTime(at(10)), None)]
#[case::past(spec(None, "-10s", None, None), Begin::DueTime(at(-10)), None)]
#[case::ttl_from_now(spec("@every 5s", None, "7s", None), Begin::Start(at(0)), Some(at(7)))]
#[case::ttl_from_due(spec("@every 5s", "2s", "7s", None), Begin::DueTime(at(2)), Some(at(9)))]
#[case::ttl_at_due(spec("@every 5s", "2s", "0s", None), Begin::DueTime(at(2)), Some(at(2)))]
#[case::unmatched(spec("0 0 0 30 2 *", "2s", None, None), Begin::DueTime(at(2)), None)]
fn resolves_relative_times(
    #[case] spec: Spec<'_>,
    #[case] begin: Begin,
    #[case] expiration: Option<Timestamp>,
) {
    let timetable = validate(&spec, at(0)).unwrap();
    assert_eq!((timetable.begin(), timetable.expiration()), (begin, expiration));
    let restored = Timetable::restore(begin, expiration, spec.schedule, spec.repeats);
    assert_eq!(restored, Ok(timetable), "what is stored says the same");
}

#[rstest]
#[case("9999-12-30T22:00:00.999999999Z")]
#[case("9999-12-30T22:00:01Z")]
#[case("9999-12-31T23:59:59.999999999Z")]
#[case("9999-12-31T23:59:59-23:59")]
fn the_end_of_the_last_year_is_the_last_instant(#[case] text: &str) {
    let Some(Point::At(at)) = point::resolve(text, at(0)) else { panic!("{text} is refused") };
    assert_eq!(at, Timestamp::MAX);
    let before = "9999-12-31T00:00:00+05:00".to_owned();
    let want: Timestamp = "9999-12-30T19:00:00Z".parse().unwrap();
    assert_eq!(point::resolve(&before, self::at(0)), Some(Point::At(want)));
    assert!(validate(&spec(None, text, None, None), self::at(0)).is_ok());
}

/// The ticks of a job whose deliveries all succeed, at most five.
fn ticks(spec: &Spec<'_>) -> Vec<Timestamp> {
    let timetable = validate(spec, at(0)).unwrap();
    let mut ticks = Vec::new();
    while let Some(tick) =
        timetable.next(u32::try_from(ticks.len()).unwrap(), ticks.last().copied())
        && ticks.len() < 5
    {
        ticks.push(tick);
    }
    ticks
}

#[rstest]
#[case::once(spec(None, "3s", None, None), &[3])]
#[case::interval(spec("@every 2s", None, None, 3), &[2, 4, 6])]
#[case::ttl(spec("@every 1s", None, "3s", None), &[1, 2, 3])]
#[case::due_first(spec("@every 2s", "7s", None, 2), &[7, 9])]
#[case::due_beside_cron(spec("0 * * * * *", "3s", None, 3), &[3, 40, 100])]
#[case::missed(spec("@every 5s", "-10s", "12s", None), &[-10, -5, 0])]
#[case::back_to_back(spec("@every 0s", None, None, 3), &[0, 0, 0])]
#[case::unmatched(spec("0 0 0 30 2 *", "2s", None, None), &[2])]
#[case::expired_before_first(spec("@every 5s", None, "3s", None), &[])]
fn ticks_follow_the_schedule(#[case] spec: Spec<'_>, #[case] want: &[i64]) {
    assert_eq!(ticks(&spec), want.iter().map(|&second| at(second)).collect::<Vec<_>>());
}

#[test]
fn endless_back_to_back_ticks_are_a_millisecond_apart() {
    let ticks = ticks(&spec("@every 0s", "0s", None, None));
    let millisecond = |n| at(0) + SignedDuration::from_millis(n);
    assert_eq!(ticks, (0..5).map(millisecond).collect::<Vec<_>>());
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,40}", second in -70_000_000_000i64..200_000_000_000) {
        let from = Timestamp::from_second(second).unwrap();
        let _ = point::resolve(&text, from);
        if let Ok(schedule) = parse_schedule(&text) {
            let _ = schedule.next(from);
        }
    }

    #[test]
    fn no_instant_panics(
        fields in prop::array::uniform6("[*]|[0-9]{1,2}|[0-9]-[0-9]{1,2}|[*]/[0-9]{1,2}"),
        zone in prop::sample::select(vec!["", "TZ=Pacific/Apia ", "TZ=America/St_Johns "]),
        second in -377_705_023_201i64..=253_402_207_200,
    ) {
        let from = Timestamp::from_second(second).unwrap();
        if let Ok(schedule) = parse_schedule(&format!("{zone}{}", fields.join(" ")))
            && let Some(next) = schedule.next(from)
        {
            prop_assert!(next > from);
        }
    }
}
