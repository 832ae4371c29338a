//! Creates and registers metrics in one step.

pub(crate) mod server;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, Result,
};

/// Metrics of another program in the text format, read whenever the metrics port is.
#[derive(Clone)]
pub struct MetricsSource(Arc<dyn Fn() -> Reading + Send + Sync>);

type Reading = Pin<Box<dyn Future<Output = String> + Send>>;

impl MetricsSource {
    /// What `read` returns: whole lines, or nothing while the program does not answer.
    pub fn new<F>(read: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = String> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(read())))
    }

    pub(crate) async fn read(&self) -> String {
        (self.0)().await
    }
}

impl fmt::Debug for MetricsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsSource")
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// A counter without labels.
///
/// # Errors
/// The name is invalid or registered already; so for every function here.
pub fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter> {
    register(registry, IntCounter::new(name, help)?)
}

/// A counter per combination of label values.
#[expect(clippy::missing_errors_doc, reason = "as `counter`")]
pub fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

/// A whole-number gauge without labels.
#[expect(clippy::missing_errors_doc, reason = "as `counter`")]
pub fn gauge(registry: &Registry, name: &str, help: &str) -> Result<IntGauge> {
    register(registry, IntGauge::new(name, help)?)
}

/// A whole-number gauge per combination of label values.
#[expect(clippy::missing_errors_doc, reason = "as `counter`")]
pub fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

/// A real-number gauge without labels.
#[expect(clippy::missing_errors_doc, reason = "as `counter`")]
pub fn real_gauge(registry: &Registry, name: &str, help: &str) -> Result<Gauge> {
    register(registry, Gauge::new(name, help)?)
}

/// A real-number gauge per combination of label values.
#[expect(clippy::missing_errors_doc, reason = "as `counter`")]
pub fn real_gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec> {
    register(registry, GaugeVec::new(Opts::new(name, help), labels)?)
}

/// A histogram per combination of label values; `buckets` are upper bounds in the metric's unit.
#[expect(clippy::missing_errors_doc, reason = "as `counter`")]
pub fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    buckets: &[f64],
) -> Result<HistogramVec> {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, labels)?)
}
