//! The dispatcher's control by the membership, which starts and stops it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use runtime::clock;
use tokio::sync::{mpsc, oneshot};

use super::{Dispatcher, Message, Task};
use crate::engine::event::{Event, Share};
use crate::engine::shard::Shard;
use crate::membership::member::{Stop, Triggers};
use crate::membership::ownership::{Ownership, Part};
use crate::membership::shards::Claims;
use crate::streams::writes::Writes;

/// Time limit for answers of sidecars that are under way when jobs move to other members, or the
/// process ends. Jobs that are not answered then are delivered again. Sidecars whose apps answer at
/// once need a round trip; activities that run for hours are not waited for.
pub(super) const ANSWERS: Duration = Duration::from_millis(500);
/// Time limit for answers, and for their results to be written. Jobs whose result is not written
/// then are delivered again.
const DRAIN: Duration = Duration::from_secs(3);

/// A command of the membership.
pub(super) enum Control {
    Start(Part, Share),
    Gain(Claims, Share),
    Release { shards: BTreeSet<Shard>, done: oneshot::Sender<()> },
    Stop { stop: Stop, done: oneshot::Sender<()> },
}

/// Jobs that this member gives up when their last results are written.
pub(super) struct Releasing {
    what: What,
    done: oneshot::Sender<()>,
    /// Until then answers are awaited; `None` once the results are being written.
    answers: Option<Instant>,
    /// Until then results are written.
    until: Instant,
}

/// Which jobs are given up.
enum What {
    Shards(BTreeSet<Shard>),
    /// All, which are kept in memory or forgotten.
    All {
        kept: bool,
    },
}

impl Releasing {
    fn begin(what: What, done: oneshot::Sender<()>) -> Self {
        let now = clock::monotonic();
        Self { what, done, answers: Some(now + ANSWERS), until: now + DRAIN }
    }

    /// When its next time limit passes.
    pub(super) fn wake_at(&self) -> Instant {
        self.answers.unwrap_or(self.until)
    }

    /// Whether a shard goes to another member.
    pub(super) fn gives_up(&self, shard: Shard) -> bool {
        matches!(&self.what, What::Shards(shards) if shards.contains(&shard))
    }
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

    fn stop(&self, stop: Stop) -> BoxFuture<'_, ()> {
        async move {
            let (done, stopped) = oneshot::channel();
            let _ = self.control.send(Control::Stop { stop, done }).await;
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
            Control::Stop { stop, done } => {
                self.fence.end();
                self.heed_fence();
                let kept = match stop {
                    Stop::Lost => {
                        self.releasing = None;
                        self.give_up_all(false);
                        let _ = done.send(());
                        return;
                    }
                    Stop::Leave => false,
                    Stop::Recount => true,
                };
                self.releasing = Some(Releasing::begin(What::All { kept }, done));
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
        if let Some(gain) = &mut self.gain {
            gain.lose(&shards);
        }
        self.step(Event::ShardsLeaving(shards.clone()));
        self.releasing = Some(Releasing::begin(What::Shards(shards), done));
    }

    /// Gives up what is released when its answers have come and their results are written, or when
    /// that takes too long.
    pub(super) fn check_release(&mut self) {
        let now = clock::monotonic();
        let Some(mut releasing) = self.releasing.take() else { return };
        let answered = match releasing.what {
            What::Shards(_) => self.engine.leaving() == 0,
            What::All { .. } => !self.engine.awaits_answers(),
        };
        if releasing.answers.is_some_and(|until| answered || now >= until) {
            releasing.answers = None;
            if let What::Shards(shards) = &releasing.what {
                self.give_up(shards);
            }
        }
        let unwritten = match releasing.what {
            What::Shards(_) => self.writes.before_mark(),
            What::All { .. } => self.writes.len(),
        };
        let written = unwritten == 0;
        if releasing.answers.is_some() || !(written || now >= releasing.until) {
            self.releasing = Some(releasing);
            return;
        }
        if let What::All { kept } = releasing.what {
            self.give_up_all(kept && written);
        }
        let _ = releasing.done.send(());
    }

    /// Later results of these shards are not written.
    fn give_up(&mut self, shards: &BTreeSet<Shard>) {
        self.writes.mark(&self.store);
        if let Some(Ownership::Shards(held)) = &mut self.owner {
            held.retain(|shard, _| !shards.contains(shard));
        }
        self.step(Event::ShardsLost(shards.clone()));
    }

    fn give_up_all(&mut self, kept: bool) {
        self.owner = None;
        self.gain = None;
        if !kept {
            self.forget();
        }
    }

    /// The process stops: delivers nothing more, and returns when answers have come, which are still
    /// to be written.
    pub(super) async fn await_answers(&mut self, inbox: &mut mpsc::Receiver<Message>) {
        self.fence.end();
        self.heed_fence();
        let answered = async {
            while self.owner.is_some() && self.engine.awaits_answers() {
                self.writes.send_all(&self.store);
                tokio::select! {
                    Some(message) = inbox.recv() => self.take(message),
                    Some(events) = self.writes.next(), if self.writes.len() > 0 => {
                        self.step_all(events);
                    }
                    else => return,
                }
            }
        };
        let _ = tokio::time::timeout(ANSWERS, answered).await;
    }

    /// The process stops: returns when every result is written.
    pub(super) async fn await_writes(&mut self) {
        let written = async {
            loop {
                self.writes.send_all(&self.store);
                let Some(events) = self.writes.next().await else { return };
                self.step_all(events);
            }
        };
        let _ = tokio::time::timeout(DRAIN.saturating_sub(ANSWERS), written).await;
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
