//! The dispatcher's control by the membership, which starts and stops it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use runtime::clock;
use tokio::sync::oneshot;

use super::dispatcher::{Dispatcher, Task};
use super::writes::Writes;
use crate::engine::event::{Event, Share};
use crate::engine::shard::Shard;
use crate::membership::member::Triggers;
use crate::membership::ownership::{Ownership, Part};
use crate::membership::shards::Claims;

/// Time limit for results to be written before the jobs move to other members, or the process ends.
/// Jobs whose result is not written then are delivered again.
const DRAIN: Duration = Duration::from_secs(3);

/// A command of the membership.
pub(super) enum Control {
    Start(Part, Share),
    Gain(Claims, Share),
    Release { shards: BTreeSet<Shard>, done: oneshot::Sender<()> },
    Stop { lost: bool, done: oneshot::Sender<()> },
}

/// Shards whose last results are being written.
pub(super) struct Releasing {
    done: oneshot::Sender<()>,
    until: Instant,
}

impl Triggers for Dispatcher {
    fn start(&self, part: Part, share: Share) -> BoxFuture<'_, ()> {
        // Fails only when the process stops.
        self.control.send(Control::Start(part, share)).map(drop).boxed()
    }

    fn gain(&self, claims: Claims, share: Share) -> BoxFuture<'_, ()> {
        self.control.send(Control::Gain(claims, share)).map(drop).boxed()
    }

    fn release(&self, shards: BTreeSet<Shard>) -> BoxFuture<'_, ()> {
        async move {
            let (done, released) = oneshot::channel();
            let _ = self.control.send(Control::Release { shards, done }).await;
            let _ = released.await;
        }
        .boxed()
    }

    fn stop(&self, lost: bool) -> BoxFuture<'_, ()> {
        async move {
            let (done, stopped) = oneshot::channel();
            let _ = self.control.send(Control::Stop { lost, done }).await;
            let _ = stopped.await;
        }
        .boxed()
    }

    fn ended(&self) -> BoxFuture<'_, ()> {
        self.control.closed().boxed()
    }
}

impl Task {
    pub(super) async fn handle_control(&mut self, control: Control) {
        match control {
            Control::Start(part, share) => {
                self.fence.begin(&part);
                self.owner = Some(Ownership::Part(part));
                self.step(Event::Share(share));
                self.scan_again().await;
            }
            Control::Gain(claims, share) => self.gain(claims, share),
            Control::Release { shards, done } => self.release(shards, done),
            Control::Stop { lost, done } => {
                self.fence.end();
                self.heed_fence();
                let forget = lost || !self.drain().await;
                self.owner = None;
                self.gain = None;
                if forget {
                    self.forget();
                }
                let _ = done.send(());
            }
        }
    }

    fn gain(&mut self, claims: Claims, share: Share) {
        self.fence.claim(&claims);
        let shards: Vec<Shard> = claims.keys().copied().collect();
        match &mut self.owner {
            Some(Ownership::Shards(held)) => held.extend(claims),
            owner => *owner = Some(Ownership::Shards(claims)),
        }
        self.step(Event::Share(share));
        if !shards.is_empty() {
            self.read_shards(shards.into_iter());
        }
    }

    fn release(&mut self, shards: BTreeSet<Shard>, done: oneshot::Sender<()>) {
        self.writes.mark(&self.store);
        if let Some(Ownership::Shards(held)) = &mut self.owner {
            held.retain(|shard, _| !shards.contains(shard));
        }
        if let Some(gain) = &mut self.gain {
            gain.lose(&shards);
        }
        self.step(Event::ShardsLost(shards));
        self.releasing = Some(Releasing { done, until: clock::monotonic() + DRAIN });
    }

    /// Reports that the last results of lost shards are written, or will not be.
    pub(super) fn check_release(&mut self) {
        let written = self.writes.before_mark() == 0;
        let over = |of: &Releasing| written || clock::monotonic() >= of.until;
        if let Some(Releasing { done, .. }) = self.releasing.take_if(|of| over(of)) {
            let _ = done.send(());
        }
    }

    /// Waits until every result is written; returns whether it was.
    pub(super) async fn drain(&mut self) -> bool {
        let written = async {
            loop {
                self.writes.send(&self.store);
                let Some(events) = self.writes.next().await else { return };
                self.step_all(events);
            }
        };
        tokio::time::timeout(DRAIN, written).await.is_ok()
    }

    /// Forgets all jobs. Streams keep their deliveries, whose answers then apply to nothing.
    fn forget(&mut self) {
        self.writes = Writes::default();
        self.wanted.clear();
        for event in [Event::ScanBegun, Event::ScanEnded] {
            for effect in self.engine.step(event, clock::now()) {
                self.apply(effect);
            }
        }
    }

    /// Stops and starts deliveries by the state of fence and store.
    pub(super) fn heed_fence(&mut self) {
        let owns = self.owner.is_some() && self.fence.is_open(clock::monotonic());
        let paused = self.unread || !owns;
        if std::mem::replace(&mut self.paused, paused) == paused {
            return;
        }
        let event = if paused { Event::Pause } else { Event::Resume };
        for effect in self.engine.step(event, clock::now()) {
            self.apply(effect);
        }
    }
}
