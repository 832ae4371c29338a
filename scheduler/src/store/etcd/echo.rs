//! The author of a change: the watch repeats the writes of this process, which the engine knows.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::store::{Op, Source, Txn};

/// Limit of writes that the watch has not repeated yet. A write that was lost without an answer
/// stays; more than these are forgotten, after which an own write may count as foreign and is read
/// back.
const MAX_NOTED: usize = 1 << 16;

/// Writes of this process, by a hash of key and value. Records of jobs are unique; a counter that
/// another process writes with the same bytes changes nothing.
#[derive(Debug, Default)]
pub(super) struct Echo {
    hasher: RandomState,
    noted: Mutex<HashMap<u64, Source>>,
}

/// The writes of one transaction.
#[derive(Debug)]
pub(super) struct Noted(Vec<u64>);

impl Echo {
    /// Records the puts of a transaction before it is sent.
    pub(super) fn note(&self, txn: &Txn) -> Noted {
        let puts = txn.then.iter().chain(&txn.otherwise).filter_map(|op| match op {
            Op::Put { key, value } => Some(self.hash(key, value)),
            Op::Delete { .. } | Op::DeleteJobs { .. } => None,
        });
        let puts: Vec<u64> = puts.collect();
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() >= MAX_NOTED {
            noted.clear();
        }
        noted.extend(puts.iter().map(|put| (*put, txn.source)));
        Noted(puts)
    }

    /// The author of a put.
    pub(super) fn source(&self, key: &Bytes, value: &Bytes) -> Source {
        let hash = self.hash(key, value);
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.remove(&hash).unwrap_or(Source::Member)
    }

    /// The watch was lost: missed changes will not be repeated.
    pub(super) fn clear(&self) {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn hash(&self, key: &Bytes, value: &Bytes) -> u64 {
        self.hasher.hash_one((key, value))
    }
}

impl Noted {
    /// Passes the put of a call on before the watch shows it, which is then the engine's. Not if the
    /// watch has shown it.
    pub(super) fn hand_over(&self, echo: &Echo, pass_on: impl FnOnce()) {
        let mut noted = echo.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(hash) = self.0.first() else { return };
        if let Some(source) = noted.get_mut(hash).filter(|source| **source == Source::Api) {
            *source = Source::Engine;
            // Before any later change of the key, because the watch waits for the lock.
            pass_on();
        }
    }

    /// The transaction put nothing.
    pub(super) fn forget(&self, echo: &Echo) {
        let mut noted = echo.noted.lock().unwrap_or_else(PoisonError::into_inner);
        for hash in &self.0 {
            noted.remove(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(value: &'static str) -> Txn {
        let then = vec![Op::Put { key: "dapr/counters/a".into(), value: value.into() }];
        Txn { source: Source::Engine, then, ..Txn::default() }
    }

    #[test]
    fn own_writes_are_recognised_once() {
        let echo = Echo::default();
        let source = |value: &'static str| echo.source(&"dapr/counters/a".into(), &value.into());
        echo.note(&counter("1"));
        assert_eq!(source("2"), Source::Member);
        assert_eq!(source("1"), Source::Engine);
        assert_eq!(source("1"), Source::Member, "imported later");
        echo.note(&counter("3")).forget(&echo);
        assert_eq!(source("3"), Source::Member);
    }

    #[test]
    fn a_put_is_handed_over_before_the_watch_shows_it_or_not_at_all() {
        let echo = Echo::default();
        let put = |value: &'static str| Txn { source: Source::Api, ..counter(value) };
        let source = |value: &'static str| echo.source(&"dapr/counters/a".into(), &value.into());
        let is_handed_over = |noted: &Noted| {
            let mut passed_on = false;
            noted.hand_over(&echo, || passed_on = true);
            passed_on
        };
        let noted = echo.note(&put("1"));
        assert!(is_handed_over(&noted) && !is_handed_over(&noted));
        assert_eq!(source("1"), Source::Engine);
        let noted = echo.note(&put("2"));
        assert_eq!(source("2"), Source::Api);
        assert!(!is_handed_over(&noted));
        assert!(!is_handed_over(&echo.note(&counter("3"))), "the engine's own");
    }

    #[test]
    fn the_number_of_recorded_writes_is_bounded() {
        let echo = Echo::default();
        for number in 0..=MAX_NOTED {
            let key = number.to_be_bytes().to_vec().into();
            let then = vec![Op::Put { key, value: Bytes::new() }];
            echo.note(&Txn { then, ..Txn::default() });
            assert!(echo.noted.lock().unwrap().len() <= MAX_NOTED);
        }
    }
}
