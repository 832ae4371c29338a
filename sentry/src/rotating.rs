//! Carries out what [`rotation::rotate`] decides. Each step is one write of the Secret; whoever
//! reads it next, this sentry or another, goes on from there.

use std::time::Duration;

use identity::stored::Stored;
use identity::{Bundle, TrustAnchors};
use jiff::{SignedDuration, Timestamp};

use crate::bundle_record::{ANNOTATION_ROTATE, Change};
use crate::events::Reason;
use crate::keeper::Keeper;
use crate::rotation::{self, Followers, Pace, Prepared, Progress, Stage, State, Step};
use crate::store::Read;

/// Sidecars are counted at most this often: it takes a list of all pods.
const COUNT_EVERY: Duration = Duration::from_mins(5);

impl Keeper {
    /// Takes the next step of a rotation if it is time; `true` if there was nothing to write.
    pub(crate) async fn advance(
        &mut self,
        now: Timestamp,
        bundle: Option<&Bundle>,
        read: Read,
    ) -> anyhow::Result<bool> {
        let followers = self.followers(now, &read).await;
        self.metrics.rotation(read.marks.progress.map(|progress| progress.stage), followers);
        let state = state(now, bundle, &read, followers);
        match rotation::rotate(now, &state, &self.pace()) {
            Step::Rest => return Ok(true),
            Step::Begin => return self.begin(now, bundle, read).await,
            Step::Switch => {
                let progress = Some(Progress { stage: Stage::Sign, since: now });
                let change =
                    Change { ca: read.prepared.to_pem(), ours: true, progress, prepared: None };
                let text = "CA rotation: the new issuer signs, both roots are trusted";
                self.step(read, &change, text).await?;
            }
            Step::CleanUp => {
                let Some(settled) = bundle.map(|bundle| bundle.settled(now)) else {
                    return Ok(true);
                };
                let text = "CA rotation: done, the old root is not trusted any more";
                self.step(read, &Change::at_rest(settled?), text).await?;
            }
            Step::Cancel => {
                // A CA of somebody else is not touched; our own goes back to what it was.
                let settled = bundle.filter(|_| read.is_ours()).map(|bundle| bundle.settled(now));
                let change = match settled {
                    Some(settled) => Change::at_rest(settled?),
                    None => Change { ca: None, ours: false, progress: None, prepared: None },
                };
                let text = "CA rotation: given up, because the stored CA is another one or its successor is gone";
                self.step(read, &change, text).await?;
            }
            Step::Decline => {
                let text = format!(
                    "{ANNOTATION_ROTATE} has no effect: tls.crt and tls.key of the Secret are kept by something else, which has to renew them"
                );
                self.say(Reason::RotationRefused, &text).await;
                return Ok(true);
            }
        }
        self.counted = None;
        Ok(false)
    }

    /// Whether a stored CA that cannot be used any more has a successor beside it.
    pub(crate) fn can_go_on(&self, now: Timestamp, read: &Read) -> bool {
        let state = state(now, None, read, Followers::Unknown);
        rotation::rotate(now, &state, &self.pace()) == Step::Switch
    }

    async fn begin(
        &mut self,
        now: Timestamp,
        bundle: Option<&Bundle>,
        read: Read,
    ) -> anyhow::Result<bool> {
        let Some(bundle) = bundle else { return Ok(true) };
        match bundle.successor(&self.options()?, now) {
            Ok(next) => {
                let change = Change {
                    ca: Some(next.distribute),
                    ours: true,
                    progress: Some(Progress { stage: Stage::Distribute, since: now }),
                    prepared: Some(next.sign),
                };
                let text =
                    "CA rotation: begun, the new root is published beside the old one, which signs";
                self.step(read, &change, text).await?;
                self.counted = None;
                Ok(false)
            }
            Err(e) => {
                let text =
                    format!("CA rotation: not possible without restarts: {}", runtime::chain(&e));
                self.say(Reason::RotationRefused, &text).await;
                Ok(true)
            }
        }
    }

    async fn step(&mut self, read: Read, change: &Change, text: &str) -> anyhow::Result<()> {
        self.store.write(read, change).await?;
        self.metrics.rotation(change.progress.map(|progress| progress.stage), Followers::Unknown);
        self.say(Reason::Rotation, text).await;
        Ok(())
    }

    fn pace(&self) -> Pace {
        let settings = self.authority.settings();
        Pace {
            ttl: settings.ttl,
            clock_skew: settings.clock_skew,
            rotate_at: self.policy.rotate_at,
            keep_retired: self.policy.keep_retired,
        }
    }

    /// Who does not know the new root, counted while a rotation is under way.
    async fn followers(&mut self, now: Timestamp, read: &Read) -> Followers {
        let Some(progress) = read.marks.progress else { return Followers::Unknown };
        let every = COUNT_EVERY.min(self.authority.settings().ttl / 4);
        let every = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX);
        if let Some((at, followers)) = self.counted
            && now.duration_since(at).abs() < every
        {
            return followers;
        }
        // The new root stands first in the CA that signs next, and then in the one that signs.
        let anchors = match progress.stage {
            Stage::Distribute => read.prepared.anchors(),
            Stage::Sign => read.stored.anchors(),
        };
        let anchors = anchors.and_then(|text| TrustAnchors::parse_pem(text).ok());
        let followers = match anchors.as_ref().and_then(|anchors| anchors.certs().first()) {
            Some(root) => self.store.without(root).await,
            None => Followers::Unknown,
        };
        self.counted = Some((now, followers));
        followers
    }
}

fn prepared(now: Timestamp, stored: &Stored) -> Prepared {
    if stored.parse(now).is_ok() {
        return Prepared::Ready;
    }
    match stored.life().map(|(start, _)| start) {
        Some(start) if now < start && stored.parse(start).is_ok() => Prepared::NotYet,
        _ => Prepared::Missing,
    }
}

fn state<'a>(
    now: Timestamp,
    bundle: Option<&'a Bundle>,
    read: &Read,
    followers: Followers,
) -> State<'a> {
    State {
        bundle,
        source: read.stored.source(),
        ours: read.is_ours(),
        progress: read.marks.progress,
        prepared: prepared(now, &read.prepared),
        requested: read.marks.requested,
        followers,
    }
}
