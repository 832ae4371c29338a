//! Leader election by a Lease (`coordination.k8s.io/v1`), so that one replica writes at a time.
//!
//! The rules are those of client-go's leader election: a holder that has not renewed the lease for
//! its duration, counted from when *this* candidate last saw it change, has lost it. Clocks of
//! different machines are never compared. `decision` is pure; `candidate` makes the calls.

mod candidate;
mod decision;

use std::time::Duration;

use kube::Client;
use runtime::{Scope, environment, random};
use tokio::sync::watch;

use crate::events::Recorder;
use candidate::Candidate;

/// The intervals of an election.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// A holder that does not renew for this long has lost the lease. Whole seconds.
    pub lease: Duration,
    /// A holder that could not renew for this long stops leading, before another may start.
    pub renew_deadline: Duration,
    /// Time between two attempts or renewals.
    pub retry: Duration,
}

impl Timing {
    /// For work that may pause: the next candidate leads fifteen seconds after the holder has
    /// failed. Source: Dapr 1.18, operator.
    pub const PATIENT: Self = Self {
        lease: Duration::from_secs(15),
        renew_deadline: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };
    /// For work that clients wait for: five seconds after the holder has failed, at two writes per
    /// second.
    pub const BRISK: Self = Self {
        lease: Duration::from_secs(4),
        renew_deadline: Duration::from_secs(3),
        retry: Duration::from_millis(500),
    };
}

/// The lease and the identity of this candidate.
#[derive(Debug, Clone)]
pub struct LeaseOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Unique among the candidates; see [`identity`].
    pub identity: String,
    /// Intervals; the same for all candidates.
    pub timing: Timing,
}

/// The holder of a lease as one candidate has observed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// The lease is free or expired, or its holder is unknown.
    Unknown,
    /// Another candidate holds it.
    Follower,
    /// This candidate holds it.
    Leader {
        /// How often the holder changed since the Lease was created.
        transitions: u64,
    },
}

impl LeaseState {
    /// Whether this candidate holds the lease.
    pub fn is_leader(self) -> bool {
        matches!(self, Self::Leader { .. })
    }
}

/// Why there is no election.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The process does not run in a pod. The text is that of Dapr 1.18.
    #[error("unable to find leader election namespace: not running in-cluster")]
    NotInCluster,
}

/// `<hostname>_<random>`, the form that client-go uses.
pub fn identity() -> String {
    format!("{}_{:016x}{:016x}", environment::hostname(), random::bits(), random::bits())
}

/// The namespace of this pod, where its leases are.
///
/// # Errors
/// [`LeaseError::NotInCluster`].
pub fn pod_namespace() -> Result<String, LeaseError> {
    const FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
    let text = std::fs::read_to_string(FILE).map_err(|_| LeaseError::NotInCluster)?;
    Ok(text.trim().to_owned())
}

/// Runs for election until the scope ends, then releases the lease. The receiver follows the state
/// of this candidate; it leaves [`LeaseState::Leader`] before another candidate can acquire the
/// lease. Changes are recorded as Events on the Lease.
pub fn run_election(
    client: Client,
    options: LeaseOptions,
    recorder: Recorder,
    scope: &Scope,
) -> watch::Receiver<LeaseState> {
    let (known, receiver) = watch::channel(LeaseState::Unknown);
    start(client, options, recorder, scope, move |state| {
        known.send_if_modified(|was| std::mem::replace(was, state) != state);
    });
    receiver
}

/// As [`run_election`], for a process that only needs to know whether it leads.
pub fn run_leader_election(
    client: Client,
    options: LeaseOptions,
    recorder: Recorder,
    scope: &Scope,
) -> watch::Receiver<bool> {
    let (leading, receiver) = watch::channel(false);
    start(client, options, recorder, scope, move |state| {
        leading.send_if_modified(|was| std::mem::replace(was, state.is_leader()) != *was);
    });
    receiver
}

fn start(
    client: Client,
    options: LeaseOptions,
    recorder: Recorder,
    scope: &Scope,
    publish: impl Fn(LeaseState) + Send + Sync + 'static,
) {
    let candidate = Candidate::new(client, options, recorder);
    let token = scope.token().clone();
    scope.spawn("leader-election", async move {
        candidate.run(&token, publish).await;
        Ok(())
    });
}
