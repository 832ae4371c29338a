//! A backend in memory with faults of writes on demand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::backend::{Backend, BackendError, PAGE_BYTES, Page, View, Writes};

/// A fault of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and nothing is written.
    Lost,
    /// It fails, but is written.
    Unanswered,
    /// It fails for lack of room.
    NoRoom,
}

#[derive(Debug, Default)]
struct Medium {
    records: BTreeMap<Bytes, Bytes>,
    meta: BTreeMap<Bytes, Bytes>,
    faults: Vec<Fault>,
}

/// A handle of the medium: opening it again finds written data.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Medium>>, Arc<AtomicBool>);

impl Memory {
    /// Sets whether writes hang.
    pub(crate) fn hang(&self, hangs: bool) {
        self.1.store(hangs, Ordering::Relaxed);
    }

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
        let medium = self.0.lock().unwrap();
        Ok(MemoryView { records: medium.records.clone(), meta: medium.meta.clone() })
    }

    fn meta(&self) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        Ok(self.0.lock().unwrap().meta.clone().into_iter().collect())
    }

    fn write(&self, batch: Writes) -> Result<(), BackendError> {
        while self.1.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        let mut medium = self.0.lock().unwrap();
        let fault = medium.faults.pop();
        if matches!(fault, None | Some(Fault::Unanswered)) {
            apply(&mut medium.records, batch.records);
            apply(&mut medium.meta, batch.meta);
        }
        match fault {
            None => Ok(()),
            Some(Fault::NoRoom) => Err(BackendError::NoRoom),
            Some(Fault::Lost | Fault::Unanswered) => {
                Err(BackendError::Failed("injected".to_owned()))
            }
        }
    }

    fn acknowledged(&self) -> u64 {
        0
    }

    fn disk_bytes(&self) -> Result<u64, BackendError> {
        Ok(0)
    }

    fn compact(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

fn apply(map: &mut BTreeMap<Bytes, Bytes>, writes: Vec<(Bytes, Option<Bytes>)>) {
    for (key, value) in writes {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
}

/// A copy.
pub(crate) struct MemoryView {
    records: BTreeMap<Bytes, Bytes>,
    meta: BTreeMap<Bytes, Bytes>,
}

impl View for MemoryView {
    fn page(&self, page: &Page<'_>) -> Result<Vec<(Bytes, Bytes)>, BackendError> {
        let mut bytes = 0;
        let range = self.records.range::<[u8], _>(page.bounds());
        let room = range.take(page.limit).take_while(|(key, value)| {
            let before = bytes;
            bytes += key.len() + value.len();
            before < PAGE_BYTES
        });
        Ok(room.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn meta(&self, key: &str) -> Result<Option<Bytes>, BackendError> {
        Ok(self.meta.get(key.as_bytes()).cloned())
    }
}
