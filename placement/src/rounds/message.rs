//! Messages of sidecars, as checked values.

use std::fmt;

/// Number of a stream. Grows with every stream that the process accepts and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A sidecar as it registered itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// `ip:port` of its internal gRPC server: ring key and dial address.
    pub name: String,
    /// Redundant; official sidecars send 0.
    pub port: i64,
    /// Deprecated; only the state endpoint shows it.
    pub load: i64,
    /// Actor types that it hosts, sorted, without repetitions.
    pub entities: Vec<String>,
    /// App id of the application beside it.
    pub app_id: String,
    /// Deprecated; only the state endpoint shows it.
    pub pod: String,
    /// Deprecated; only the state endpoint shows it.
    pub api_level: u32,
    /// Namespace of its pod; `default` outside Kubernetes.
    pub namespace: String,
    /// `operation` of the message that registered it.
    pub operation: i32,
    /// `version` of the message that registered it.
    pub version: Option<u64>,
}

/// The three steps of a round, in order. Sidecars acknowledge each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Deactivate actors that may move, and hold calls.
    Lock,
    /// Store the new table.
    Update,
    /// Continue with the new table.
    Unlock,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lock => "LOCK",
            Self::Update => "UPDATE",
            Self::Unlock => "UNLOCK",
        })
    }
}

/// The operation of a message. Source: Dapr 1.18, `HostOperation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Unset, as by sidecars before 1.17: acknowledges the pending step if there is one, else
    /// reports.
    Unsaid,
    /// Reports the host and its actor types.
    Report,
    /// Acknowledges a step.
    Ack(Step),
    /// A number that no known sidecar sends; ignored.
    Other,
}

/// One message of a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its operation, or a number that is unknown.
    pub operation: Operation,
    /// The table version that it acknowledges.
    pub version: Option<u64>,
    /// The sender; complete in reports, only id and namespace in acknowledgements.
    pub host: Host,
}

impl Message {
    /// Whether a sidecar of 1.14 to 1.16 opens its stream like this: those send no operation and an
    /// API level above 0.
    pub fn is_legacy(&self) -> bool {
        self.operation == Operation::Unsaid && self.host.api_level > 0
    }
}

impl From<proto::placement::Host> for Message {
    fn from(mut host: proto::placement::Host) -> Self {
        host.entities.sort_unstable();
        host.entities.dedup();
        let operation = match host.operation {
            0 => Operation::Unsaid,
            1 => Operation::Report,
            2 => Operation::Ack(Step::Lock),
            3 => Operation::Ack(Step::Update),
            4 => Operation::Ack(Step::Unlock),
            _ => Operation::Other,
        };
        Self {
            operation,
            version: host.version,
            host: Host {
                name: host.name,
                port: host.port,
                load: host.load,
                entities: host.entities,
                app_id: host.id,
                pod: host.pod,
                api_level: host.api_level,
                namespace: host.namespace,
                operation: host.operation,
                version: host.version,
            },
        }
    }
}
