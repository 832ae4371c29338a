//! Keeps etcd running, and stops it last.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use runtime::{ReadyGuard, clock};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::join::DataLost;
use super::launcher::Launcher;
use super::rejoin::Rejoin;
use super::{LOG, log};

/// Shortest and longest pause before a restart of etcd; each pause is twice the last.
const RESTART: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(10)];
/// An etcd that ran for this long is restarted after the shortest pause.
const STABLE: Duration = Duration::from_mins(1);
/// Time limit of a shutdown of etcd, in which it transfers its leadership.
const STOP: Duration = Duration::from_secs(3);

/// The supervisor of one etcd.
pub(super) struct Supervisor {
    pub(super) launcher: Launcher,
    pub(super) program: PathBuf,
    /// All but the state of the cluster.
    pub(super) arguments: Vec<String>,
    pub(super) rejoin: Rejoin,
    /// Ready while the process runs.
    pub(super) running: ReadyGuard,
    /// Requests a restart.
    pub(super) restart: Arc<Notify>,
}

impl Supervisor {
    /// Runs until `stop`, and returns when etcd has ended.
    pub(super) async fn run(self, stop: CancellationToken) {
        let [shortest, longest] = RESTART;
        let mut pause = shortest;
        let mut said = None;
        while !stop.is_cancelled() {
            let started = clock::monotonic();
            match self.run_once(&stop).await {
                Ok(End::Requested) => {
                    pause = shortest;
                    continue;
                }
                Ok(End::Unexpected(status)) => {
                    tracing::error!(target: LOG, "etcd ended ({status})");
                }
                Ok(End::Prevented(lost)) if said.as_ref() == Some(&lost) => {}
                Ok(End::Prevented(lost)) => {
                    tracing::error!(target: LOG, "{lost}");
                    said = Some(lost);
                }
                Err(error) => tracing::error!(target: LOG, "run etcd: {error}"),
            }
            if started.elapsed() >= STABLE {
                pause = shortest;
            }
            stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Runs etcd once.
    async fn run_once(&self, stop: &CancellationToken) -> io::Result<End> {
        // It starts with what an earlier request was about.
        let _ = self.restart.notified().now_or_never();
        let state = match stop.run_until_cancelled(self.rejoin.cluster_state()).await {
            None => return Ok(End::Requested),
            Some(Err(lost)) => return Ok(End::Prevented(lost)),
            Some(Ok(state)) => format!("--initial-cluster-state={}", state.as_str()),
        };
        let arguments = self.arguments.iter().chain([&state]);
        let mut child = self.launcher.spawn(&self.program, arguments).await?;
        self.running.set_ready();
        let pipe = child.stderr.take();
        let life = async {
            tokio::select! {
                status = child.wait() => return status.map(End::Unexpected),
                () = stop.cancelled() => {}
                () = self.restart.notified() => {}
            }
            end(&mut child).await.map(|_| End::Requested)
        };
        let log = async {
            if let Some(pipe) = pipe {
                log::repeat(pipe).await;
            }
        };
        let (end, ()) = tokio::join!(life, log);
        self.running.set_not_ready();
        end
    }
}

/// The end of a process.
enum End {
    /// At a stop or for a restart.
    Requested,
    Unexpected(ExitStatus),
    /// It was not started.
    Prevented(DataLost),
}

/// Shuts etcd down, and kills it after [`STOP`].
async fn end(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM); // it is killed if this has no effect
    }
    if let Ok(status) = tokio::time::timeout(STOP, child.wait()).await {
        return status;
    }
    child.start_kill()?;
    child.wait().await
}
