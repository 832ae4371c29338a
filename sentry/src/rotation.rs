//! When the CA is replaced by the next one, and how far that is: three stages, none of which asks
//! a sidecar to restart.
//!
//! ```text
//!            Begin              Switch              CleanUp
//!   at rest ──────► distribute ────────► sign ──────────────► at rest
//!                  both roots known,    new CA signs,        old root and
//!                  old CA signs         old root known       crosses are gone
//! ```
//! A stage is one write of the Secret, and what is stored says where it stands: a sentry may die
//! anywhere, and any other one goes on. The certificates of each stage are made by
//! `identity::Bundle::successor`.

use std::fmt;
use std::time::Duration;

use identity::Bundle;
use identity::stored::Source;
use jiff::{SignedDuration, Timestamp};

/// A kubelet has projected a changed `ConfigMap` into every pod after this time.
const PROJECTED: Duration = Duration::from_mins(2);

/// A stage between two CAs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Both roots are published, the old issuer signs.
    Distribute,
    /// Both roots are published, the new issuer signs.
    Sign,
}

impl Stage {
    /// Reads the stored form.
    pub fn parse(text: &str) -> Option<Self> {
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

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The stage.
    pub stage: Stage,
    /// When it began.
    pub since: Timestamp,
}

/// Running sidecars that got their trust anchors when they were created and keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Followers {
    /// They cannot be counted.
    Unknown,
    /// So many do not know the new root.
    Without(usize),
}

/// The CA that is stored for the next stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// There is none that could ever be used.
    Missing,
    /// It was made by a sentry whose clock is ahead, and is not valid yet.
    NotYet,
    /// It can sign now.
    Ready,
}

/// What is stored, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct State<'a> {
    /// The CA; `None` if it cannot be used, which is also how it ends.
    pub bundle: Option<&'a Bundle>,
    /// Where it stands.
    pub source: Source,
    /// Whether sentry wrote it and nobody changed it since.
    pub ours: bool,
    /// A rotation under way.
    pub progress: Option<Progress>,
    /// The next CA.
    pub prepared: Prepared,
    /// Whether somebody asked for a rotation.
    pub requested: bool,
    /// Who does not know the new root yet.
    pub followers: Followers,
}

/// How fast a rotation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Lifetime of a leaf.
    pub ttl: Duration,
    /// How far clocks may differ.
    pub clock_skew: Duration,
    /// Percent of the CA's life at whose rest it is replaced; 0 means never.
    pub rotate_at: u8,
    /// How long the old root stays trusted at least after the new one signs.
    pub keep_retired: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing now.
    Rest,
    /// Make the next CA, store it, and publish its root.
    Begin,
    /// Sign with the next CA.
    Switch,
    /// Forget the former CA.
    CleanUp,
    /// Forget the rotation: somebody else has replaced the CA, or the next one is lost.
    Cancel,
    /// Leave alone a CA that something else keeps in the Secret.
    Decline,
}

/// Decides what to do about the CA's age now.
pub fn rotate(now: Timestamp, state: &State<'_>, pace: &Pace) -> Step {
    match state.progress {
        Some(_) if !state.ours => Step::Cancel,
        Some(Progress { stage: Stage::Distribute, since }) => match state.prepared {
            Prepared::Missing => Step::Cancel,
            Prepared::NotYet => Step::Rest,
            Prepared::Ready => when(is_distributed(now, since, state, pace), Step::Switch),
        },
        Some(Progress { stage: Stage::Sign, since }) => {
            when(is_retired(now, since, state, pace), Step::CleanUp)
        }
        None => at_rest(now, state, pace),
    }
}

fn at_rest(now: Timestamp, state: &State<'_>, pace: &Pace) -> Step {
    let Some(bundle) = state.bundle else { return Step::Rest };
    match (state.source, state.requested) {
        (Source::CertManager, true) => Step::Decline,
        (Source::Native, true) => Step::Begin,
        (Source::Native, false) if state.ours && is_due(now, bundle, pace.rotate_at) => Step::Begin,
        _ => Step::Rest,
    }
}

/// Whether so little of the life of issuer or root is left that they are to be replaced.
fn is_due(now: Timestamp, bundle: &Bundle, rotate_at: u8) -> bool {
    let issuer = bundle.issuer();
    let issuer = Some((issuer.not_before(), issuer.not_after()));
    [issuer, bundle.root(now)].into_iter().flatten().any(|(start, end)| {
        let life = start.duration_until(end).as_secs_f64();
        now.duration_until(end).as_secs_f64() < life * f64::from(rotate_at) / 100.0
    })
}

/// Whether the new root is known as widely as it will be, or the old CA ends: leaves must not get
/// shorter and shorter with it.
fn is_distributed(now: Timestamp, since: Timestamp, state: &State<'_>, pace: &Pace) -> bool {
    let ends = state.bundle.map(|bundle| bundle.crossed_until().unwrap_or(Timestamp::MAX));
    let in_time = ends.is_some_and(|end| after(now, pace.ttl) <= end);
    !in_time
        || now >= after(since, pace.ttl.saturating_mul(2))
        || (state.followers == Followers::Without(0) && now >= after(since, PROJECTED))
}

/// Whether nobody needs the old root any more, or it is of no use because the crosses ended.
fn is_retired(now: Timestamp, since: Timestamp, state: &State<'_>, pace: &Pace) -> bool {
    let Some(bundle) = state.bundle else { return false };
    let leaves_end = pace.ttl.saturating_add(pace.clock_skew);
    let waited = now >= after(since, leaves_end.max(pace.keep_retired));
    bundle.crossed_until().is_none_or(|end| now > end)
        || (waited && state.followers == Followers::Without(0))
}

fn when(condition: bool, step: Step) -> Step {
    if condition { step } else { Step::Rest }
}

/// A moment later, at most the end of time.
fn after(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;
    use testkit::ca::Ca;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    const PACE: Pace = Pace {
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

    /// A CA of a year in each stage.
    struct World {
        old: Bundle,
        distribute: Bundle,
        sign: Bundle,
        start: Timestamp,
    }

    impl World {
        fn new() -> Self {
            let (start, ca) = (now(), Ca::new());
            let made = ca.successor();
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
            prepared: Prepared::Missing,
            requested: false,
            followers: Followers::Unknown,
        }
    }

    #[rstest]
    #[case::young(0, true, Step::Rest)]
    #[case::two_thirds(243 * DAY, true, Step::Rest)]
    #[case::old(246 * DAY, true, Step::Begin)]
    #[case::users(246 * DAY, false, Step::Rest)]
    #[case::clock_an_hour_back(-HOUR, true, Step::Rest)]
    fn replaces_its_own_ca_in_time(#[case] age: i64, #[case] ours: bool, #[case] want: Step) {
        let world = World::new();
        let state = State { ours, ..state(&world.old) };
        let now = later(world.start, age);
        assert_eq!(rotate(now, &state, &PACE), want);
        assert_eq!(rotate(now, &state, &Pace { rotate_at: 0, ..PACE }), Step::Rest, "switched off");
    }

    #[test]
    fn replaces_any_ca_on_demand_unless_something_else_keeps_it() {
        let world = World::new();
        let asked = State { requested: true, ours: false, ..state(&world.old) };
        assert_eq!(rotate(world.start, &asked, &PACE), Step::Begin);
        let kept = State { source: Source::CertManager, ..asked };
        assert_eq!(rotate(world.start, &kept, &PACE), Step::Decline);
    }

    #[rstest]
    #[case::at_once(0, Followers::Without(0), Step::Rest)]
    #[case::projected(3 * 60, Followers::Without(0), Step::Switch)]
    #[case::some_do_not_know(3 * 60, Followers::Without(1), Step::Rest)]
    #[case::nobody_knows_who_knows(3 * 60, Followers::Unknown, Step::Rest)]
    #[case::two_lifetimes(2 * DAY, Followers::Without(1), Step::Switch)]
    #[case::clock_an_hour_back(-HOUR, Followers::Without(0), Step::Rest)]
    #[case::old_ca_nearly_over(364 * DAY + HOUR, Followers::Unknown, Step::Switch)]
    fn signs_when_the_new_root_is_known(
        #[case] age: i64,
        #[case] followers: Followers,
        #[case] want: Step,
    ) {
        let world = World::new();
        let progress = Some(Progress { stage: Stage::Distribute, since: world.start });
        let state =
            State { progress, followers, prepared: Prepared::Ready, ..state(&world.distribute) };
        assert_eq!(rotate(later(world.start, age), &state, &PACE), want);
    }

    #[rstest]
    #[case::at_once(0, Followers::Without(0), Step::Rest)]
    #[case::leaves_live(DAY, Followers::Without(0), Step::Rest)]
    #[case::leaves_ended(DAY + HOUR, Followers::Without(0), Step::CleanUp)]
    #[case::some_do_not_know(100 * DAY, Followers::Without(1), Step::Rest)]
    #[case::nobody_knows_who_knows(100 * DAY, Followers::Unknown, Step::Rest)]
    #[case::crosses_ended(366 * DAY, Followers::Without(1), Step::CleanUp)]
    #[case::clock_an_hour_back(-HOUR, Followers::Without(0), Step::Rest)]
    fn forgets_the_old_root_when_nobody_needs_it(
        #[case] age: i64,
        #[case] followers: Followers,
        #[case] want: Step,
    ) {
        let world = World::new();
        let progress = Some(Progress { stage: Stage::Sign, since: world.start });
        let state = State { progress, followers, ..state(&world.sign) };
        assert_eq!(rotate(later(world.start, age), &state, &PACE), want);
    }

    #[test]
    fn keeps_the_old_root_as_long_as_it_is_told() {
        let world = World::new();
        let progress = Some(Progress { stage: Stage::Sign, since: world.start });
        let followers = Followers::Without(0);
        let state = State { progress, followers, ..state(&world.sign) };
        let pace = Pace { keep_retired: Duration::from_hours(30 * 24), ..PACE };
        assert_eq!(rotate(later(world.start, 29 * DAY), &state, &pace), Step::Rest);
        assert_eq!(rotate(later(world.start, 31 * DAY), &state, &pace), Step::CleanUp);
    }

    #[test]
    fn an_expired_ca_gives_way_to_the_one_that_is_prepared() {
        let world = World::new();
        let progress = Some(Progress { stage: Stage::Distribute, since: world.start });
        let over = State { bundle: None, progress, prepared: Prepared::Ready, ..state(&world.old) };
        assert_eq!(rotate(later(world.start, 400 * DAY), &over, &PACE), Step::Switch);
        let alone = State { progress: None, prepared: Prepared::Missing, ..over };
        assert_eq!(rotate(later(world.start, 400 * DAY), &alone, &PACE), Step::Rest);
    }

    #[test]
    fn a_replaced_ca_or_a_lost_successor_ends_the_rotation() {
        let world = World::new();
        for stage in [Stage::Distribute, Stage::Sign] {
            let progress = Some(Progress { stage, since: world.start });
            let foreign =
                State { ours: false, progress, prepared: Prepared::Ready, ..state(&world.old) };
            assert_eq!(rotate(world.start, &foreign, &PACE), Step::Cancel);
            assert_eq!(Stage::parse(&stage.to_string()), Some(stage));
        }
        let progress = Some(Progress { stage: Stage::Distribute, since: world.start });
        let lost = State { progress, ..state(&world.distribute) };
        assert_eq!(rotate(world.start, &lost, &PACE), Step::Cancel);
        let early = State { prepared: Prepared::NotYet, ..lost };
        assert_eq!(rotate(later(world.start, 3 * DAY), &early, &PACE), Step::Rest);
        assert_eq!(Stage::parse("else"), None);
    }
}
