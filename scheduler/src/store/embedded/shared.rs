//! State shared by the writer and the handles of the store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::sync::watch;

use super::lease::Leases;
use super::pins::Pins;
use crate::store::history::{Changes, History};
use crate::store::{Revision, Source};

/// Events for the engine, in order.
#[derive(Debug)]
pub(crate) enum StoreEvent {
    /// All changes of one revision. A store may leave out those that the engine made.
    Changes { source: Source, changes: Changes },
    /// A call of this process put a job, which is left out of the changes that follow.
    JobPut { key: Bytes, value: Bytes, revision: Revision },
    /// A write failed: reads fail until [`Self::Reopened`].
    Failed,
    /// The backend was reopened after a failed write, whose changes may be stored: the whole store
    /// must be read again.
    Reopened,
    /// Changes are missing: the whole store must be read again.
    Lost,
}

/// Whether the store serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    Serving,
    /// The quota was reached: puts are refused until the alarm is cleared.
    NoSpace,
    /// Puts are refused until there is room.
    DiskFull,
    /// The backend failed and is being reopened.
    Reopening(String),
}

/// Receives the figures of each group.
pub(crate) trait Observer: Send + Sync + 'static {
    /// A group of this many transactions is durable after this time; the store holds this many
    /// bytes.
    fn committed(&self, transactions: usize, took: Duration, live_bytes: u64);
    /// A batch was written and synced in this time.
    fn synced(&self, took: Duration);
    /// The files have this many bytes.
    fn on_disk(&self, bytes: u64);
}

/// Room on the file system.
pub(crate) trait Space: Send + Sync + 'static {
    /// Frees the reserve after a write failed for lack of room.
    fn give_up(&self);
    /// Whether there is too little room for new jobs. Blocks on the disk.
    fn look(&self) -> bool;
    /// Free bytes without the reserve. Blocks on the disk.
    fn free_bytes(&self) -> u64;
}

/// Whether the disk is full: what the last look found, unless a write has failed since it began.
#[derive(Debug, Default)]
pub(super) struct DiskFull(AtomicU64);

impl DiskFull {
    /// The lowest bit; the others count failed writes.
    const FULL: u64 = 1;
    const FAILURE: u64 = 2;

    pub(super) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed) & Self::FULL != 0
    }

    /// A write failed for lack of room.
    pub(super) fn write_failed(&self) {
        self.0.update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            state.wrapping_add(Self::FAILURE) | Self::FULL
        });
    }

    /// Records what `look` finds, unless a write fails meanwhile, and returns it if it is new.
    fn look(&self, look: impl FnOnce() -> bool) -> Option<bool> {
        let before = self.0.load(Ordering::Relaxed);
        let full = look();
        let now = (before & !Self::FULL) | u64::from(full);
        let recorded = self.0.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed);
        (recorded.is_ok() && now != before).then_some(full)
    }
}

/// State shared by the writer and the handles.
pub(super) struct Shared<B> {
    /// `None` while it is being reopened.
    pub(super) backend: ArcSwapOption<B>,
    pub(super) disk_full: DiskFull,
    pub(super) no_space: AtomicBool,
    pub(super) state: watch::Sender<State>,
    pub(super) observer: Box<dyn Observer>,
    pub(super) space: Arc<dyn Space>,
    pub(super) leases: Mutex<Leases>,
    pub(super) pins: Mutex<Pins>,
    pub(super) history: Arc<History>,
    /// The newest revision of the history.
    pub(super) newest: watch::Sender<Revision>,
}

impl<B> Shared<B> {
    /// Looks whether the disk is full. A backend that is being reopened stays so. Blocks on the
    /// disk.
    pub(super) fn look(&self) {
        if let Some(full) = self.disk_full.look(|| self.space.look()) {
            let free = if full { "is full: new jobs are refused" } else { "has room again" };
            tracing::warn!(target: "dapr.scheduler.store", "The file system of the job store {free}");
        }
        self.publish_state();
    }

    /// Records whether the alarm is raised.
    pub(super) fn set_no_space(&self, raised: bool) {
        if self.no_space.swap(raised, Ordering::Relaxed) != raised {
            if raised {
                tracing::error!(target: "dapr.scheduler.store",
                    "The job store has reached --etcd-space-quota: new jobs are refused. Delete jobs, then clear the alarm: etcdctl alarm disarm");
            } else {
                tracing::info!(target: "dapr.scheduler.store", "The alarm of the job store is cleared");
            }
        }
        self.publish_state();
    }

    /// The state of an open backend.
    pub(super) fn open_state(&self) -> State {
        if self.disk_full.get() {
            State::DiskFull
        } else if self.no_space.load(Ordering::Relaxed) {
            State::NoSpace
        } else {
            State::Serving
        }
    }

    fn publish_state(&self) {
        self.state.send_if_modified(|state| {
            let now = self.open_state();
            let changes = !matches!(state, State::Reopening(_)) && *state != now;
            if changes {
                *state = now;
            }
            changes
        });
    }

    pub(super) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pins(&self) -> MutexGuard<'_, Pins> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
