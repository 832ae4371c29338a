//! Transactions of the etcd v3 API within a group commit.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::group::{Group, PUT_COST, Step, bytes_of};
use crate::store::backend::{Backend, BackendError};
use crate::store::kv::{Answer, Compare, KvError, Operation, Outcome, Put, Transaction};
use crate::store::query::{Query, Selected, Selection};
use crate::store::{Entry, Record, Source, StoreError};

/// A refusal of the request within a failure of the backend.
type Checked<T> = Result<Result<T, KvError>, BackendError>;

impl<B: Backend> Group<'_, B> {
    /// Evaluates one transaction. On any error it changes nothing.
    pub(super) fn transact(&mut self, transaction: &Transaction) -> Checked<Outcome> {
        if !transaction.reserved && !self.has_room(cost(transaction)) {
            return Ok(Err(StoreError::NoSpace.into()));
        }
        let mut taken = Vec::new();
        self.decide(transaction, &mut taken)?;
        if let Err(error) = self.check(transaction, &mut taken.iter().copied())? {
            return Ok(Err(error));
        }
        let mut step = self.step();
        let mut branches = taken.into_iter();
        let succeeded = branches.next().unwrap_or(true);
        let mut answers = Vec::new();
        for operation in branch(transaction, succeeded) {
            answers.push(self.execute(operation, &mut branches, &mut step)?);
        }
        let revision = self.end(Source::ClientPort, step);
        Ok(Ok(Outcome { revision, succeeded, answers }))
    }

    /// Deletes keys whose lease has ended, in one revision.
    pub(super) fn delete_all(&mut self, keys: &[Bytes]) -> Result<u64, BackendError> {
        let mut step = self.step();
        for key in keys {
            self.delete(key, &mut step)?;
        }
        Ok(self.end(Source::ClientPort, step))
    }

    /// Decides the branch of each transaction, outer ones first.
    fn decide(&self, transaction: &Transaction, taken: &mut Vec<bool>) -> Result<(), BackendError> {
        let mut succeeded = true;
        for compare in &transaction.compares {
            succeeded = succeeded && self.compare(compare)?;
        }
        taken.push(succeeded);
        for operation in branch(transaction, succeeded) {
            if let Operation::Nested(nested) = operation {
                self.decide(nested, taken)?;
            }
        }
        Ok(())
    }

    fn compare(&self, compare: &Compare) -> Result<bool, BackendError> {
        let (mut any, mut all) = (false, true);
        self.range(&compare.range, |entry| {
            any = true;
            all = all && compare.holds(Some(&entry.record));
        })?;
        Ok(if any { all } else { compare.holds(None) })
    }

    /// Refuses operations that cannot be executed, before any is executed.
    fn check(
        &self,
        transaction: &Transaction,
        taken: &mut impl Iterator<Item = bool>,
    ) -> Checked<()> {
        for operation in branch(transaction, taken.next().unwrap_or(true)) {
            let checked = match operation {
                Operation::Range(query) => self.check_revision(query),
                Operation::Put(put) => self.check_put(put)?,
                Operation::Delete { .. } => Ok(()),
                Operation::Nested(nested) => self.check(nested, taken)?,
            };
            if checked.is_err() {
                return Ok(checked);
            }
        }
        Ok(Ok(()))
    }

    /// Only the current revision can be read within a transaction.
    fn check_revision(&self, query: &Query) -> Result<(), KvError> {
        match query.revision {
            0 => Ok(()),
            asked if asked > self.totals.revision => Err(KvError::Future),
            asked if asked < self.totals.revision => Err(KvError::Compacted),
            _ => Ok(()),
        }
    }

    fn check_put(&self, put: &Put) -> Checked<()> {
        if (put.value.is_none() || put.lease.is_none()) && self.get(&put.key)?.is_none() {
            return Ok(Err(KvError::KeyNotFound));
        }
        let unknown = put.lease.is_some_and(|lease| lease != 0 && !self.leases.exists(lease));
        Ok(if unknown { Err(KvError::LeaseNotFound) } else { Ok(()) })
    }

    fn execute(
        &mut self,
        operation: &Operation,
        taken: &mut impl Iterator<Item = bool>,
        step: &mut Step,
    ) -> Result<Answer, BackendError> {
        Ok(match operation {
            Operation::Range(query) => Answer::Range(self.select(query, step)?),
            Operation::Put(put) => {
                let old = self.get(&put.key)?;
                let kept = |of: fn(&Record) -> Bytes| old.as_ref().map(of).unwrap_or_default();
                let value = put.value.clone().unwrap_or_else(|| kept(|old| old.value.clone()));
                let stored = || old.as_ref().map_or(0, |old| old.lease.cast_signed());
                let lease = put.lease.unwrap_or_else(stored);
                self.put(&put.key, &value, lease, step)?;
                let entry = |record| Entry { key: put.key.clone(), record };
                Answer::Put { previous: old.filter(|_| put.previous).map(entry) }
            }
            Operation::Delete { range, previous } => {
                let mut found = Vec::new();
                self.range(range, |entry| found.push(entry.key))?;
                let (mut deleted, mut gone) = (0, Vec::new());
                for key in found {
                    let old = self.delete(&key, step)?;
                    deleted += 1;
                    if let Some(record) = old.filter(|_| *previous) {
                        gone.push(Entry { key, record });
                    }
                }
                Answer::Delete { deleted, previous: gone }
            }
            Operation::Nested(nested) => {
                let succeeded = taken.next().unwrap_or(true);
                let mut answers = Vec::new();
                for operation in branch(nested, succeeded) {
                    answers.push(self.execute(operation, taken, step)?);
                }
                Answer::Nested { succeeded, answers }
            }
        })
    }

    /// Reads the writes of earlier operations, or with a revision the state before the
    /// transaction.
    fn select(&self, query: &Query, step: &Step) -> Result<Selected, BackendError> {
        let mut selection = Selection::new(query);
        if query.revision == 0 || step.before.is_empty() {
            self.range(&query.range, |entry| selection.push(entry))?;
            return Ok(selection.finish());
        }
        let mut found = BTreeMap::new();
        self.range(&query.range, |Entry { key, record }| drop(found.insert(key, record)))?;
        for (key, old) in step.before.range::<[u8], _>(query.range.bounds()) {
            match old {
                Some(record) => found.insert(key.clone(), record.clone()),
                None => found.remove(key),
            };
        }
        for (key, record) in found {
            selection.push(Entry { key, record });
        }
        Ok(selection.finish())
    }
}

fn branch(transaction: &Transaction, succeeded: bool) -> &[Operation] {
    if succeeded { &transaction.then } else { &transaction.otherwise }
}

/// The cost of the puts of the more expensive branch. Those of nested transactions cost nothing
/// (etcd 3.5).
fn cost(transaction: &Transaction) -> u64 {
    let puts = |operations: &[Operation]| {
        let cost = |operation: &Operation| match operation {
            Operation::Put(put) => {
                PUT_COST + bytes_of(&put.key, put.value.as_ref().unwrap_or(&Bytes::new()))
            }
            _ => 0,
        };
        operations.iter().map(cost).sum::<u64>()
    };
    puts(&transaction.then).max(puts(&transaction.otherwise))
}
