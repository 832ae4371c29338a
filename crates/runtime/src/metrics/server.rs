//! Metrics of listeners, and the names of their limits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use tokio::time::Instant;

use crate::metrics::{counters, gauges};

const LIMIT_HITS: &str = "trilby_server_limit_hits_total";
const CONNECTIONS: &str = "trilby_server_connections";
const PANICS: &str = "trilby_server_panics_total";

/// A limit that is hit again within this time is not logged again.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// A limit that was hit, as a label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    Connections,
    ConnectionsPerAddress,
    ConnectionsPerIdentity,
    Handshakes,
    HandshakesPerAddress,
    BodyBytes,
    RequestsPerPeer,
    UnfinishedBytes,
    Refusals,
    HeaderBytes,
    Streams,
    Handshake,
    FirstRequest,
    Idle,
    Request,
    WriteStall,
    Descriptors,
}

impl Limit {
    /// The value of the metric's label `limit`.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::ConnectionsPerIdentity => "connections_per_identity",
            Self::Handshakes => "handshakes",
            Self::HandshakesPerAddress => "handshakes_per_address",
            Self::BodyBytes => "body_bytes",
            Self::RequestsPerPeer => "requests_per_peer",
            Self::UnfinishedBytes => "unfinished_bytes",
            Self::Refusals => "refusals",
            Self::HeaderBytes => "header_bytes",
            Self::Streams => "streams",
            Self::Handshake => "handshake_deadline",
            Self::FirstRequest => "first_request_deadline",
            Self::Idle => "idle_deadline",
            Self::Request => "request_deadline",
            Self::WriteStall => "write_stall",
            Self::Descriptors => "descriptors",
        }
    }

    /// Whether hitting it is normal: clients leave idle connections behind, and use all streams of
    /// one connection before they open another.
    pub(crate) fn is_ordinary(self) -> bool {
        matches!(self, Self::FirstRequest | Self::Idle | Self::Streams)
    }
}

/// The metrics of all listeners of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ServerMetrics {
    limit_hits: IntCounterVec,
    connections: IntGaugeVec,
    panics: IntCounterVec,
}

impl ServerMetrics {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Self> {
        let help = "Connections and requests that were refused or ended by a limit, by listener";
        Ok(Self {
            limit_hits: counters(registry, LIMIT_HITS, help, &["server", "limit"])?,
            connections: gauges(
                registry,
                CONNECTIONS,
                "Open connections, by listener",
                &["server"],
            )?,
            panics: counters(registry, PANICS, "Panics while serving, by listener", &["server"])?,
        })
    }

    /// A counter of hits of a limit that a service itself enforces.
    pub(crate) fn limit(&self, server: &'static str, limit: &'static str) -> LimitMeter {
        LimitMeter { meter: self.of(server), limit }
    }

    /// The metrics of one listener.
    pub(crate) fn of(&self, server: &'static str) -> Meter {
        Meter {
            server,
            limit_hits: self.limit_hits.clone(),
            connections: self.connections.with_label_values(&[server]),
            panics: self.panics.with_label_values(&[server]),
            logged: Arc::default(),
        }
    }
}

/// The metrics of one listener. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    server: &'static str,
    limit_hits: IntCounterVec,
    connections: IntGauge,
    panics: IntCounter,
    logged: Arc<Mutex<BTreeMap<&'static str, Instant>>>,
}

impl Meter {
    /// Counts a hit. Logged once a minute, unless it is normal.
    pub(crate) fn hit(&self, limit: Limit) {
        self.limit_hits.with_label_values(&[self.server, limit.label()]).inc();
        if !limit.is_ordinary() {
            self.log(limit.label());
        }
    }

    /// Logs a limit, once a minute.
    fn log(&self, limit: &'static str) {
        let (now, mut logged) =
            (Instant::now(), self.logged.lock().unwrap_or_else(PoisonError::into_inner));
        if logged.get(limit).is_none_or(|at| now >= *at + LOG_INTERVAL) {
            logged.insert(limit, now);
            drop(logged);
            tracing::warn!(
                server = self.server,
                limit,
                "a limit of the server was reached; {LIMIT_HITS} counts how often"
            );
        }
    }

    /// Counts an accepted connection until the result is dropped.
    pub(crate) fn connection(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }

    /// Counts and logs a panic of the task that drops the result.
    pub(crate) fn watch_panic(&self) -> PanicWatch {
        PanicWatch(self.clone())
    }
}

/// Counts hits of a limit that a service itself enforces, in the same metric and log as the limits
/// of its listeners. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LimitMeter {
    meter: Meter,
    limit: &'static str,
}

impl LimitMeter {
    /// Counts a hit. Logged once a minute.
    pub fn hit(&self) {
        self.meter.limit_hits.with_label_values(&[self.meter.server, self.limit]).inc();
        self.meter.log(self.limit);
    }
}

/// Counts an open connection.
#[derive(Debug)]
pub(crate) struct OpenConnection(IntGauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Held by a task; its drop detects a panic.
#[derive(Debug)]
pub(crate) struct PanicWatch(Meter);

impl Drop for PanicWatch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panics.inc();
            tracing::error!(server = self.0.server, "a task that serves a connection panicked");
        }
    }
}
