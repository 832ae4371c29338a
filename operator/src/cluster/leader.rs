//! Work of the leader.
use tokio::sync::watch;

/// Runs the future that `start` creates while `leading` is true and drops it when leadership is lost.
/// Never returns. Cancel safe if the work is.
pub(crate) async fn while_leading<F: Future<Output = ()>>(
    mut leading: watch::Receiver<bool>,
    start: impl Fn() -> F,
) {
    while leading.wait_for(|leading| *leading).await.is_ok() {
        tokio::select! {
            () = start() => {}
            () = lost(&mut leading) => {}
        }
    }
    std::future::pending::<()>().await; // the process is ending
}

/// Waits until this replica loses leadership; never returns when the election has ended.
async fn lost(leading: &mut watch::Receiver<bool>) {
    if leading.wait_for(|leading| !*leading).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn work_restarts_with_each_term() {
        let (running, started) = (AtomicUsize::new(0), Cell::new(0));
        let (leader, leading) = watch::channel(false);
        let work = || async {
            struct Running<'a>(&'a AtomicUsize);
            impl Drop for Running<'_> {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::Relaxed);
                }
            }
            started.set(started.get() + 1);
            running.fetch_add(1, Ordering::Relaxed);
            let _running = Running(&running);
            std::future::pending::<()>().await;
        };
        let mut all = std::pin::pin!(while_leading(leading, work));
        for (lead, want_running, want_started) in
            [(false, 0, 0), (true, 1, 1), (false, 0, 1), (true, 1, 2)]
        {
            leader.send_replace(lead);
            assert!(all.as_mut().now_or_never().is_none());
            assert_eq!(
                (running.load(Ordering::Relaxed), started.get()),
                (want_running, want_started)
            );
        }
        drop(leader);
        assert!(all.as_mut().now_or_never().is_none(), "the last state remains");
        assert_eq!(running.load(Ordering::Relaxed), 1);
    }
}
