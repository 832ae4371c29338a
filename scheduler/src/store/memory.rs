//! A backend in memory whose next write fails as a test asks.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::writer::{Backend, BackendError, PAGE_BYTES, Page, View};

/// What happens to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and nothing is written.
    Lost,
    /// It fails, but it is written.
    Unanswered,
    /// It fails for lack of room.
    NoRoom,
}

#[derive(Debug, Default)]
struct Medium {
    records: BTreeMap<Bytes, Bytes>,
    totals: Option<Bytes>,
    faults: Vec<Fault>,
}

/// A handle of the medium: opening it again finds what was written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Medium>>);

impl Memory {
    /// The next writes fail, in this order.
    pub(crate) fn fail(&self, faults: &[Fault]) {
        self.0.lock().unwrap().faults = faults.iter().rev().copied().collect();
    }
}

impl Backend for Memory {
    type View = MemoryView;

    fn get(&self, key: &Bytes) -> Result<Option<Bytes>, BackendError> {
        Ok(self.0.lock().unwrap().records.get(key).cloned())
    }

    fn view(&self) -> Result<MemoryView, BackendError> {
        Ok(MemoryView(self.0.lock().unwrap().records.clone()))
    }

    fn totals(&self) -> Result<Option<Bytes>, BackendError> {
        Ok(self.0.lock().unwrap().totals.clone())
    }

    fn write(
        &self,
        writes: Vec<(Bytes, Option<Bytes>)>,
        totals: Bytes,
    ) -> Result<(), BackendError> {
        let mut medium = self.0.lock().unwrap();
        let fault = medium.faults.pop();
        if matches!(fault, None | Some(Fault::Unanswered)) {
            for (key, value) in writes {
                match value {
                    Some(value) => medium.records.insert(key, value),
                    None => medium.records.remove(&key),
                };
            }
            medium.totals = Some(totals);
        }
        match fault {
            None => Ok(()),
            Some(Fault::NoRoom) => Err(BackendError::NoRoom),
            Some(Fault::Lost | Fault::Unanswered) => {
                Err(BackendError::Failed("injected".to_owned()))
            }
        }
    }
}

/// A copy.
pub(crate) struct MemoryView(BTreeMap<Bytes, Bytes>);

impl View for MemoryView {
    fn page(&self, page: &Page<'_>) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        let start = match page.after {
            Some(after) => Bound::Excluded(after.clone()),
            None => Bound::Included(page.prefix.clone()),
        };
        let range = self.0.range((start, Bound::Unbounded));
        let below = range.take_while(|(key, _)| key.starts_with(page.prefix));
        let mut bytes = 0;
        let room = below.take(page.limit).take_while(|(key, value)| {
            let before = bytes;
            bytes += key.len() + value.len();
            before < PAGE_BYTES
        });
        Ok(room.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}
