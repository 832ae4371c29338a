//! All jobs, by key and by id.

use std::collections::BTreeSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use jiff::Timestamp;

use super::job::JobId;
use super::pool::PoolId;
use super::progress::Progress;
use super::shard::Shard;

/// A job that the engine keeps.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Arc<str>,
    /// `mod_revision` of the job record.
    pub(super) revision: u64,
    pub(super) state: State,
    /// Present unless the job is far from due, being loaded, or stale.
    pub(super) plan: Option<Box<Plan>>,
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Far from due: loaded again at this time.
    Far(Timestamp),
    /// Its record is being read, and is read `again` when the counter changed meanwhile.
    Loading { again: bool },
    /// Waits for this time.
    Armed(Timestamp),
    /// Due, waits in its pool for a stream or a slot.
    Waiting,
    /// On a stream, without an answer.
    Delivered,
    /// As [`State::Delivered`], and forgotten with the answer: its shard goes to another member.
    Leaving,
    /// A result is being written. The job ends afterwards or is armed again.
    Writing { finish: bool },
    /// The store has another version of the job, or a record that cannot be decoded.
    Stale,
}

/// The data to deliver a job and to apply its results.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) progress: Progress,
    pub(super) pool: PoolId,
    /// `JobMetadata.concurrency_key` of an actor job.
    pub(super) name: Option<Arc<str>>,
    /// Position in the pool while waiting.
    pub(super) order: i64,
    /// When the job began to wait in the pool.
    pub(super) since: Timestamp,
    /// The stream of the delivery before ended without an answer.
    pub(super) is_repeated: bool,
    /// Counter writes that the store has not answered.
    pub(super) writes: u32,
    /// The store was full at the last counter write.
    pub(super) unsaved: bool,
}

/// The jobs in slots that are reused. The index holds slot numbers and compares keys in the slots:
/// for a million far jobs it takes 10 MB instead of 52 MB.
#[derive(Debug, Default)]
pub(super) struct JobTable {
    by_key: HashTable<u32>,
    hasher: RandomState,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    shard: Shard,
    entry: Option<Entry>,
}

impl JobTable {
    /// Adds a job whose key is not in the table.
    pub(super) fn insert(&mut self, entry: Entry, shard: Shard) -> JobId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 jobs")
        });
        let hash = self.hasher.hash_one(entry.key.as_ref());
        let slot = self.slots.get_mut(index as usize).expect("a slot that was just made or freed");
        slot.generation = slot.generation.wrapping_add(1);
        slot.shard = shard;
        let id = JobId { index, generation: slot.generation };
        slot.entry = Some(entry);
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_key.insert_unique(hash, index, |index| hasher.hash_one(key_of(slots, *index)));
        id
    }

    pub(super) fn remove(&mut self, id: JobId) -> Option<Entry> {
        let hash = self.hasher.hash_one(self.get(id)?.key.as_ref());
        if let Ok(indexed) = self.by_key.find_entry(hash, |index| *index == id.index) {
            indexed.remove();
        }
        self.free.push(id.index);
        self.slots.get_mut(id.index as usize)?.entry.take()
    }

    pub(super) fn find(&self, key: &str) -> Option<JobId> {
        let hash = self.hasher.hash_one(key);
        let index = *self.by_key.find(hash, |index| key_of(&self.slots, *index) == key)?;
        Some(JobId { index, generation: self.slots.get(index as usize)?.generation })
    }

    pub(super) fn get(&self, id: JobId) -> Option<&Entry> {
        let slot = self.slots.get(id.index as usize)?;
        slot.entry.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: JobId) -> Option<&mut Entry> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.entry.as_mut().filter(|_| slot.generation == id.generation)
    }

    /// The jobs in so many slots from that one on.
    pub(super) fn entries(&self, from: usize, slots: usize) -> impl Iterator<Item = &Entry> {
        self.slots.iter().skip(from).take(slots).filter_map(|slot| slot.entry.as_ref())
    }

    /// Whether there is a slot of that number.
    pub(super) fn has_slot(&self, number: usize) -> bool {
        number < self.slots.len()
    }

    /// The shard of a job that is in the table.
    pub(super) fn shard(&self, id: JobId) -> Shard {
        self.slots.get(id.index as usize).map_or_else(Shard::default, |slot| slot.shard)
    }

    /// The keys of all jobs of these shards.
    pub(super) fn keys_of(&self, shards: &BTreeSet<Shard>) -> Vec<Arc<str>> {
        let slots = self.slots.iter().filter(|slot| shards.contains(&slot.shard));
        slots.filter_map(|slot| Some(Arc::clone(&slot.entry.as_ref()?.key))).collect()
    }

    /// The keys of all jobs that have no mark.
    pub(super) fn keys_without(&self, marks: &Marks) -> Vec<Arc<str>> {
        let slots = (0..).zip(&self.slots).filter(|(index, _)| !marks.contains(*index));
        slots.filter_map(|(_, slot)| Some(Arc::clone(&slot.entry.as_ref()?.key))).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }
}

/// A set of jobs of a table: a bit for each slot. A job in the slot of a marked one is marked.
#[derive(Debug, Default)]
pub(super) struct Marks(Vec<u64>);

impl Marks {
    pub(super) fn insert(&mut self, job: JobId) {
        let (word, bit) = Self::place(job.index);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= bit;
        }
    }

    fn contains(&self, index: u32) -> bool {
        let (word, bit) = Self::place(index);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn place(index: u32) -> (usize, u64) {
        ((index / u64::BITS) as usize, 1 << (index % u64::BITS))
    }
}

/// The key in a slot of the index.
fn key_of(slots: &[Slot], index: u32) -> &str {
    slots.get(index as usize).and_then(|slot| slot.entry.as_ref()).map_or("", |entry| &entry.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_of_single_slots() {
        let mut marks = Marks::default();
        let marked = [0, 63, 64, 130];
        for index in marked {
            marks.insert(JobId { index, generation: 7 });
        }
        for index in 0..300 {
            assert_eq!(marks.contains(index), marked.contains(&index), "{index}");
        }
    }
}
