//! From `main` to the exit code. [`signals`] says when to stop.

mod signals;

use std::process::ExitCode;
use std::time::Duration;

use crate::flags::ProcessFlags;
use crate::logging::{self, Logger};
use crate::scope::{BoxError, Scope};
use crate::text::chain;
use crate::{descriptors, environment, http};
use signals::Signals;

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
    F: AsyncFnOnce(Scope) -> Result<(), BoxError>,
{
    let logger = match logging::start(name, flags) {
        Ok(logger) => logger,
        Err(e) => {
            eprintln!("{name}: {}", chain(&e));
            return ExitCode::FAILURE;
        }
    };
    descriptors::raise();
    let outcome = runtime()
        .map_err(BoxError::from)
        .and_then(|rt| rt.block_on(supervise(name, flags, &logger, run)));
    let code = match outcome {
        Ok(()) => {
            tracing::info!(target: "dapr.runtime", "{} shut down gracefully", title(name));
            ExitCode::SUCCESS
        }
        Err(e) => {
            tracing::error!(fatal = true, "{}", chain(&*e));
            ExitCode::FAILURE
        }
    };
    logger.flush();
    code
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

/// Runs a command for interactive use, without log, health and metrics. Exit codes: 0 if it returns
/// `true`, 1 if it returns `false` or fails, with the reason on standard error.
pub fn command(name: &str, run: impl Future<Output = Result<bool, BoxError>>) -> ExitCode {
    match runtime().map_err(BoxError::from).and_then(|rt| rt.block_on(run)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{name}: {}", chain(&*e));
            ExitCode::FAILURE
        }
    }
}

/// Why a process does not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("start the async runtime")]
    Runtime(#[source] std::io::Error),
    #[error("listen for signals")]
    Signals(#[source] std::io::Error),
}

fn runtime() -> Result<tokio::runtime::Runtime, StartError> {
    // Fails only if a provider is installed already, which is then the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(MAX_WORKERS))
        .max_blocking_threads(MAX_BLOCKING)
        .enable_all()
        .build()
        .map_err(StartError::Runtime)
}

async fn supervise<F>(
    name: &'static str,
    flags: &ProcessFlags,
    logger: &Logger,
    run: F,
) -> Result<(), BoxError>
where
    F: AsyncFnOnce(Scope) -> Result<(), BoxError>,
{
    let scope = Scope::default();
    logger.register(scope.metrics())?;
    let mut signals = Signals::install().map_err(StartError::Signals)?;
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
        Ok::<(), BoxError>(())
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
            logger.flush();
            std::process::exit(1);
        }
    }
    outcome?;
    scope.take_failure().map_or(Ok(()), |failure| Err(failure.into()))
}

/// Why a service refuses its user.
#[derive(Debug, thiserror::Error)]
pub enum RootUserError {
    /// The current user is not known.
    #[error("find the current user")]
    Unknown(#[source] std::io::Error),
    /// The current user is root.
    #[error(
        "current user UID({uid}) is root, which is not allowed; run as another user, or set {SKIP_CHECK}=true"
    )]
    Root {
        /// Effective user id of the process, 0 for root.
        uid: u32,
    },
}

const SKIP_CHECK: &str = "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK";

/// Returns an error for root unless `DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK` is exactly `true`.
/// Source: Dapr 1.18, security module in Kubernetes mode.
///
/// # Errors
/// The effective user id is 0 and the check is not switched off.
pub fn refuse_root() -> Result<(), RootUserError> {
    if environment::var(SKIP_CHECK).as_deref() == Some("true") {
        return Ok(());
    }
    let uid = effective_user().map_err(RootUserError::Unknown)?;
    if uid == 0 { Err(RootUserError::Root { uid }) } else { Ok(()) }
}

#[cfg(unix)]
fn effective_user() -> std::io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of a process's own entry is its effective user.
    Ok(std::fs::metadata("/proc/self")?.uid())
}

#[cfg(not(unix))]
fn effective_user() -> std::io::Result<u32> {
    Err(std::io::ErrorKind::Unsupported.into())
}
