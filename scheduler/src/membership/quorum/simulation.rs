//! Members that read the keys at any time, act on what they have read in any order, crash and
//! return, with one of Dapr 1.18 that comes and goes: no job ever has two owners, and in the end
//! each has one.

use std::collections::BTreeMap;

use testkit::Choice;

use super::*;
use crate::membership::ownership::Ownership;
use crate::membership::shards::{self, Claims};
use crate::store::Record;

const HISTORIES: u64 = 50;
const ACTIONS: usize = 250;
/// Partition ids of the jobs that are looked at.
const JOBS: [u64; 6] = [0, 1, 2, 700, 701, 1_023];

/// What a store has, and what it refuses.
#[derive(Default)]
struct Keys {
    revision: Revision,
    entries: BTreeMap<Bytes, Record>,
}

impl Keys {
    fn modified(&self, key: &Bytes) -> Option<Revision> {
        self.entries.get(key).map(|record| record.mod_revision)
    }

    fn put(&mut self, pairs: impl IntoIterator<Item = (Bytes, Bytes)>, lease: i64) -> Revision {
        self.revision += 1;
        for (key, value) in pairs {
            let created = self.entries.get(&key).map(|record| record.create_revision);
            let record = Record {
                create_revision: created.unwrap_or(self.revision),
                mod_revision: self.revision,
                version: 1,
                lease: lease.cast_unsigned(),
                value,
            };
            self.entries.insert(key, record);
        }
        self.revision
    }

    fn revoke(&mut self, lease: i64) {
        self.revision += 1;
        self.entries.retain(|_, record| record.lease.cast_signed() != lease);
    }

    fn below(&self, prefix: &str) -> Vec<Entry> {
        let below = self.entries.iter().filter(|(key, _)| key.starts_with(prefix.as_bytes()));
        below.map(|(key, record)| Entry { key: key.clone(), record: record.clone() }).collect()
    }

    fn table(&self) -> Table {
        Table {
            leadership: self.below(keys::LEADERSHIP),
            members: self.below(keys::MEMBERS),
            shards: self.below(keys::SHARDS),
        }
    }
}

/// One of ours.
struct Member {
    own: Own,
    /// What it has read and not acted upon.
    read: Option<Table>,
    running: Option<Ownership>,
}

/// The one of Dapr 1.18, as it is known by experiment.
#[derive(Default)]
struct Other {
    present: bool,
    read: Option<Table>,
    /// Its part of the jobs.
    running: Option<(u64, u64)>,
}

struct Simulation {
    choice: Choice,
    keys: Keys,
    members: Vec<Member>,
    other: Other,
    /// Jobs that were in the native and in the compatible mode at some time.
    seen: [usize; 2],
}

const OTHER: &str = "ba";
const OTHER_LEASE: i64 = 1_000_000;

impl Simulation {
    fn new(seed: u64) -> Self {
        let member = |(number, id): (i64, &str)| {
            let own = Own {
                id: id.into(),
                address: format!("host-{id}"),
                uid: number.cast_unsigned(),
                lease: number,
                joined: false,
            };
            Member { own, read: None, running: None }
        };
        let members = (1..).zip(["a", "b", "c"]).map(member).collect();
        let (keys, other) = (Keys::default(), Other::default());
        Self { choice: Choice::new(seed), keys, members, other, seen: [0; 2] }
    }

    fn act(&mut self) {
        let at = self.choice.below(self.members.len());
        match self.choice.below(100) {
            0..40 => self.members[at].read = Some(self.keys.table()),
            40..80 => self.step(at, false),
            80..82 => self.crash(at),
            82..84 => self.come_or_go(),
            84..92 => self.other.read = self.other.present.then(|| self.keys.table()),
            _ => self.step_other(),
        }
        self.check();
    }

    /// Its lease ends; its fence has closed before. It returns with another one.
    fn crash(&mut self, at: usize) {
        let member = &mut self.members[at];
        (member.running, member.read) = (None, None);
        self.keys.revoke(member.own.lease);
        member.own.lease += 10;
        member.own.uid += 10;
        member.own.joined = false;
    }

    fn write(&mut self, at: usize, total: u64, lease: i64, replaces: Option<Revision>) -> bool {
        let own = &self.members[at].own;
        let unchanged = self.keys.modified(&key(&own.id)) == replaces;
        if unchanged {
            self.keys.put(own.pairs(total), lease);
        }
        unchanged
    }

    fn step(&mut self, at: usize, settled: bool) {
        let Some(table) = self.members[at].read.take() else { return };
        let own = self.members[at].own.clone();
        let step = assess(&own, &table, settled);
        let running = &mut self.members[at].running;
        let keeps = match running {
            Some(Ownership::Shards(_)) => !matches!(step, Step::Lost | Step::Enter { .. }),
            _ => matches!(step, Step::Run(..)),
        };
        if !keeps {
            *running = None;
        }
        match step {
            Step::Join { replaces } => {
                self.members[at].own.joined = self.write(at, NATIVE, own.lease, replaces);
            }
            Step::Enter { total, replaces, .. } => {
                let lease = own.lease + 10;
                if self.write(at, total, lease, Some(replaces)) {
                    self.keys.revoke(own.lease);
                    self.members[at].own.lease = lease;
                }
            }
            Step::Recount { total, replaces } => {
                self.write(at, total, own.lease, Some(replaces));
            }
            Step::Run(part, _) => self.members[at].running = Some(Ownership::Part(part)),
            Step::Divide(team) => self.divide(at, &table, &team),
            Step::Wait | Step::Confirm => {}
            Step::Lost => self.crash(at),
        }
    }

    fn divide(&mut self, at: usize, table: &Table, team: &Team) {
        let Member { own, running, .. } = &mut self.members[at];
        let mut held = match running.take() {
            Some(Ownership::Shards(held)) => held,
            _ => Claims::new(),
        };
        let found = shards::claims(&table.shards);
        let plan = shards::plan(&own.id, own.lease, &team.ids, &found, &held);
        held.retain(|shard, _| !plan.stop.contains(shard));
        held.extend(plan.adopt);
        for (shard, epoch) in plan.free {
            let key = shards::key(shard);
            if self.keys.modified(&key) == Some(epoch) {
                self.keys.revision += 1;
                self.keys.entries.remove(&key);
            }
        }
        // As the store does: all of them or none.
        let keys: Vec<Bytes> = plan.claim.iter().map(|shard| shards::key(*shard)).collect();
        let is_lost = self.choice.chance(10);
        if keys.iter().all(|key| self.keys.modified(key).is_none()) {
            let pairs = keys.into_iter().map(|key| (key, Bytes::new()));
            let epoch = self.keys.put(pairs, own.lease);
            // Sometimes the answer is lost.
            held.extend(plan.claim.iter().filter(|_| !is_lost).map(|shard| (*shard, epoch)));
        }
        *running = Some(Ownership::Shards(held));
    }

    fn come_or_go(&mut self) {
        if self.other.present {
            self.keys.revoke(OTHER_LEASE);
            self.other = Other::default();
        } else {
            let count = self.keys.below(keys::LEADERSHIP).len() as u64;
            let value = record(count + 1, 99, "host");
            self.keys.put([(key(OTHER), value)], OTHER_LEASE);
            self.other.present = true;
        }
    }

    /// It stops when the numbers differ, counts, and starts when they are equal.
    fn step_other(&mut self) {
        let Some(table) = self.other.read.take() else { return };
        let count = table.leadership.len() as u64;
        let total = |entry: &Entry| Leadership::decode(entry.record.value.clone()).unwrap().total;
        let own = key(OTHER);
        let Some(index) = table.leadership.iter().position(|entry| entry.key == own) else {
            return;
        };
        let agreed = table.leadership.iter().all(|entry| total(entry) == count);
        self.other.running = agreed.then_some((index as u64, count));
        if total(&table.leadership[index]) != count {
            self.keys.put([(own, record(count, 99, "host"))], OTHER_LEASE);
        }
    }

    /// The numbers of owners: by shard, by number, and of Dapr 1.18.
    fn owners(&self, job: u64) -> (usize, usize, usize) {
        let running = || self.members.iter().filter_map(|member| member.running.as_ref());
        let owning = || running().filter(|running| running.epoch(job).is_some());
        let native = owning().filter(|owner| matches!(owner, Ownership::Shards(_))).count();
        let other = self.other.running.is_some_and(|(index, total)| job % total == index);
        (native, owning().count() - native, usize::from(other))
    }

    fn check(&mut self) {
        for job in JOBS {
            let (native, compatible, other) = self.owners(job);
            assert!(native + compatible <= 1, "job {job}: {native} and {compatible} owners");
            // Those of Dapr 1.18 do not see that one member replaced another.
            assert!(native == 0 || other == 0, "job {job} is native and of Dapr 1.18");
            self.seen[0] += native;
            self.seen[1] += compatible;
        }
    }

    /// All read and act in turn, at last for the time of a lease.
    fn settle(&mut self) {
        for round in 0..30 {
            for at in 0..self.members.len() {
                self.members[at].read = Some(self.keys.table());
                self.step(at, round >= 15);
            }
            if self.other.present {
                self.other.read = Some(self.keys.table());
                self.step_other();
            }
            self.check();
        }
        for job in JOBS {
            let (native, compatible, other) = self.owners(job);
            let want = usize::from(!self.other.present);
            assert_eq!((native, native + compatible + other), (want, 1), "job {job}");
        }
    }
}

#[test]
fn no_job_has_two_owners_in_any_order_of_steps() {
    let mut seen = [0; 2];
    for seed in 0..HISTORIES {
        let mut simulation = Simulation::new(seed);
        for _ in 0..ACTIONS {
            simulation.act();
        }
        simulation.settle();
        if simulation.other.present {
            simulation.come_or_go();
            simulation.settle();
        }
        simulation.come_or_go();
        simulation.settle();
        for (all, one) in seen.iter_mut().zip(simulation.seen) {
            *all += one;
        }
    }
    assert!(seen.iter().all(|count| *count as u64 > 100 * HISTORIES), "too quiet: {seen:?}");
}
