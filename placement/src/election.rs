//! Which replica serves. One replica serves at once; several elect a leader among themselves.
//!
//! ```text
//!  Driver ──canvass, elect──► openraft ◄──Connection──► the other replicas   (network.rs)
//!     │                           └── Store: term and membership, in memory
//!     └── QuorumTracker: last contact with each replica (pure) ──► Role ──► membership, server
//! ```
//! The library counts votes and terms. This module decides when to start an election: a replica
//! does so only if a majority knows no leader, so that a replica that was cut off does not depose a
//! leader when it reconnects. Leadership ends with the quorum; the library keeps it without one.
//! Source: none; the election port is private between replicas of one version.
//!
//! Deliberately absent: anything on disk. If a majority loses its votes at the same moment, terms
//! restart; the tables are rebuilt from the streams in any case.

mod lease;
mod network;
pub(crate) mod quorum;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use openraft::error::Fatal;
use openraft::{Raft, SnapshotPolicy};
use runtime::{ListenError, ReadyGuard, Scope, chain, clock, random};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use transport::tls::{Alpn, ClientAuth, TlsError};
use transport::{Limits, Server, Svid};

use network::{Connections, Replica, ReplicaState};
use store::Types;

/// Time between two heartbeats of a leader, and the library's limit for the answer: four may be
/// lost on a busy machine before leadership is.
const HEARTBEAT: Duration = Duration::from_millis(120);
/// The library's limit of one vote request; its own election timer is off.
const VOTE: Duration = Duration::from_millis(250);
/// Limit of other requests between replicas.
const CALL_LIMIT: Duration = Duration::from_millis(200);
/// Replicas without a leader start an election after a random part of this time, so that two rarely
/// start at once.
const STAGGER: Duration = Duration::from_millis(150);
/// Pause after an attempt.
const RETRY: Duration = Duration::from_millis(150);
/// Log entries, one per change of the leader, after which the log is cut.
const LOG: u64 = 64;
/// Limits of the election port. Replicas are few and share one identity and perhaps one address; each
/// opens one connection to each other, and sends messages of a few hundred bytes.
fn peer_limits() -> Limits {
    Limits {
        connections: 256,
        connections_per_address: 64,
        connections_per_identity: 64,
        handshakes: 128,
        handshakes_per_address: 32,
        body_bytes: network::MAX_BODY,
        streams: 64,
        streams_unauthenticated: 64,
        request: Duration::from_secs(5),
        ..Limits::default()
    }
}

/// Names of new pods resolve late: time between attempts to open the election port, and their
/// number.
const LISTEN: (Duration, u32) = (Duration::from_millis(500), 240);

/// Why the election does not start, or why it ended.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// The election port cannot be opened.
    #[error("open the election port")]
    Listen(#[source] PortError),
    /// `--leader-election=lease` without credentials for an API server.
    #[error("--leader-election=lease needs an API server")]
    NoApiServer(#[source] kubernetes::ClientError),
    /// The id of this replica is not among the members.
    #[error("--id is not in --initial-cluster")]
    NoNumber,
    /// The certificate cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The library rejects its configuration.
    #[error(transparent)]
    Settings(Box<openraft::ConfigError>),
    /// The library ended with an error.
    #[error("the election has failed")]
    Failed(#[source] Box<Fatal<u64>>),
    /// The library does not start.
    #[error(transparent)]
    Library(Box<Fatal<u64>>),
    /// The library ended without an error.
    #[error("the election has stopped")]
    Stopped(#[source] watch::error::RecvError),
}

impl From<openraft::ConfigError> for ElectionError {
    fn from(cause: openraft::ConfigError) -> Self {
        Self::Settings(Box::new(cause))
    }
}

impl From<Fatal<u64>> for ElectionError {
    fn from(cause: Fatal<u64>) -> Self {
        Self::Library(Box::new(cause))
    }
}

/// Why the election port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The address has no port.
    #[error("election address {0:?} is not host:port")]
    Address(String),
    /// The port is not a number.
    #[error("port of election address {address:?}")]
    Port {
        /// The address as given.
        address: String,
        /// What is wrong with the port.
        #[source]
        cause: std::num::ParseIntError,
    },
    /// The port is in use, or the address does not resolve.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// The role of this replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// No leader is known.
    Unknown,
    /// Another replica serves.
    Follower,
    /// This replica serves.
    Leader {
        /// Grows with each change of the leader, from 0.
        epoch: u64,
    },
}

/// The replicas, from `--id` and `--initial-cluster`.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Id of this replica.
    pub id: String,
    /// `host:port` of the election port of each, by id.
    pub members: BTreeMap<String, String>,
    /// How the leader is chosen among several replicas.
    pub elector: Elector,
}

/// How the leader is chosen among several replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elector {
    /// The replicas, by majority.
    Peers,
    /// The holder of the Lease in this namespace leads.
    Lease(String),
}

impl Cluster {
    /// The `host:port` to listen on.
    fn own_address(&self) -> &str {
        self.members.get(&self.id).map_or("", String::as_str)
    }
}

/// Starts the election; the receiver has the current role of this replica. `ending` is cancelled
/// when the process stops and leadership has been handed over.
///
/// # Errors
/// [`ElectionError`]: the election port of a single replica is in use, an address is invalid, or a
/// Lease is to decide and there is no API server.
pub(crate) async fn start(
    cluster: &Cluster,
    svid: Option<&Svid>,
    ready: ReadyGuard,
    ending: CancellationToken,
    scope: &Scope,
) -> Result<watch::Receiver<Role>, ElectionError> {
    if cluster.members.len() == 1 {
        let listener = listen(cluster.own_address()).await.map_err(ElectionError::Listen)?;
        ready.set_ready();
        let scope_of_task = scope.clone();
        scope.spawn("placement-election", async move {
            answer(listener, &scope_of_task).await;
            ending.cancel();
            Ok(())
        });
        return Ok(watch::channel(Role::Leader { epoch: 0 }).1);
    }
    if let Elector::Lease(namespace) = &cluster.elector {
        return lease::start(cluster, namespace.clone(), ready, ending, scope).await;
    }
    let (roles, answer) = watch::channel(Role::Unknown);
    let numbered = cluster.members.iter().zip(0..);
    let id = numbered.clone().find(|((id, _), _)| **id == cluster.id).map(|(_, number)| number);
    let addresses = numbered.map(|((_, address), number)| (number, address.clone())).collect();
    let identity = svid.map(|svid| (svid.clone(), svid.current().id().clone()));
    let replica = Arc::new(Replica::new(id.ok_or(ElectionError::NoNumber)?, addresses, identity));
    tracing::info!(target: "dapr.placement.server", "Node id={} is waiting for leadership", cluster.id);
    let (address, task_scope) = (cluster.own_address().to_owned(), scope.clone());
    scope.spawn("placement-election", async move {
        let stop = ending.clone().drop_guard();
        let token = task_scope.token().clone();
        let Some(listener) = token.run_until_cancelled(listen_late(&address)).await else {
            return Ok(());
        };
        serve(listener?, &replica, ending.clone(), &task_scope)?;
        let driver = Driver::start(replica, roles).await?;
        ready.set_ready();
        driver.run(&task_scope).await?;
        drop(stop);
        Ok(())
    });
    Ok(answer)
}

/// A single replica has no election, but tools probe the port: each connection is closed at once.
async fn answer(listener: TcpListener, scope: &Scope) {
    loop {
        tokio::select! {
            () = scope.token().cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((connection, _)) => drop(connection),
                // Out of descriptors: pending connections are accepted when some are free.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
}

async fn listen(address: &str) -> Result<TcpListener, PortError> {
    let (host, port) =
        address.rsplit_once(':').ok_or_else(|| PortError::Address(address.to_owned()))?;
    let port =
        port.parse().map_err(|cause| PortError::Port { address: address.to_owned(), cause })?;
    Ok(runtime::listen(host.trim_start_matches('[').trim_end_matches(']'), port).await?)
}

async fn listen_late(address: &str) -> Result<TcpListener, ElectionError> {
    let mut tries = 0;
    loop {
        match listen(address).await {
            Err(error) if tries < LISTEN.1 => {
                tracing::warn!(target: "dapr.placement.raft", "election port: {}; retrying", chain(&error));
            }
            done => return done.map_err(ElectionError::Listen),
        }
        tries += 1;
        tokio::time::sleep(random::jittered(LISTEN.0, 0.5)).await;
    }
}

fn serve(
    listener: TcpListener,
    replica: &Arc<Replica>,
    ending: CancellationToken,
    scope: &Scope,
) -> Result<(), TlsError> {
    let mut server = Server::new("placement-peers", listener, network::router(replica.clone()))
        .limits(peer_limits())
        .drain(CALL_LIMIT);
    if let Some((svid, id)) = &replica.identity {
        let replicas = ClientAuth::Only(id.clone());
        server = server.tls(transport::tls::server(svid, replicas, Alpn::Grpc)?);
    }
    scope.spawn("placement-peers", server.run_until(ending, scope.clone()));
    Ok(())
}

/// Starts elections when they are due, and publishes this replica's role.
struct Driver {
    replica: Arc<Replica>,
    raft: Raft<Types>,
    roles: watch::Sender<Role>,
    /// While no replica leads: when to start an election.
    next_try: Option<Instant>,
    /// Attempts since a leader was known.
    tries: u64,
}

impl Driver {
    async fn start(
        replica: Arc<Replica>,
        roles: watch::Sender<Role>,
    ) -> Result<Self, ElectionError> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let config = openraft::Config {
            cluster_name: "placement".to_owned(),
            heartbeat_interval: millis(HEARTBEAT),
            election_timeout_min: millis(VOTE),
            election_timeout_max: millis(quorum::LEASE),
            enable_elect: false,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(LOG),
            max_in_snapshot_log_to_keep: 0,
            ..openraft::Config::default()
        };
        let store = replica.store.clone();
        let connections = Connections(replica.clone());
        let config = Arc::new(config.validate()?);
        let raft = Raft::new(replica.id, config, connections, store.clone(), store).await?;
        // Set once, here.
        let _ = replica.raft.set(raft.clone());
        Ok(Self { replica, raft, roles, next_try: None, tries: 0 })
    }

    async fn run(mut self, scope: &Scope) -> Result<(), ElectionError> {
        let mut metrics = self.raft.metrics();
        loop {
            let wake = self.update_role(clock::monotonic())?;
            let timer = async {
                tokio::time::sleep_until(wake.into()).await;
            };
            tokio::select! {
                () = scope.token().cancelled() => break,
                changed = metrics.changed() => changed.map_err(ElectionError::Stopped)?,
                () = self.replica.news.notified() => {}
                () = timer => {}
            }
            if self.next_try.is_some_and(|at| at <= clock::monotonic()) {
                self.run_election().await?;
            }
        }
        self.hand_over().await;
        self.roles.send_replace(Role::Unknown);
        // Fails if it has stopped already.
        let _ = self.raft.shutdown().await;
        Ok(())
    }

    /// Updates this replica's role; returns when the role has to be checked again.
    fn update_role(&mut self, now: Instant) -> Result<Instant, ElectionError> {
        let (elected, term) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics
                .running_state
                .clone()
                .map_err(|cause| ElectionError::Failed(Box::new(cause)))?;
            (metrics.state.is_leader(), metrics.current_term)
        };
        let quorum = self.replica.quorum();
        let until = if elected { quorum.leads_until(term) } else { quorum.follows_until() };
        let (role, wake) = match until.filter(|until| now < *until) {
            Some(until) if elected => (Role::Leader { epoch: term.saturating_sub(1) }, until),
            Some(until) => (Role::Follower, until),
            None => (Role::Unknown, now + RETRY),
        };
        drop(quorum);
        if role != Role::Unknown {
            (self.next_try, self.tries) = (None, 0);
        } else if !elected {
            self.next_try.get_or_insert_with(|| now + STAGGER.mul_f64(random::fraction()));
        }
        self.roles.send_if_modified(|was| std::mem::replace(was, role) != role);
        Ok(self.next_try.unwrap_or(wake).min(wake))
    }

    /// Reads the state of all replicas, and starts an election if a majority knows no leader
    /// either.
    async fn run_election(&mut self) -> Result<(), ElectionError> {
        self.next_try = Some(clock::monotonic() + RETRY + STAGGER.mul_f64(random::fraction()));
        if !self.replica.quorum().can_vote(clock::monotonic()) {
            return Ok(());
        }
        let mut questions = JoinSet::new();
        for other in self.replica.others() {
            let replica = self.replica.clone();
            questions
                .spawn(async move { replica.call(other, "/standing", &(), CALL_LIMIT).await.ok() });
        }
        let states: Vec<ReplicaState> = questions.join_all().await.into_iter().flatten().collect();
        let free = 1 + states.iter().filter(|s| s.free).count();
        if free < self.replica.quorum().majority() {
            return Ok(());
        }
        self.tries += 1;
        let own = self.replica.store.last();
        if states.iter().any(|s| s.log > own) {
            return Ok(()); // the other would not vote for it; it starts an election itself
        }
        if self.replica.quorum().leader(clock::monotonic()).is_some() {
            return Ok(()); // another replica was faster
        }
        if own.is_some() {
            self.raft.trigger().elect().await?;
        } else if self.tries > self.replica.id {
            // The first replica initializes a new cluster; the others only if it does not.
            let members: BTreeSet<u64> = self.replica.addresses.keys().copied().collect();
            // Fails if another replica was faster.
            let _ = self.raft.initialize(members).await;
        }
        Ok(())
    }

    /// If this replica leads: makes another one the leader, and serves until it is elected.
    async fn hand_over(&self) {
        let mut metrics = self.raft.metrics();
        let (elected, term) = {
            let now = metrics.borrow_and_update();
            (now.state.is_leader(), now.current_term)
        };
        let (successor, until) = {
            let quorum = self.replica.quorum();
            (quorum.freshest(term), quorum.leads_until(term))
        };
        let (true, Some(successor), Some(until)) = (elected, successor, until) else { return };
        self.replica.yields.store(true, Ordering::Relaxed);
        self.raft.runtime_config().heartbeat(false);
        let answer = self.replica.call::<()>(successor, "/succeed", &(), CALL_LIMIT).await;
        if let Err(error) = answer {
            tracing::warn!(target: "dapr.placement.raft", "no successor: {}", chain(&error));
            return;
        }
        let replaced = metrics.wait_for(|now| !now.state.is_leader());
        if tokio::time::timeout_at(until.into(), replaced).await.is_err() {
            tracing::warn!(target: "dapr.placement.raft", "no successor was elected in time");
        }
    }
}
