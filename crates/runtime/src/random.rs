//! Randomness of the process. Only shells use it; cores take it as an argument.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};

/// 64 bits that differ between calls and processes. Good for jitter and names, not for keys: key
/// material comes from the crypto library in `identity`.
pub fn bits() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A number in `[0, 1)`, for jitter.
#[expect(clippy::cast_precision_loss, reason = "the 53 bits that remain fit an f64 exactly")]
pub fn fraction() -> f64 {
    (bits() >> 11) as f64 / (1_u64 << 53) as f64
}

/// `base` changed by at most `share` of itself in either direction, for retries and renewals.
pub fn jittered(base: std::time::Duration, share: f64) -> std::time::Duration {
    base.mul_f64((1.0 + share * (2.0 * fraction() - 1.0)).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fractions_stay_in_range_and_differ() {
        let drawn: Vec<f64> = (0..64).map(|_| fraction()).collect();
        assert!(drawn.iter().all(|x| (0.0..1.0).contains(x)), "{drawn:?}");
        assert!(drawn.windows(2).any(|w| (w[0] - w[1]).abs() > f64::EPSILON), "{drawn:?}");
    }

    #[test]
    fn jitter_stays_within_its_share() {
        let base = std::time::Duration::from_secs(100);
        for _ in 0..64 {
            let got = jittered(base, 0.1).as_secs_f64();
            assert!((90.0..=110.0).contains(&got), "{got}");
        }
    }
}
