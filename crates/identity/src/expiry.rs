//! The remaining lifetime of a certificate, in warning thresholds.

use jiff::Timestamp;

/// Warning thresholds, in percent of the lifetime.
const STEPS: [u8; 3] = [5, 15, 30];

/// The lowest threshold that the remaining lifetime is below; `None` above all thresholds.
pub fn expiry_step(not_before: Timestamp, not_after: Timestamp, now: Timestamp) -> Option<u8> {
    let life = not_before.duration_until(not_after).as_secs_f64();
    let left = now.duration_until(not_after).as_secs_f64();
    STEPS.into_iter().find(|percent| left < life * f64::from(*percent) / 100.0)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::fresh(0, None)]
    #[case::plenty(699, None)]
    #[case::a_third(701, Some(30))]
    #[case::little(851, Some(15))]
    #[case::last(951, Some(5))]
    #[case::expired(2000, Some(5))]
    fn warns_in_steps(#[case] age: i64, #[case] want: Option<u8>) {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(expiry_step(at(0), at(1000), at(age)), want);
    }
}
