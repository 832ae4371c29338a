//! Jobs counted by application and by actor type, without their names. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::table::{Entry, State};
use super::{Engine, LOOK_AHEAD, later};

/// Applications and actor types that are counted by themselves.
pub(crate) const MAX_GROUPS: usize = 1_000;
/// Jobs that one step of a [`Walk`] counts: about a millisecond.
const STEP: usize = 8_192;

/// Whose jobs are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Group {
    namespace: Box<str>,
    kind: Kind,
    /// App id or actor type.
    name: Box<str>,
}

/// What a job triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// A job of an application.
    Job,
    /// A reminder of an actor, or of a workflow.
    Actor,
}

/// The jobs of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    jobs: u64,
    /// Due, but no sidecar is connected that could take them.
    staged: u64,
    /// Due, and wait for a limit or for a sidecar that reads.
    waiting: u64,
    /// Delivered, without an answer.
    in_flight: u64,
    /// When the next one is due; `None` if none waits for its time.
    next_due: Option<Timestamp>,
}

/// Counts of all jobs, as they were while they were counted.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    groups: BTreeMap<Group, Counts>,
    /// Jobs of further groups.
    omitted: u64,
}

/// A count that goes on in steps, so that no delivery waits for it.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Slot of the table to go on from.
    next: usize,
    summary: Summary,
}

impl Group {
    /// The group of a job's key, `KIND||NAMESPACE||NAME||…` (Dapr 1.18). A name with `||` ends there.
    fn of(key: &str) -> Option<Self> {
        let mut parts = key.splitn(4, "||");
        let kind = match parts.next()? {
            "app" => Kind::Job,
            "actorreminder" => Kind::Actor,
            _ => return None,
        };
        let (namespace, name) = (parts.next()?.into(), parts.next()?.into());
        Some(Self { namespace, kind, name })
    }
}

impl Summary {
    /// The groups in their order, with their members beside each other, for JSON.
    pub(crate) fn groups(&self) -> impl Iterator<Item = impl Serialize> {
        #[derive(Serialize)]
        struct Row<'a> {
            #[serde(flatten)]
            group: &'a Group,
            #[serde(flatten)]
            counts: &'a Counts,
        }
        self.groups.iter().map(|(group, counts)| Row { group, counts })
    }

    /// Jobs that are in no group.
    pub(crate) fn omitted(&self) -> u64 {
        self.omitted
    }

    /// Counts of a job's group; `None` if it is in no group.
    fn counts(&mut self, key: &str) -> Option<&mut Counts> {
        let group = Group::of(key)?;
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&group) {
            return None;
        }
        Some(self.groups.entry(group).or_default())
    }
}

impl Engine {
    /// Counts further jobs; returns the summary when all are counted.
    pub(crate) fn count(&self, mut walk: Walk) -> Result<Summary, Walk> {
        for entry in self.jobs.entries(walk.next, STEP) {
            let Some(counts) = walk.summary.counts(&entry.key) else {
                walk.summary.omitted += 1;
                continue;
            };
            counts.jobs += 1;
            let due = match entry.state {
                State::Far(load_at) => Some(later(load_at, LOOK_AHEAD)),
                State::Armed(at) => Some(at),
                State::Waiting => {
                    let is_staged = self.is_staged(entry);
                    *if is_staged { &mut counts.staged } else { &mut counts.waiting } += 1;
                    None
                }
                State::Delivered | State::Leaving => {
                    counts.in_flight += 1;
                    None
                }
                State::Loading { .. } | State::Writing { .. } | State::Stale => None,
            };
            counts.next_due = [counts.next_due, due].into_iter().flatten().min();
        }
        walk.next += STEP;
        if self.jobs.has_slot(walk.next) { Err(walk) } else { Ok(walk.summary) }
    }

    /// Whether no stream could take a due job.
    fn is_staged(&self, entry: &Entry) -> bool {
        let pool = entry.plan.as_ref().and_then(|plan| self.pools.get(plan.pool));
        pool.is_some_and(|pool| !pool.has_streams())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("app||shop||cart||a||b", Some((Kind::Job, "shop", "cart")))]
    #[case("actorreminder||shop||Cat||7||feed", Some((Kind::Actor, "shop", "Cat")))]
    #[case("app||shop", None)]
    #[case("other||shop||cart||a", None)]
    fn a_job_belongs_to_its_application_or_actor_type(
        #[case] key: &str,
        #[case] want: Option<(Kind, &str, &str)>,
    ) {
        let group = Group::of(key);
        let found = group.as_ref().map(|of| (of.kind, &*of.namespace, &*of.name));
        assert_eq!(found, want);
    }

    #[test]
    fn so_many_groups_are_counted_and_no_more() {
        let mut summary = Summary::default();
        for number in 0..MAX_GROUPS {
            assert!(summary.counts(&format!("app||shop||app-{number}||a")).is_some());
        }
        assert!(summary.counts("app||shop||one-more||a").is_none());
        assert!(summary.counts("app||shop||app-0||another").is_some());
    }
}
