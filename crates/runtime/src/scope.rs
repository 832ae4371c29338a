//! What a process passes to its parts: cancellation, tasks, readiness and metrics.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use prometheus::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::health::liveness::{Heartbeat, Liveness};
use crate::health::{Readiness, ReadyGuard};
use crate::metrics::MetricsSource;
use crate::metrics::server::{LimitMeter, ServerMetrics};

/// The error of a task: tasks belong to all parts of a service, and only the log reads it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a scope stopped without a request, or did not stop in time.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A task returned an error.
    #[error("{task} failed")]
    Failed {
        /// Name of the task.
        task: &'static str,
        /// The error that the task returned.
        #[source]
        cause: BoxError,
    },
    /// A task returned before the scope was cancelled.
    #[error("{0} ended before the process was stopped")]
    Ended(&'static str),
    /// A task panicked.
    #[error("{0} panicked")]
    Panicked(&'static str),
    /// Tasks did not end in time.
    #[error("{tasks} tasks were still running {seconds} s after the stop")]
    StillRunning {
        /// Number of tasks that still run.
        tasks: usize,
        /// The time limit in seconds.
        seconds: u64,
    },
}

/// The lifetime of a process (or of one test). Cheap to clone.
///
/// Every task has a name and belongs to the scope. A task that fails, panics or ends before the
/// scope is cancelled stops the process, because a restart is the recovery. The method that spawns
/// a task determines its lifetime; names are for messages only.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    token: CancellationToken,
    /// Cancelled when the other tasks have ended: health and metrics answer until then.
    drained: CancellationToken,
    tasks: TaskTracker,
    last_tasks: TaskTracker,
    readiness: Readiness,
    liveness: Liveness,
    registry: Registry,
    server_metrics: Arc<OnceLock<ServerMetrics>>,
    /// Routes of the service on the health port.
    extra_routes: Arc<OnceLock<Router>>,
    /// Metrics of a child process.
    extra_metrics: Arc<OnceLock<MetricsSource>>,
    failure: Arc<Mutex<Option<TaskError>>>,
}

impl Scope {
    /// A scope without servers or signals, for tests that run a service in process.
    pub fn for_test() -> Self {
        Self::default()
    }

    /// Cancelled when the process should stop: a signal arrived, or a task failed.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs a part of the process that stops itself when the scope is cancelled, for example to
    /// finish what it has accepted. Returning earlier, with or without an error, stops the process
    /// with exit code 1.
    pub fn spawn(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), BoxError>> + Send + 'static,
    ) {
        let watch = TaskWatch { name, scope: self.clone(), end: self.token.clone(), ended: false };
        self.tasks.spawn(async move {
            let outcome = work.await;
            watch.ended(outcome);
        });
    }

    /// Runs a part of the process that is dropped when the scope is cancelled. Returning earlier
    /// stops the process with exit code 1. Dropping `work` at any `.await` must be safe.
    pub fn spawn_until_cancelled(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let token = self.token.clone();
        self.spawn(name, async move {
            token.run_until_cancelled(work).await;
            Ok(())
        });
    }

    /// Runs a part of the process that outlives all others, for example the health port. `work`
    /// stops itself when [`Scope::drained`] is cancelled; returning earlier stops the process with
    /// exit code 1.
    pub fn spawn_last(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<(), BoxError>> + Send + 'static,
    ) {
        let end = self.drained.clone();
        let watch = TaskWatch { name, scope: self.clone(), end, ended: false };
        self.last_tasks.spawn(async move {
            let outcome = work.await;
            watch.ended(outcome);
        });
    }

    /// Runs work that ends at any time. A shutdown waits for it.
    pub fn spawn_detached(
        &self,
        _name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.spawn(work);
    }

    /// Registers a health target, which is not ready until its guard reports so.
    pub fn ready(&self, name: &'static str) -> ReadyGuard {
        self.readiness.guard(name)
    }

    /// Whether every health target is ready.
    pub fn is_ready(&self) -> bool {
        self.readiness.all_ready()
    }

    /// Registers a loop that must go on: `/livez` fails while it has not beaten for longer than
    /// `limit`. It is not judged before its first beat.
    pub fn heartbeat(&self, name: &'static str, limit: Duration) -> Heartbeat {
        self.liveness.heartbeat(name, limit)
    }

    /// The loops that have not beaten in time, at `now`.
    pub fn stuck(&self, now: Instant) -> Vec<&'static str> {
        self.liveness.stuck(now)
    }

    /// The metrics registry that the metrics port serves.
    pub fn metrics(&self) -> &Registry {
        &self.registry
    }

    /// Counts how often the limit `limit` of the listener or part `server` is hit; both are values of
    /// labels.
    pub fn limit_meter(&self, server: &'static str, limit: &'static str) -> LimitMeter {
        self.server_metrics().limit(server, limit)
    }

    /// The metrics of this process's listeners.
    pub(crate) fn server_metrics(&self) -> &ServerMetrics {
        self.server_metrics.get_or_init(|| {
            ServerMetrics::register(&self.registry).expect("names of server metrics are not taken")
        })
    }

    /// Cancels the scope and waits for its tasks, at most 30 seconds.
    ///
    /// # Errors
    /// The first failure of a task, or [`TaskError::StillRunning`].
    pub async fn shutdown(&self) -> Result<(), TaskError> {
        self.token.cancel();
        self.drain(Duration::from_secs(30)).await;
        self.take_failure().map_or(Ok(()), Err)
    }

    /// Serves more paths on the health port, plain and unauthenticated. Once per process; a second
    /// call has no effect.
    pub fn serve_with_health(&self, routes: Router) {
        let _ = self.extra_routes.set(routes);
    }

    /// Serves metrics of another program below the own. Once per process; a second call has no
    /// effect.
    pub fn append_metrics(&self, source: MetricsSource) {
        let _ = self.extra_metrics.set(source);
    }

    pub(crate) fn extra_metrics(&self) -> Arc<OnceLock<MetricsSource>> {
        self.extra_metrics.clone()
    }

    pub(crate) fn extra_routes(&self) -> Arc<OnceLock<Router>> {
        self.extra_routes.clone()
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Cancelled after the tasks of a cancelled scope have ended, or their time limit has passed.
    pub fn drained(&self) -> &CancellationToken {
        &self.drained
    }

    pub(crate) fn fail(&self, error: TaskError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.token.cancel();
    }

    pub(crate) fn take_failure(&self) -> Option<TaskError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Waits for the tasks of a cancelled scope, then ends health and metrics.
    pub(crate) async fn drain(&self, limit: Duration) {
        for (tracker, end) in [(&self.tasks, None), (&self.last_tasks, Some(&self.drained))] {
            if let Some(end) = end {
                end.cancel();
            }
            tracker.close();
            if tokio::time::timeout(limit, tracker.wait()).await.is_err() {
                let (tasks, seconds) = (tracker.len(), limit.as_secs());
                self.fail(TaskError::StillRunning { tasks, seconds });
            }
        }
    }
}

/// Distinguishes the ordered end of a task from an early one, a failure and a panic.
struct TaskWatch {
    name: &'static str,
    scope: Scope,
    end: CancellationToken,
    ended: bool,
}

impl TaskWatch {
    fn ended(mut self, outcome: Result<(), BoxError>) {
        self.ended = true;
        match outcome {
            Err(cause) => self.scope.fail(TaskError::Failed { task: self.name, cause }),
            Ok(()) if !self.end.is_cancelled() => self.scope.fail(TaskError::Ended(self.name)),
            Ok(()) => {}
        }
    }
}

impl Drop for TaskWatch {
    fn drop(&mut self) {
        if !self.ended && !self.end.is_cancelled() {
            self.scope.fail(TaskError::Panicked(self.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_early_ends_the_scope_and_is_named() {
        let scope = Scope::for_test();
        scope.spawn("reflector", async { Ok(()) });
        scope.token().cancelled().await;
        let text = scope.shutdown().await.unwrap_err().to_string();
        assert_eq!(text, "reflector ended before the process was stopped");
    }

    #[tokio::test]
    async fn a_panicking_task_ends_the_scope() {
        let scope = Scope::for_test();
        scope.spawn("owner", async { panic!("on purpose") });
        scope.token().cancelled().await;
        assert_eq!(scope.shutdown().await.unwrap_err().to_string(), "owner panicked");
    }

    #[tokio::test]
    async fn a_task_until_cancelled_is_dropped_and_may_not_end_early() {
        let scope = Scope::for_test();
        scope.spawn_until_cancelled("watch", std::future::pending());
        assert!(scope.shutdown().await.is_ok());
        let scope = Scope::for_test();
        scope.spawn_until_cancelled("watch", async {});
        scope.token().cancelled().await;
        let text = scope.shutdown().await.unwrap_err().to_string();
        assert_eq!(text, "watch ended before the process was stopped");
    }

    #[tokio::test]
    async fn the_last_tasks_outlive_the_others_whatever_their_names_are() {
        let scope = Scope::for_test();
        let (token, drained) = (scope.token().clone(), scope.drained().clone());
        scope.spawn("healthz-server", {
            let drained = drained.clone();
            async move {
                token.cancelled().await;
                assert!(!drained.is_cancelled());
                Ok(())
            }
        });
        scope.spawn_last("last", async move {
            drained.cancelled().await;
            Ok(())
        });
        assert!(scope.shutdown().await.is_ok());
    }

    #[tokio::test]
    async fn an_ordered_stop_is_no_failure() {
        let scope = Scope::for_test();
        let token = scope.token().clone();
        scope.spawn("server", async move {
            token.cancelled().await;
            Ok(())
        });
        assert!(scope.shutdown().await.is_ok());
    }
}
