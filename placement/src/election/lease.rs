//! Leadership by a Lease of the cluster instead of a vote of the replicas. Opt-in: while the API
//! server is unavailable no replica can renew it, and every actor of the cluster is deactivated.
//!
//! The epoch is the Lease's count of holders, so versions grow as long as the Lease exists.

use kubernetes::lease::{self, LeaseOptions, LeaseState, Timing};
use kubernetes::{Precedence, Recorder};
use runtime::{ReadyGuard, Scope, environment};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Cluster, ElectionError, Role, answer, listen_late};

/// Name of the Lease, which the chart's Role allows.
const NAME: &str = "placement.dapr.io";
/// Component name in the Events about the Lease.
const CONTROLLER: &str = "dapr-placement";

/// Runs for the Lease in `namespace` until the process stops.
///
/// # Errors
/// [`ElectionError::NoApiServer`]: there are no credentials for an API server.
pub(super) async fn start(
    cluster: &Cluster,
    namespace: String,
    ready: ReadyGuard,
    ending: CancellationToken,
    scope: &Scope,
) -> Result<watch::Receiver<Role>, ElectionError> {
    let client = kubernetes::client(None, Precedence::InCluster).await;
    let client = client.map_err(ElectionError::NoApiServer)?;
    let (name, timing) = (NAME.to_owned(), Timing::BRISK);
    let options = LeaseOptions { namespace, name, identity: lease::identity(), timing };
    let recorder = Recorder::new(client.clone(), CONTROLLER, environment::hostname());
    let mut state = lease::run_election(client, options, recorder, scope);
    ready.set_ready();

    let (roles, known) = watch::channel(Role::Unknown);
    let token = scope.token().clone();
    scope.spawn("placement-lease", async move {
        let watch = async {
            loop {
                let role = role(*state.borrow_and_update());
                roles.send_if_modified(|was| std::mem::replace(was, role) != role);
                if state.changed().await.is_err() {
                    return; // the process stops
                }
            }
        };
        token.run_until_cancelled(watch).await;
        // The successor takes the Lease after its release; two replicas never serve at once.
        roles.send_replace(Role::Unknown);
        ending.cancel();
        Ok(())
    });

    // Tools probe the election port.
    let (address, probed) = (cluster.own_address().to_owned(), scope.clone());
    scope.spawn("placement-election", async move {
        let token = probed.token().clone();
        match token.run_until_cancelled(listen_late(&address)).await {
            Some(listener) => {
                answer(listener?, &probed).await;
                Ok(())
            }
            None => Ok(()),
        }
    });
    Ok(known)
}

fn role(state: LeaseState) -> Role {
    match state {
        LeaseState::Unknown => Role::Unknown,
        LeaseState::Follower => Role::Follower,
        LeaseState::Leader { transitions } => Role::Leader { epoch: transitions },
    }
}
