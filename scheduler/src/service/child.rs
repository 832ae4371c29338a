//! An etcd as child process: the store of several members, and of a directory in which Dapr's own
//! scheduler has jobs. Start reading at [`start`].
//!
//! ```text
//!  flags ──arguments (pure)──► supervisor ──launcher──► etcd ──standard error──► log
//!  other members ──rejoin──join (pure)──┘                      ▲ reads at each handshake
//!                          peer_files: SVID ──writes──► certificate, key, anchors
//! ```
//! [`join`] says whether a member without files may start. [`data`] counts the members in the files
//! of an etcd that does not run. The store itself is `store::etcd`, on the child's own client port.

mod arguments;
mod bolt;
pub(crate) mod data;
mod defragmentation;
mod join;
mod launcher;
mod log;
mod metrics;
mod peer_files;
pub(crate) mod program;
mod rejoin;
mod supervisor;

use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use runtime::Scope;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use transport::Svid;

use crate::config::{ChildEtcd, Config};

use self::arguments::{CommandLine, Machine};
use self::defragmentation::Defragmentation;
use self::launcher::Launcher;
use self::peer_files::PeerFiles;
use self::rejoin::Rejoin;
use self::supervisor::Supervisor;

pub use launcher::exec_child;

const LOG: &str = "dapr.scheduler.etcd";

/// Why etcd cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// The certificate lacks the name by which other members know this one.
    #[error(
        "peer certificate does not contain the expected DNS name {name}, but {found:?}: the host of \
         each URL in --etcd-initial-cluster must be under the cluster's own domain, in the chart \
         global.dnsSuffix"
    )]
    PeerName {
        /// The host of the own URL.
        name: String,
        /// The names of the certificate.
        found: Vec<String>,
    },
    /// The file system refuses.
    #[error("prepare {} for etcd", .0.display())]
    Prepare(PathBuf, #[source] io::Error),
    /// The system has no thread left.
    #[error("start the thread that starts etcd")]
    Thread(#[source] io::Error),
}

/// Starts etcd, and restarts it whenever it ends, until the other tasks of the process have ended.
/// Returns the URL of its client port. While etcd does not run for a reason that callers should
/// know, that is the `obstacle`.
///
/// # Errors
/// [`ChildError`]
pub(crate) async fn start(
    config: &Config,
    child: &ChildEtcd,
    program: PathBuf,
    svid: Option<&Svid>,
    obstacle: Arc<ArcSwapOption<String>>,
    scope: &Scope,
) -> Result<String, ChildError> {
    let machine = Machine {
        ipv6: TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await.is_ok(),
        ipv6_loopback: TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok(),
    };
    let command_line = CommandLine { config, child, machine };
    let directory = &config.reference_dir;
    data::prepare(directory, &child.marker)
        .map_err(|error| ChildError::Prepare(directory.clone(), error))?;
    let restart = Arc::new(Notify::new());
    let stop = scope.drained().clone();
    let (arguments, tls) = match svid.filter(|_| child.own.with_tls()) {
        None => (command_line.arguments(None), None),
        Some(svid) => {
            let files = peer_files(child, svid)?;
            let arguments = command_line.arguments(Some(files.as_tls()));
            let client = files.as_client();
            let renewal = files.renew(svid.clone(), restart.clone(), turn(child), stop.clone());
            scope.spawn_last("scheduler-etcd-certificate", async move {
                renewal.await;
                Ok(())
            });
            (arguments, Some(client))
        }
    };
    let rejoin = Rejoin::new(directory.clone(), child, tls, obstacle);
    let client_url = arguments::client_url(&config.client);
    scope.append_metrics(metrics::source(&client_url));
    let launcher = Launcher::start().map_err(ChildError::Thread)?;
    let running = scope.ready("scheduler-etcd-process");
    let supervisor = Supervisor { launcher, program, arguments, rejoin, running, restart };
    scope.spawn_last("scheduler-etcd-process", async move {
        supervisor.run(stop).await;
        Ok(())
    });
    Ok(client_url)
}

/// Writes the certificate for the connections between members.
fn peer_files(child: &ChildEtcd, svid: &Svid) -> Result<PeerFiles, ChildError> {
    let found = svid.current().chain().leaf_dns_names();
    let name = child.own.host().to_owned();
    if !found.contains(&name) {
        return Err(ChildError::PeerName { name, found });
    }
    let directory = &child.identity_dir;
    PeerFiles::write_first(directory, svid)
        .map_err(|error| ChildError::Prepare(directory.clone(), error))
}

/// When this member defragments its etcd.
pub(crate) fn defragmentation(child: &ChildEtcd) -> Defragmentation {
    let members = u32::try_from(child.peers.len()).unwrap_or(u32::MAX);
    Defragmentation { interval: child.defragment_interval, turn: turn(child), members }
}

/// The position of this member in the order of ids.
fn turn(child: &ChildEtcd) -> u32 {
    let before = child.peers.iter().filter(|peer| peer.id < child.own.id).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}
