//! Metrics of the caches and streams, collected at each scrape.
use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use resources::CustomResource;
use runtime::clock;

use crate::api::context::Stores;
use crate::cache::store::Store;

const OBJECTS: &str = "dapr_operator_objects";
const STREAMS: &str = "dapr_operator_streams";
const WAITING: &str = "dapr_operator_stream_events_waiting";
const COALESCED: &str = "dapr_operator_stream_events_coalesced_total";
const QUIET: &str = "dapr_operator_seconds_since_change";

/// The store of one kind, without its type.
trait Measured: Send + Sync {
    fn kind(&self) -> &'static str;
    /// Objects, open streams, and pending events of the streams.
    fn counts(&self) -> [usize; 3];
    /// Events that replaced a pending one.
    fn coalesced(&self) -> u64;
    /// Seconds since the last change of an object; `None` before the first change.
    fn quiet(&self) -> Option<u64>;
}

impl<K: CustomResource> Measured for Store<K> {
    fn kind(&self) -> &'static str {
        K::KIND
    }

    fn counts(&self) -> [usize; 3] {
        let (streams, waiting) = self.streams();
        [self.len(), streams, waiting]
    }

    fn coalesced(&self) -> u64 {
        Store::coalesced(self)
    }

    fn quiet(&self) -> Option<u64> {
        let changed = self.last_change()?;
        Some(clock::monotonic().saturating_duration_since(changed).as_secs())
    }
}

/// The collector of all kinds.
struct Gauges {
    kinds: Vec<Arc<dyn Measured>>,
    counts: [IntGaugeVec; 3],
    coalesced: IntCounterVec,
    quiet: IntGaugeVec,
}

impl Gauges {
    fn parts(&self) -> impl Iterator<Item = &dyn Collector> {
        let counts = self.counts.iter().map(|gauge| -> &dyn Collector { gauge });
        let others: [&dyn Collector; 2] = [&self.coalesced, &self.quiet];
        counts.chain(others)
    }
}

/// Registers the gauges of `stores`.
///
/// # Errors
/// A name is registered already.
pub(crate) fn register(registry: &Registry, stores: &Stores) -> prometheus::Result<()> {
    let gauges = |name: &str, help: &str| IntGaugeVec::new(Opts::new(name, help), &["kind"]);
    let counts = [
        gauges(OBJECTS, "Objects in the cache")?,
        gauges(STREAMS, "Open update streams of sidecars")?,
        gauges(WAITING, "Events pending on update streams, at most one per object and stream")?,
    ];
    let quiet = gauges(QUIET, "Seconds since the last change of an object")?;
    let text = "Events that replaced one pending on a stream";
    let coalesced = IntCounterVec::new(Opts::new(COALESCED, text), &["kind"])?;
    let kinds: Vec<Arc<dyn Measured>> = vec![
        stores.components.clone(),
        stores.configurations.clone(),
        stores.subscriptions.clone(),
        stores.resiliencies.clone(),
        stores.http_endpoints.clone(),
        stores.mcp_servers.clone(),
        stores.workflow_access_policies.clone(),
    ];
    registry.register(Box::new(Gauges { kinds, counts, coalesced, quiet }))
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.parts().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        for kind in &self.kinds {
            for (gauge, count) in self.counts.iter().zip(kind.counts()) {
                let count = u64::try_from(count).unwrap_or(u64::MAX);
                gauge.with_label_values(&[kind.kind()]).set(whole(count));
            }
            let coalesced = self.coalesced.with_label_values(&[kind.kind()]);
            coalesced.inc_by(kind.coalesced().saturating_sub(coalesced.get()));
            if let Some(quiet) = kind.quiet() {
                self.quiet.with_label_values(&[kind.kind()]).set(whole(quiet));
            }
        }
        self.parts().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use kubernetes::WatchEvent;
    use serde_json::json;

    use super::*;

    #[test]
    fn metrics_are_collected_at_each_scrape() {
        let (registry, stores) = (Registry::new(), Stores::default());
        register(&registry, &stores).unwrap();
        let printed = || {
            let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
            let text = text.unwrap();
            let ours = text.lines().filter(|line| line.contains("{kind=\"Component\"}"));
            ours.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(printed().len(), 4, "no change yet: {:?}", printed());
        let components = &stores.components;
        components.apply(WatchEvent::Init).unwrap();
        components.apply(WatchEvent::InitDone).unwrap();
        let stream = components.subscribe("n", "a");
        for version in ["1", "2"] {
            let raw = json!({"metadata": {"name": "c", "namespace": "n", "resourceVersion": version},
                "spec": {"version": version}});
            components.apply(WatchEvent::Apply(serde_json::from_value(raw).unwrap())).unwrap();
        }
        for name in [OBJECTS, STREAMS, WAITING, COALESCED] {
            assert!(printed().contains(&format!("{name}{{kind=\"Component\"}} 1")), "{name}");
        }
        assert!(printed().iter().any(|line| line.starts_with(QUIET)));
        drop(stream);
        assert!(printed().contains(&format!("{STREAMS}{{kind=\"Component\"}} 0")));
    }
}
