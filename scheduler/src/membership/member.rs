//! One of several members that share an etcd: joins, agrees with the others on who has which jobs,
//! and assigns its own to the engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use prometheus::IntCounter;
use runtime::clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::LOG;
use super::fence::Fence;
use super::ownership::Part;
use super::predecessor::Predecessor;
use super::quorum::{self, Mode, NATIVE, Own, Step, Team};
use super::repeated_warning::RepeatedWarning;
use super::shards::{self, Claims};
use crate::engine::event::Share;
use crate::engine::shard::{SHARDS, Shard};
use crate::store::etcd::lease::{Changes, Table};
use crate::store::etcd::{Etcd, MAX_OPS};
use crate::store::{Condition, Revision, StoreError};

/// The lease of members of Dapr 1.18, which take it as written that long.
const LEASE: Duration = Duration::from_secs(20);
/// Pause before a failed renewal or read is repeated.
const RETRY: Duration = Duration::from_millis(500);
/// Time limit of a shutdown for results to be written, and for etcd to revoke the lease.
const LEAVE: Duration = Duration::from_secs(4);
/// Interval in which members read the keys even without a change.
const LOOK: Duration = Duration::from_secs(10);

impl Mode {
    /// Seconds of the lease. In the compatible mode that of Dapr 1.18: members of both kinds wait
    /// no longer for each other.
    const fn ttl(self) -> i64 {
        match self {
            Self::Compatible => LEASE.as_secs().cast_signed(),
            Self::Native => 5,
        }
    }

    /// How long after a renewal this member continues: two thirds of the lease, so that it has
    /// stopped when the lease expires, even if the clocks of the hosts run at different speeds.
    const fn valid(self) -> Duration {
        match self {
            Self::Compatible => Duration::from_millis(13_300),
            Self::Native => Duration::from_millis(3_300),
        }
    }

    /// Interval of renewals, and the time limit of one.
    const fn renewal(self) -> Duration {
        match self {
            Self::Compatible => Duration::from_secs(4),
            Self::Native => Duration::from_millis(1_500),
        }
    }
}

/// Triggers the jobs of this member.
pub(crate) trait Triggers: Send + Sync + 'static {
    /// Starts to trigger the jobs of a part.
    fn start(&self, part: Part, share: Share) -> BoxFuture<'_, ()>;

    /// Starts to trigger the jobs of further shards; none changes the share only.
    fn gain(&self, claims: Claims, share: Share) -> BoxFuture<'_, ()>;

    /// Stops triggering the jobs of these shards, which other members get next. Returns when answers
    /// that were under way have come and no result is being written.
    fn release(&self, shards: BTreeSet<Shard>) -> BoxFuture<'_, ()>;

    /// Stops triggering. Returns when deliveries have stopped and no result is being written.
    fn stop(&self, stop: Stop) -> BoxFuture<'_, ()>;

    /// Returns when the process stops, answers that were under way have come, and the last results
    /// are written.
    fn ended(&self) -> BoxFuture<'_, ()>;
}

/// How a member stops triggering all of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Others may have them already: answers that are under way apply to nothing.
    Lost,
    /// Others may have them next. Answers that are under way are awaited.
    Leave,
    /// The members share all jobs anew, and it may keep some. Answers that are under way are
    /// awaited, and later ones count for the jobs that it keeps.
    Recount,
}

/// A member of the cluster.
pub(crate) struct Member {
    pub(crate) store: Etcd,
    pub(crate) id: String,
    /// The address that sidecars dial.
    pub(crate) address: String,
    pub(crate) fence: Arc<Fence>,
    pub(crate) triggers: Arc<dyn Triggers>,
    /// The addresses of all members; empty until they agreed for the first time.
    pub(crate) hosts: Arc<watch::Sender<Vec<String>>>,
    /// What an earlier process of this member has left.
    pub(crate) predecessor: Option<Predecessor>,
    /// Counts changes of the jobs that are this member's.
    pub(crate) rebalances: IntCounter,
}

/// What this member triggers.
enum Running {
    Nothing,
    Part(Part),
    Shards { claims: Claims, share: Option<Share> },
}

/// Why a member no longer takes part with its lease.
enum Left {
    /// The own key is gone or another's.
    Key,
    /// The lease ended.
    Lease,
    /// A lease of another mode is needed; nothing is triggered.
    Mode { mode: Mode, total: u64, replaces: Revision },
}

impl Member {
    /// Participates until the process stops.
    pub(crate) async fn run(self, token: CancellationToken) {
        let mut changes = self.store.table_changes();
        let mut no_lease = RepeatedWarning::default();
        while !token.is_cancelled() {
            let sent = clock::monotonic();
            let lease = match token.run_until_cancelled(self.store.grant(Mode::Native.ttl())).await
            {
                None => return,
                Some(Ok(lease)) => lease,
                Some(Err(error)) => {
                    no_lease
                        .warn(&format!("Cannot get a lease from etcd, retrying: {}", why(&error)));
                    token.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                    continue;
                }
            };
            no_lease.reset();
            self.end_predecessor().await;
            self.note_lease(lease);
            self.fence.renew(sent, Mode::Native.valid());
            let (id, address) = (self.id.clone(), self.address.clone());
            let uid = runtime::random::bits();
            let mut own = Own { id, address, uid, lease, joined: false };
            let lost = self.take_part(&mut own, &mut changes);
            let Some(why) = token.run_until_cancelled(lost).await else {
                return self.leave(own.lease).await;
            };
            tracing::warn!(target: LOG, "{why}, joining again");
            self.fence.end();
            if token.run_until_cancelled(self.triggers.stop(Stop::Lost)).await.is_none() {
                return self.leave(own.lease).await;
            }
            // Its keys go with it, unless all are gone.
            let _ = self.store.revoke(own.lease).await;
        }
    }

    /// Ends the lease of an earlier process of this member that is dead for certain. The keys of any
    /// other process stay until its lease expires.
    async fn end_predecessor(&self) {
        let Some(lease) = self.predecessor.as_ref().and_then(Predecessor::lease) else { return };
        if self.holds_own_key(lease).await && self.store.revoke(lease).await.is_ok() {
            tracing::info!(target: LOG,
                "The last process of this scheduler is gone; its lease was revoked");
        }
    }

    fn note_lease(&self, lease: i64) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.note(lease);
        }
    }

    /// Takes part, in either mode, until the lease or the own key is lost; returns why.
    async fn take_part(&self, own: &mut Own, changes: &mut Changes) -> &'static str {
        let mut mode = Mode::Native;
        let mut unchanged = RepeatedWarning::default();
        loop {
            let lease = own.lease;
            let left = tokio::select! {
                () = self.renew(lease, mode) => Left::Lease,
                left = self.agree(own, changes) => left,
            };
            match left {
                Left::Lease => return "The lease of this scheduler expired",
                Left::Key => return "Another process changed the leadership key of this scheduler",
                Left::Mode { mode: next, total, replaces } => {
                    match self.enter(own, next, total, replaces).await {
                        Ok(true) => {
                            mode = next;
                            unchanged.reset();
                        }
                        Ok(false) => {} // the keys have changed
                        Err(error) => {
                            unchanged.warn(&format!("Cannot change the lease, retrying: {error}"));
                            tokio::time::sleep(RETRY).await;
                        }
                    }
                }
            }
        }
    }

    /// Renews the lease until it no longer exists.
    async fn renew(&self, lease: i64, mode: Mode) {
        let mut wait = mode.renewal();
        let mut late = RepeatedWarning::default();
        loop {
            tokio::time::sleep(wait).await;
            let sent = clock::monotonic();
            let renewed = tokio::time::timeout(mode.renewal(), self.store.keep_alive(lease)).await;
            wait = match renewed {
                Ok(Ok(true)) => {
                    self.fence.renew(sent, mode.valid());
                    late.reset();
                    mode.renewal()
                }
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    late.warn(&format!("Cannot renew the lease, retrying: {error}"));
                    RETRY
                }
                Err(_) => {
                    late.warn("etcd does not renew the lease, retrying");
                    Duration::ZERO
                }
            };
        }
    }

    /// Writes the own keys with a lease of another mode, and gives up the lease before, with all
    /// claims; false when the own key has changed.
    async fn enter(
        &self,
        own: &mut Own,
        mode: Mode,
        total: u64,
        replaces: Revision,
    ) -> Result<bool, StoreError> {
        let sent = clock::monotonic();
        let lease = self.store.grant(mode.ttl()).await?;
        self.note_lease(lease);
        let written = self.write(&Own { lease, ..own.clone() }, total, Some(replaces)).await;
        let is_written = matches!(written, Ok(true));
        if is_written {
            self.fence.renew(sent, mode.valid());
        }
        let unused = if is_written { std::mem::replace(&mut own.lease, lease) } else { lease };
        self.note_lease(own.lease);
        // It ends by itself.
        let _ = self.store.revoke(unused).await;
        written
    }

    /// Joins, agrees with the others and triggers; returns when nothing of that is possible with
    /// the lease.
    async fn agree(&self, own: &mut Own, changes: &mut Changes) -> Left {
        let mut running = Running::Nothing;
        // Start of the wait for a member that has not written its key since another one joined.
        let mut unconfirmed: Option<Instant> = None;
        let [mut unread, mut unwritten] = [(); 2].map(|()| RepeatedWarning::default());
        loop {
            let settled = unconfirmed.is_some_and(|since| since.elapsed() >= LEASE);
            let table = match self.store.table().await {
                Ok(table) => {
                    unread.reset();
                    table
                }
                Err(error) => {
                    unread.warn(&format!("Cannot list the members, retrying: {error}"));
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            let step = quorum::assess(own, &table, settled);
            match step {
                Step::Confirm => drop(unconfirmed.get_or_insert_with(clock::monotonic)),
                Step::Run(..) if settled => {}
                _ => unconfirmed = None,
            }
            self.stop_before(&step, &mut running).await;
            let written = match step {
                Step::Lost => return Left::Key,
                Step::Enter { mode, total, replaces } => {
                    return Left::Mode { mode, total, replaces };
                }
                Step::Wait | Step::Confirm => Ok(false),
                Step::Join { replaces } => {
                    let joined = self.write(own, NATIVE, replaces).await;
                    own.joined = matches!(joined, Ok(true));
                    joined
                }
                Step::Recount { total, replaces } => self.write(own, total, Some(replaces)).await,
                Step::Run(part, team) => {
                    self.run_part(part, team, &mut running).await;
                    Ok(false)
                }
                Step::Divide(team) => self.divide(own, &table, team, &mut running).await,
            };
            if written.is_ok() {
                unwritten.reset();
            }
            match written {
                Ok(true) => {} // read it with the others
                Ok(false) => drop(tokio::time::timeout(LOOK, changes.next()).await),
                Err(error) => {
                    let why = why(&error);
                    unwritten
                        .warn(&format!("Cannot write the keys of this scheduler, retrying: {why}"));
                    tokio::time::sleep(RETRY).await;
                    // An attempt may have been applied without an answer.
                    own.joined |= self.holds_own_key(own.lease).await;
                }
            }
        }
    }

    /// Stops what must not run with this step. Without another write of the own key a part is the
    /// same.
    async fn stop_before(&self, step: &Step, running: &mut Running) {
        let how = match (step, &*running) {
            (_, Running::Nothing) => return,
            (Step::Lost, _) => Stop::Lost,
            (Step::Enter { .. }, _) => Stop::Leave,
            (Step::Run(..), Running::Part(_)) | (_, Running::Shards { .. }) => return,
            (_, Running::Part(_)) => Stop::Recount,
        };
        *running = Running::Nothing;
        self.fence.end();
        self.triggers.stop(how).await;
    }

    async fn run_part(&self, part: Part, team: Team, running: &mut Running) {
        if !matches!(running, Running::Part(before) if *before == part) {
            tracing::info!(target: LOG,
                "All {} members agree; this one triggers part {} of the jobs", part.total, part.index);
            self.rebalances.inc();
            self.triggers.start(part.clone(), team.share).await;
            *running = Running::Part(part);
        }
        self.publish(team.hosts);
    }

    /// Moves towards the own shards among these members; false, for it is told of its own writes.
    async fn divide(
        &self,
        own: &Own,
        table: &Table,
        team: Team,
        running: &mut Running,
    ) -> Result<bool, StoreError> {
        if !matches!(running, Running::Shards { .. }) {
            *running = Running::Shards { claims: Claims::new(), share: None };
        }
        let Running::Shards { claims: held, share } = running else { return Ok(false) };
        self.publish(team.hosts);
        let found = shards::claims(&table.shards);
        let plan = shards::plan(&own.id, own.lease, &team.ids, &found, held);
        let mut moved = !plan.stop.is_empty();
        if moved {
            self.fence.release(&plan.stop);
            held.retain(|shard, _| !plan.stop.contains(shard));
            self.triggers.release(plan.stop).await;
        }
        let (freed, (gained, claimed)) =
            tokio::join!(self.free(plan.free), self.claim(own, &plan.claim, plan.adopt));
        moved |= !gained.is_empty();
        if moved {
            self.rebalances.inc();
        }
        if !gained.is_empty() || *share != Some(team.share) {
            held.extend(&gained);
            *share = Some(team.share);
            tracing::info!(target: LOG,
                "{} members; this one triggers {} of {} shards", team.ids.len(), held.len(), SHARDS);
            self.triggers.gain(gained, team.share).await;
        }
        claimed.and(freed).map(|()| false)
    }

    /// Claims shards that nobody has; returns those that are this member's now, with `adopted`.
    async fn claim(
        &self,
        own: &Own,
        shards: &[Shard],
        adopted: Claims,
    ) -> (Claims, Result<(), StoreError>) {
        let claim = async |shards: &[Shard]| {
            let keys = || shards.iter().map(|shard| shards::key(*shard));
            let absent: Vec<Condition> = keys().map(Condition::Absent).collect();
            let pairs = keys().map(|key| (key, Bytes::from(own.id.clone())));
            self.store.put_leased(pairs, own.lease, &absent).await
        };
        let chunks = || shards.chunks(MAX_OPS);
        let written = join_all(chunks().map(claim)).await;
        let (mut claims, mut outcome) = (adopted, Ok(()));
        for (shards, written) in chunks().zip(written) {
            match written {
                Ok(Some(epoch)) => claims.extend(shards.iter().map(|shard| (*shard, epoch))),
                Ok(None) => {} // another one was faster
                Err(error) => outcome = Err(error),
            }
        }
        (claims, outcome)
    }

    /// Deletes claims, unless they have changed.
    async fn free(&self, claims: Claims) -> Result<(), StoreError> {
        let claims: Vec<_> = claims.into_iter().collect();
        let free = |claims: &[(Shard, Revision)]| {
            let keys: Vec<_> =
                claims.iter().map(|(shard, epoch)| (shards::key(*shard), *epoch)).collect();
            self.store.delete_unchanged(keys.into_iter())
        };
        join_all(claims.chunks(MAX_OPS).map(free)).await.into_iter().collect()
    }

    /// Writes the own keys; false when the first has changed since it was read.
    async fn write(
        &self,
        own: &Own,
        total: u64,
        replaces: Option<Revision>,
    ) -> Result<bool, StoreError> {
        let key = quorum::key(&own.id);
        let condition = match replaces {
            None => Condition::Absent(key),
            Some(mod_revision) => Condition::Unchanged { key, mod_revision },
        };
        let written = self.store.put_leased(own.pairs(total), own.lease, &[condition]).await?;
        Ok(written.is_some())
    }

    /// Whether the own key was written with this lease.
    async fn holds_own_key(&self, lease: i64) -> bool {
        let (key, lease) = (quorum::key(&self.id), lease.cast_unsigned());
        self.store.table().await.is_ok_and(|table| {
            table.leadership.iter().any(|entry| entry.key == key && entry.record.lease == lease)
        })
    }

    /// Sidecars reconnect on every message: only changes are sent.
    fn publish(&self, hosts: Vec<String>) {
        self.hosts.send_if_modified(|before| {
            let changed = *before != hosts;
            if changed {
                *before = hosts;
            }
            changed
        });
    }

    /// Leaves on shutdown, so that the others continue at once.
    async fn leave(&self, lease: i64) {
        let _ = tokio::time::timeout(LEAVE, self.triggers.ended()).await;
        self.fence.end();
        let left = tokio::time::timeout(LEAVE, self.store.revoke(lease)).await;
        if !matches!(left, Ok(Ok(()))) {
            tracing::warn!(target: LOG, "Cannot revoke the lease: the leadership key stays until the lease expires");
        }
    }
}

/// An error, and the state that lasts until somebody ends it.
fn why(error: &StoreError) -> String {
    match error {
        StoreError::NoSpace => format!(
            "{error}. Until the alarm is cleared this scheduler triggers the jobs that it has, and \
             takes over none of a scheduler that is gone"
        ),
        StoreError::Unavailable(_) => error.to_string(),
    }
}
