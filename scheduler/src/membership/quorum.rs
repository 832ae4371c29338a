//! The meaning of the members' keys for one member. Pure. Source of the rules of the compatible
//! mode: Dapr 1.18, asked by experiment; its schedulers and ours may be members together.
//!
//! *Compatible mode.* A member writes the number of keys that it counts into its own key. Jobs are
//! triggered while every key has the same number, and that is the number of keys. A member stops its
//! jobs before it writes another number, so no job ever has two owners.
//!
//! The number alone does not identify members: when one leaves and another joins before a third
//! reads the keys, all numbers agree and the third still has the jobs of the old members. So ours
//! write their key again after each join, and wait until the others did. Those of Dapr 1.18 do not
//! write again when the number is the same; after the time of a lease their keys are accepted.
//!
//! *Native mode*, while every member has a second key, which those of Dapr 1.18 do not write.
//! The number is then [`NATIVE`], which no count equals: a member of Dapr 1.18 that joins waits for
//! all numbers, and so for all jobs of the native mode to stop. A member enters the native mode when
//! all numbers are [`NATIVE`], for which each had to stop its part of the compatible mode. In the
//! native mode [`super::shards`] says whose jobs they are, and nobody waits for the others.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;
use prost_types::Any;
use proto::cron::Leadership;
use proto::scheduler::Host;

use super::ownership::Part;
use crate::engine::event::Share;
use crate::store::etcd::lease::Table;
use crate::store::{Entry, Revision, keys};

const HOST_TYPE: &str = "type.googleapis.com/dapr.proto.scheduler.v1.Host";

/// The number in the key of a member that has no part of the jobs by number.
pub(super) const NATIVE: u64 = 0;

/// How members share the jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// By number, with members of Dapr 1.18.
    Compatible,
    /// By shards.
    Native,
}

/// The record of a member's key.
pub(crate) fn record(total: u64, uid: u64, address: &str) -> Bytes {
    let host = Host { address: address.to_owned() }.encode_to_vec();
    let replica_data = Some(Any { type_url: HOST_TYPE.to_owned(), value: host });
    Leadership { total, uid, replica_data }.encode_to_vec().into()
}

/// This member.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) id: String,
    pub(super) address: String,
    /// Differs between processes.
    pub(super) uid: u64,
    /// The current lease.
    pub(super) lease: i64,
    /// Whether the keys were written with the lease.
    pub(super) joined: bool,
}

impl Own {
    /// Both keys, with this number.
    pub(super) fn pairs(&self, total: u64) -> [(Bytes, Bytes); 2] {
        let record = record(total, self.uid, &self.address);
        [(key(&self.id), record), (member_key(&self.id), Bytes::new())]
    }
}

/// The members that share the jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Team {
    /// In the order of their keys.
    pub(super) ids: Vec<String>,
    /// Their addresses, in the same order.
    pub(super) hosts: Vec<String>,
    /// This member's part of concurrency limits.
    pub(super) share: Share,
}

/// The consequence of the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Write the own keys, for the native mode: they do not exist, or hold no lease and so never
    /// end.
    Join { replaces: Option<Revision> },
    /// Stop the jobs, then write this number with a lease of this mode.
    Enter { mode: Mode, total: u64, replaces: Revision },
    /// Stop the jobs, then write another number into the own key.
    Recount { total: u64, replaces: Revision },
    /// Wait for a change; stop the jobs of the compatible mode.
    Wait,
    /// As [`Step::Wait`], for a member that has not written its key since another one came.
    Confirm,
    /// The jobs of this part are this member's.
    Run(Part, Team),
    /// Share the jobs by shards.
    Divide(Team),
    /// The own key was deleted or overwritten: join again with another lease.
    Lost,
}

/// Judges all keys at one revision. `settled`: for the time of a lease the answer was
/// [`Step::Confirm`].
pub(super) fn assess(own: &Own, table: &Table, settled: bool) -> Step {
    let entries = &table.leadership;
    let own_key = key(&own.id);
    let Some((index, entry)) = (0..).zip(entries).find(|(_, entry)| entry.key == own_key) else {
        return if own.joined { Step::Lost } else { Step::Join { replaces: None } };
    };
    let replaces = entry.record.mod_revision;
    let members: Vec<Option<Leadership>> =
        entries.iter().map(|entry| Leadership::decode(entry.record.value.clone()).ok()).collect();
    let second = leases(&table.members);
    let is_native = |entry: &Entry| {
        second.get(id(entry)).is_some_and(|lease| *lease != 0 && *lease == entry.record.lease)
    };
    let total = members.get(index).and_then(|member| {
        let member = member.as_ref().filter(|member| member.uid == own.uid)?;
        let is_own = entry.record.lease.cast_signed() == own.lease && is_native(entry);
        is_own.then_some(member.total)
    });
    let Some(total) = total else {
        return match (own.joined, entry.record.lease) {
            (true, _) => Step::Lost,
            (false, 0) => Step::Join { replaces: Some(replaces) },
            // The key of an earlier process, or of another one with the same id.
            (false, _) => Step::Wait,
        };
    };
    let team = || team(own, entries, &members);
    let all_have = |total: u64| {
        members.iter().all(|member| member.as_ref().is_some_and(|member| member.total == total))
    };
    if entries.iter().all(is_native) {
        return match total {
            NATIVE if all_have(NATIVE) => Step::Divide(team()),
            NATIVE => Step::Wait,
            _ => Step::Enter { mode: Mode::Native, total: NATIVE, replaces },
        };
    }
    let count = entries.len() as u64;
    if total == NATIVE {
        return Step::Enter { mode: Mode::Compatible, total: count, replaces };
    }
    if total != count || !knows_all(entry, entries) {
        return Step::Recount { total: count, replaces };
    }
    if !all_have(count) {
        return Step::Wait;
    }
    if !settled && !entries.iter().all(|entry| knows_all(entry, entries)) {
        return Step::Confirm;
    }
    let part = Part { key: own_key, epoch: replaces, index: index as u64, total: count };
    Step::Run(part, team())
}

fn team(own: &Own, entries: &[Entry], members: &[Option<Leadership>]) -> Team {
    let ids = entries.iter().map(|entry| id(entry).to_owned()).collect();
    let hosts: Vec<String> = members.iter().flatten().map(address).collect();
    let share = share(&own.address, &hosts);
    Team { ids, hosts, share }
}

/// The leases of second keys, by id.
fn leases(members: &[Entry]) -> HashMap<&str, u64> {
    let lease = |entry: &'_ Entry| entry.record.lease;
    members.iter().map(|entry| (suffix(entry, keys::MEMBERS), lease(entry))).collect()
}

/// The id of a member.
fn id(entry: &Entry) -> &str {
    suffix(entry, keys::LEADERSHIP)
}

/// Ids that are no UTF-8 are of nobody.
fn suffix<'a>(entry: &'a Entry, prefix: &str) -> &'a str {
    let suffix = entry.key.strip_prefix(prefix.as_bytes());
    suffix.and_then(|suffix| std::str::from_utf8(suffix).ok()).unwrap_or_default()
}

/// Whether a member wrote its key after every other member came.
fn knows_all(member: &Entry, entries: &[Entry]) -> bool {
    let others = entries.iter().filter(|other| other.key != member.key);
    let mut came = others.map(|other| other.record.create_revision);
    came.all(|revision| revision < member.record.mod_revision)
}

/// The position of the own address in the sorted list; equal ones count as the first of them.
fn share(own: &str, hosts: &[String]) -> Share {
    let mut sorted: Vec<&str> = hosts.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let index = sorted.iter().position(|host| *host == own).unwrap_or(0);
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Share { index: small(index), total: small(sorted.len()) }
}

fn address(member: &Leadership) -> String {
    let data = member.replica_data.as_ref();
    data.and_then(|any| Host::decode(any.value.as_slice()).ok()).unwrap_or_default().address
}

/// The key of a member.
pub(super) fn key(id: &str) -> Bytes {
    format!("{}{id}", keys::LEADERSHIP).into()
}

/// The second key of a member that can share jobs by shards.
pub(super) fn member_key(id: &str) -> Bytes {
    format!("{}{id}", keys::MEMBERS).into()
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
