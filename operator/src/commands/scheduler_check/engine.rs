//! The engine that the scheduler of the cluster chose: it depends on what is on its volume, so only
//! the process knows it.

use std::time::Duration;

use clap::ValueEnum as _;
use transport::fetch::{Fetcher, Roots};

use super::Engine;
use super::layout::LiveScheduler;

/// The series in the metrics of our scheduler; Dapr's has none.
const SERIES: &str = "dapr_scheduler_store{engine=\"";
const ANSWER: Duration = Duration::from_secs(5);
/// Limit of its metrics; with those of etcd they have about 200 KiB.
const MAX_BYTES: usize = 8 << 20;

/// Completes the layout of a scheduler that chose its engine, if it answers.
pub(super) async fn complete(live: &mut LiveScheduler, host: &str) {
    let (Some(engine), Some(port)) = (live.layout.chosen_engine(), live.metrics_port) else {
        return;
    };
    match metrics(host, port).await {
        Ok(text) => *engine = named(&text).unwrap_or(Engine::Auto),
        Err(error) => tracing::info!(
            target: "dapr.operator.scheduler",
            "the engine of the scheduler is unknown, its metrics port does not answer: {}",
            runtime::chain(error.as_ref())
        ),
    }
}

async fn metrics(host: &str, port: u16) -> Result<String, runtime::BoxError> {
    let fetcher = Fetcher::new(&Roots::System, ANSWER, MAX_BYTES)?;
    let text = fetcher.get(&format!("http://{host}:{port}/metrics")).await?;
    Ok(String::from_utf8(text.into())?)
}

/// The engine in the text of its metrics.
fn named(metrics: &str) -> Option<Engine> {
    let (name, _) = metrics.lines().find_map(|line| line.strip_prefix(SERIES))?.split_once('"')?;
    Engine::from_str(name, false).ok()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::embedded(
        "# TYPE dapr_scheduler_store gauge\ndapr_scheduler_store{engine=\"embedded\"} 1\n",
        Some(Engine::Embedded)
    )]
    #[case::etcd("a 1\ndapr_scheduler_store{engine=\"etcd\"} 1", Some(Engine::Etcd))]
    #[case::external("dapr_scheduler_store{engine=\"external\"} 1", None)]
    #[case::older("dapr_scheduler_store_serves 1", None)]
    #[case::cut("dapr_scheduler_store{engine=\"etcd", None)]
    fn its_metrics_name_the_engine(#[case] metrics: &str, #[case] want: Option<Engine>) {
        assert_eq!(named(metrics), want);
    }
}
