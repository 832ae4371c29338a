//! When the CA is rotated, and which stage comes next. No stage requires a sidecar to restart.
//!
//! ```text
//!            Begin              Switch              Finish
//!   idle ────────► distribute ────────► sign ──────────────► idle
//!                  both roots are       the new CA signs,    the old root and the
//!                  trusted, the         both roots are       cross-signed certificates
//!                  old CA signs         trusted              are removed
//! ```
//! Each step is one write of the Secret, and the Secret records the stage: a sentry may crash at any
//! point and any replica continues. `identity::Bundle::cross_sign` makes the certificates of each
//! stage.

use std::fmt;
use std::time::Duration;

use identity::Bundle;
use identity::stored::Source;
use jiff::{SignedDuration, Timestamp};

/// Time after which every kubelet has projected a changed `ConfigMap` into its pods.
const CONFIG_MAP_PROPAGATION: Duration = Duration::from_mins(2);

/// A stage of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Both roots are published, the old issuer signs.
    Distribute,
    /// Both roots are published, the new issuer signs.
    Sign,
}

impl Stage {
    /// Parses the stored form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Distribute, Self::Sign].into_iter().find(|stage| stage.to_string() == text)
    }
}

/// The stored form.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Distribute => "distribute",
            Self::Sign => "sign",
        })
    }
}

/// A rotation in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The current stage.
    pub(crate) stage: Stage,
    /// When the stage began.
    pub(crate) since: Timestamp,
}

/// Running sidecars that do not trust the new root. A sidecar reads its trust anchors once, at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StaleSidecars {
    /// They could not be counted.
    Unknown,
    /// Their number.
    Count(usize),
}

/// The CA that is stored for the next stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextCa {
    /// There is none, or it will never be usable.
    Missing,
    /// It is not valid yet: the replica that made it has a clock that is ahead of this one.
    NotYetValid,
    /// It can sign now.
    Ready,
}

/// The state that a rotation step depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State<'a> {
    /// The stored CA; `None` if it cannot sign, which includes an expired one.
    pub(crate) bundle: Option<&'a Bundle>,
    /// Which Secret keys hold it.
    pub(crate) source: Source,
    /// Whether sentry wrote the stored CA and it is unchanged since.
    pub(crate) ours: bool,
    /// The rotation in progress.
    pub(crate) progress: Option<Progress>,
    /// The CA of the next stage.
    pub(crate) next: NextCa,
    /// Whether a rotation was requested by annotation.
    pub(crate) requested: bool,
    /// Sidecars that do not trust the new root.
    pub(crate) stale: StaleSidecars,
}

/// The timing of rotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Lifetime of leaf certificates.
    pub(crate) ttl: Duration,
    /// Tolerated difference between clocks.
    pub(crate) clock_skew: Duration,
    /// Remaining share of the CA's lifetime, in percent, at which a rotation begins; 0 disables it.
    pub(crate) rotate_at: u8,
    /// Minimum time for which the old root stays trusted after the new issuer starts to sign.
    pub(crate) keep_retired: Duration,
}

/// The next step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to do now.
    Wait,
    /// Create the next CA, store it, and publish its root.
    Begin,
    /// Sign with the next CA.
    Switch,
    /// Remove the old root.
    Finish,
    /// Abort the rotation: the stored CA was replaced from outside, or the next CA is lost.
    Abort,
    /// Reject a requested rotation: cert-manager owns the CA in the Secret.
    Reject,
}

/// Decides the next step at time `now`.
pub(crate) fn plan(now: Timestamp, state: &State<'_>, timing: &Timing) -> Step {
    match state.progress {
        Some(_) if !state.ours => Step::Abort,
        Some(Progress { stage: Stage::Distribute, since }) => match state.next {
            NextCa::Missing => Step::Abort,
            NextCa::NotYetValid => Step::Wait,
            NextCa::Ready => when(is_distributed(now, since, state, timing), Step::Switch),
        },
        Some(Progress { stage: Stage::Sign, since }) => {
            when(is_retired(now, since, state, timing), Step::Finish)
        }
        None => plan_idle(now, state, timing),
    }
}

fn plan_idle(now: Timestamp, state: &State<'_>, timing: &Timing) -> Step {
    let Some(bundle) = state.bundle else { return Step::Wait };
    match (state.source, state.requested) {
        (Source::CertManager, true) => Step::Reject,
        (Source::Native, true) => Step::Begin,
        (Source::Native, false) if state.ours && is_due(now, bundle, timing.rotate_at) => {
            Step::Begin
        }
        _ => Step::Wait,
    }
}

/// Whether the remaining lifetime of the issuer or the root is below the threshold.
fn is_due(now: Timestamp, bundle: &Bundle, rotate_at: u8) -> bool {
    let issuer = bundle.issuer();
    let issuer = Some((issuer.not_before(), issuer.not_after()));
    [issuer, bundle.root(now)].into_iter().flatten().any(|(start, end)| {
        let life = start.duration_until(end).as_secs_f64();
        now.duration_until(end).as_secs_f64() < life * f64::from(rotate_at) / 100.0
    })
}

/// Whether the new root is distributed. A CA that is about to expire does not wait: its leaves would
/// get shorter and shorter.
fn is_distributed(now: Timestamp, since: Timestamp, state: &State<'_>, timing: &Timing) -> bool {
    let ends = state.bundle.map(|bundle| bundle.cross_signed_until().unwrap_or(Timestamp::MAX));
    let in_time = ends.is_some_and(|end| after(now, timing.ttl) <= end);
    !in_time
        || now >= after(since, timing.ttl.saturating_mul(2))
        || (state.stale == StaleSidecars::Count(0) && now >= after(since, CONFIG_MAP_PROPAGATION))
}

/// Whether the old root can be removed: no running sidecar depends on it, or the cross-signed
/// certificates have expired and it no longer helps.
fn is_retired(now: Timestamp, since: Timestamp, state: &State<'_>, timing: &Timing) -> bool {
    let Some(bundle) = state.bundle else { return false };
    let leaves_end = timing.ttl.saturating_add(timing.clock_skew);
    let waited = now >= after(since, leaves_end.max(timing.keep_retired));
    bundle.cross_signed_until().is_none_or(|end| now > end)
        || (waited && state.stale == StaleSidecars::Count(0))
}

fn when(condition: bool, step: Step) -> Step {
    if condition { step } else { Step::Wait }
}

/// `at + by`, saturating.
fn after(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use testkit::ca::Ca;

    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    const TIMING: Timing = Timing {
        ttl: Duration::from_hours(24),
        clock_skew: Duration::from_mins(15),
        rotate_at: 33,
        keep_retired: Duration::ZERO,
    };

    fn later(start: Timestamp, seconds: i64) -> Timestamp {
        start + SignedDuration::from_secs(seconds)
    }

    fn now() -> Timestamp {
        runtime::clock::now()
    }

    /// A CA with a lifetime of one year, in each stage.
    struct Fixture {
        old: Bundle,
        distribute: Bundle,
        sign: Bundle,
        start: Timestamp,
    }

    impl Fixture {
        fn new() -> Self {
            let (start, ca) = (now(), Ca::new());
            let made = ca.cross_signed();
            let (distribute, sign) = (parse(&made.distribute), parse(&made.sign));
            Self { old: parse(ca.pem()), distribute, sign, start }
        }
    }

    fn parse(pem: &identity::BundlePem) -> Bundle {
        let (anchors, chain, key) = (&pem.anchors, &pem.issuer_chain, &pem.issuer_key);
        Bundle::parse(anchors.as_bytes(), chain.as_bytes(), key.as_bytes(), now()).unwrap()
    }

    fn state(bundle: &Bundle) -> State<'_> {
        State {
            bundle: Some(bundle),
            source: Source::Native,
            ours: true,
            progress: None,
            next: NextCa::Missing,
            requested: false,
            stale: StaleSidecars::Unknown,
        }
    }

    #[rstest]
    #[case::young(0, true, Step::Wait)]
    #[case::two_thirds(243 * DAY, true, Step::Wait)]
    #[case::old(246 * DAY, true, Step::Begin)]
    #[case::user_provided(246 * DAY, false, Step::Wait)]
    #[case::clock_an_hour_back(-HOUR, true, Step::Wait)]
    fn rotates_its_own_ca_before_it_expires(
        #[case] age: i64,
        #[case] ours: bool,
        #[case] want: Step,
    ) {
        let fixture = Fixture::new();
        let state = State { ours, ..state(&fixture.old) };
        let now = later(fixture.start, age);
        assert_eq!(plan(now, &state, &TIMING), want);
        assert_eq!(
            plan(now, &state, &Timing { rotate_at: 0, ..TIMING }),
            Step::Wait,
            "rotation is disabled"
        );
    }

    #[test]
    fn rotates_any_ca_on_request_unless_cert_manager_owns_it() {
        let fixture = Fixture::new();
        let requested = State { requested: true, ours: false, ..state(&fixture.old) };
        assert_eq!(plan(fixture.start, &requested, &TIMING), Step::Begin);
        let rejected = State { source: Source::CertManager, ..requested };
        assert_eq!(plan(fixture.start, &rejected, &TIMING), Step::Reject);
    }

    #[rstest]
    #[case::at_once(0, StaleSidecars::Count(0), Step::Wait)]
    #[case::projected(3 * 60, StaleSidecars::Count(0), Step::Switch)]
    #[case::stale_sidecars(3 * 60, StaleSidecars::Count(1), Step::Wait)]
    #[case::unknown_sidecars(3 * 60, StaleSidecars::Unknown, Step::Wait)]
    #[case::two_lifetimes(2 * DAY, StaleSidecars::Count(1), Step::Switch)]
    #[case::clock_an_hour_back(-HOUR, StaleSidecars::Count(0), Step::Wait)]
    #[case::old_ca_nearly_expired(364 * DAY + HOUR, StaleSidecars::Unknown, Step::Switch)]
    fn switches_when_the_new_root_is_distributed(
        #[case] age: i64,
        #[case] stale: StaleSidecars,
        #[case] want: Step,
    ) {
        let fixture = Fixture::new();
        let progress = Some(Progress { stage: Stage::Distribute, since: fixture.start });
        let state = State { progress, stale, next: NextCa::Ready, ..state(&fixture.distribute) };
        assert_eq!(plan(later(fixture.start, age), &state, &TIMING), want);
    }

    #[rstest]
    #[case::at_once(0, StaleSidecars::Count(0), Step::Wait)]
    #[case::leaves_valid(DAY, StaleSidecars::Count(0), Step::Wait)]
    #[case::leaves_expired(DAY + HOUR, StaleSidecars::Count(0), Step::Finish)]
    #[case::stale_sidecars(100 * DAY, StaleSidecars::Count(1), Step::Wait)]
    #[case::unknown_sidecars(100 * DAY, StaleSidecars::Unknown, Step::Wait)]
    #[case::cross_signed_expired(366 * DAY, StaleSidecars::Count(1), Step::Finish)]
    #[case::clock_an_hour_back(-HOUR, StaleSidecars::Count(0), Step::Wait)]
    fn removes_the_old_root_when_no_sidecar_needs_it(
        #[case] age: i64,
        #[case] stale: StaleSidecars,
        #[case] want: Step,
    ) {
        let fixture = Fixture::new();
        let progress = Some(Progress { stage: Stage::Sign, since: fixture.start });
        let state = State { progress, stale, ..state(&fixture.sign) };
        assert_eq!(plan(later(fixture.start, age), &state, &TIMING), want);
    }

    #[test]
    fn keeps_the_old_root_for_the_configured_time() {
        let fixture = Fixture::new();
        let progress = Some(Progress { stage: Stage::Sign, since: fixture.start });
        let state = State { progress, stale: StaleSidecars::Count(0), ..state(&fixture.sign) };
        let timing = Timing { keep_retired: Duration::from_hours(30 * 24), ..TIMING };
        assert_eq!(plan(later(fixture.start, 29 * DAY), &state, &timing), Step::Wait);
        assert_eq!(plan(later(fixture.start, 31 * DAY), &state, &timing), Step::Finish);
    }

    #[test]
    fn an_expired_ca_is_replaced_by_the_next_one() {
        let fixture = Fixture::new();
        let progress = Some(Progress { stage: Stage::Distribute, since: fixture.start });
        let expired = State { bundle: None, progress, next: NextCa::Ready, ..state(&fixture.old) };
        assert_eq!(plan(later(fixture.start, 400 * DAY), &expired, &TIMING), Step::Switch);
        let alone = State { progress: None, next: NextCa::Missing, ..expired };
        assert_eq!(plan(later(fixture.start, 400 * DAY), &alone, &TIMING), Step::Wait);
    }

    #[test]
    fn a_replaced_ca_or_a_lost_next_ca_aborts_the_rotation() {
        let fixture = Fixture::new();
        for stage in [Stage::Distribute, Stage::Sign] {
            let progress = Some(Progress { stage, since: fixture.start });
            let foreign =
                State { ours: false, progress, next: NextCa::Ready, ..state(&fixture.old) };
            assert_eq!(plan(fixture.start, &foreign, &TIMING), Step::Abort);
            assert_eq!(Stage::parse(&stage.to_string()), Some(stage));
        }
        let progress = Some(Progress { stage: Stage::Distribute, since: fixture.start });
        let lost = State { progress, ..state(&fixture.distribute) };
        assert_eq!(plan(fixture.start, &lost, &TIMING), Step::Abort);
        let early = State { next: NextCa::NotYetValid, ..lost };
        assert_eq!(plan(later(fixture.start, 3 * DAY), &early, &TIMING), Step::Wait);
        assert_eq!(Stage::parse("else"), None);
    }
}
