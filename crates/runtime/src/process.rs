//! From `main` to the exit code.

use std::os::unix::fs::MetadataExt as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{ProcessFlags, Scope, descriptors, environment, http, logging};

/// The version of this release, which follows Dapr's.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the parts of a process may take to end after the first signal. Below the 30 seconds
/// that Kubernetes grants by default.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// I/O threads: the services wait most of the time, and every thread costs memory.
const MAX_WORKERS: usize = 4;

/// Threads for blocking work (file reads, signing).
const MAX_BLOCKING: usize = 16;

/// Runs a service: crypto provider, logs, health and metrics, signals, then `run`, which wires the
/// parts into the scope and may return as soon as that is done.
///
/// Exit codes: 0 after an ordered stop, 1 after any error (one fatal log line) or a second signal.
/// `name` is the log scope, for example `dapr.sentry`.
pub fn main<F>(name: &'static str, flags: &ProcessFlags, run: F) -> ExitCode
where
    F: AsyncFnOnce(Scope) -> anyhow::Result<()>,
{
    if let Err(e) = logging::start(name, flags) {
        eprintln!("{name}: {e:#}");
        return ExitCode::FAILURE;
    }
    descriptors::raise();
    let outcome = runtime().and_then(|rt| rt.block_on(supervise(name, flags, run)));
    match outcome {
        Ok(()) => {
            tracing::info!(target: "dapr.runtime", "{} shut down gracefully", title(name));
            ExitCode::SUCCESS
        }
        Err(e) => {
            tracing::error!(fatal = true, "{e:#}");
            ExitCode::FAILURE
        }
    }
}

/// The name of a service in its last log line. Source: Dapr 1.18.
fn title(name: &'static str) -> &'static str {
    match name {
        "dapr.sentry" => "Sentry",
        "dapr.placement" => "Placement service",
        "dapr.scheduler" => "Scheduler service",
        other => other.strip_prefix("dapr.").unwrap_or(other),
    }
}

/// Runs a person's command, which has no log, no health and no metrics. Exit codes: 0 when it comes
/// to `true`, 1 when it comes to `false` or fails, with the reason on standard error.
pub fn command(name: &str, run: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    match runtime().and_then(|rt| rt.block_on(run)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{name}: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Fails only if a provider is installed already, which is then the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .max_blocking_threads(MAX_BLOCKING)
        .enable_all()
        .build()
        .context("start the async runtime")
}

async fn supervise<F>(name: &'static str, flags: &ProcessFlags, run: F) -> anyhow::Result<()>
where
    F: AsyncFnOnce(Scope) -> anyhow::Result<()>,
{
    let scope = Scope::default();
    let mut signals = Signals::install()?;
    let starting = scope.ready("start-up");
    http::start(flags, &scope).await?;
    let life = async {
        let mut wiring = std::pin::pin!(run(scope.clone()));
        // The first poll registers the service's own health targets; until then this one keeps
        // `/healthz` from being 200 for a moment.
        let wired = tokio::select! {
            biased;
            wired = &mut wiring => Some(wired),
            () = std::future::ready(()) => None,
        };
        starting.set_ready();
        let wired = match wired {
            Some(wired) => Some(wired),
            None => scope.token().run_until_cancelled(wiring).await,
        };
        wired.transpose()?;
        scope.token().cancelled().await;
        anyhow::Ok(())
    };
    let outcome = tokio::select! {
        outcome = life => outcome,
        which = signals.next() => {
            tracing::info!(target: "dapr.signals", "Received signal {which}; beginning shutdown");
            Ok(())
        }
    };
    scope.token().cancel();
    tokio::select! {
        () = scope.drain(DRAIN_LIMIT) => {}
        which = signals.next() => {
            tracing::warn!(target: "dapr.signals", "Received signal {which} during shutdown; exiting {name} immediately");
            std::process::exit(1);
        }
    }
    outcome?;
    scope.take_failure().map_or(Ok(()), Err)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupt",
            _ = self.terminate.recv() => "terminated",
        }
    }
}

/// Refuses to run as root unless `DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK` is exactly `true`.
/// Source: Dapr 1.18, security module in Kubernetes mode.
///
/// # Errors
/// The effective user id is 0 and the check is not switched off.
pub fn refuse_root() -> anyhow::Result<()> {
    const SKIP: &str = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK";
    if environment::var(SKIP).as_deref() == Some("true") {
        return Ok(());
    }
    // The owner of a process's own entry is its effective user.
    let uid = std::fs::metadata("/proc/self").context("find the current user")?.uid();
    anyhow::ensure!(
        uid != 0,
        "current user UID({uid}) is root, which is not allowed; run as another user, or set {SKIP}=true"
    );
    Ok(())
}
