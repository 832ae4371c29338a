//! The table of one namespace at one version: which hosts serve which actor types.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::rounds::encoding::Encoding;
use crate::rounds::message::{Host, StreamId};

/// Maximum bytes of an encoded table: gRPC's default limit of one message, which sidecars keep.
pub const MAX_TABLE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of an update beside the entries of its table: operation, both forms of the version,
/// replication factor, frame.
pub const ORDER_OVERHEAD: usize = 64;

/// Maximum bytes of tags, lengths and the port of a host under one actor type.
const ENTRY_OVERHEAD: usize = 44;

/// Smaller tables are encoded in place; larger ones in a thread of their own.
pub(crate) const INLINE_BYTES: usize = 16 * 1024;

/// Maximum bytes that a host adds to an encoded table. An actor type that several hosts have is
/// charged to each.
pub fn charge(host: &Host) -> usize {
    let entry = ENTRY_OVERHEAD + 2 * host.name.len() + host.app_id.len() + host.namespace.len();
    host.entities.iter().map(|entity| entity.len() + entry).sum()
}

/// The table at one version. Immutable, so a version identifies its content.
#[derive(Debug, Default)]
pub struct Table {
    version: u64,
    hosts: Vec<Arc<Host>>,
    /// Approximate encoded size in bytes.
    charge: usize,
    plain: OnceLock<Bytes>,
    gzip: OnceLock<Bytes>,
}

impl Table {
    /// The table of these hosts. If two streams have the same host name, the newer wins: the older
    /// belongs to a connection whose end has not been noticed yet.
    pub fn new<'a>(
        version: u64,
        hosts: impl IntoIterator<Item = (StreamId, &'a Arc<Host>)>,
    ) -> Self {
        let mut newest = BTreeMap::<&str, (StreamId, &Arc<Host>)>::new();
        for (stream, host) in hosts {
            let slot = newest.entry(&host.name).or_insert((stream, host));
            if slot.0 < stream {
                *slot = (stream, host);
            }
        }
        let hosts: Vec<Arc<Host>> = newest.into_values().map(|(_, host)| host.clone()).collect();
        let charge = hosts.iter().map(|host| charge(host)).sum();
        Self { version, hosts, charge, ..Self::default() }
    }

    /// The version of the table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The hosts with actor types, sorted by name; names are unique.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// Calls `of` once per host; the result lists actor types and hosts, both sorted.
    pub fn by_type<'a, T: Clone>(
        &'a self,
        of: impl Fn(&'a Host) -> T,
    ) -> BTreeMap<&'a str, Vec<T>> {
        let mut types = BTreeMap::<&str, Vec<T>>::new();
        for host in &self.hosts {
            let made = of(host);
            for entity in &host.entities {
                types.entry(entity).or_default().push(made.clone());
            }
        }
        types
    }

    /// Whether encoding takes little time: the table is small, or encoded already.
    pub(crate) fn is_cheap(&self, encoding: Encoding) -> bool {
        self.slot(encoding).get().is_some() || self.charge < INLINE_BYTES
    }

    /// The encoded order, made by `encode` for the first stream and shared by all others with the
    /// same encoding.
    pub(crate) fn encoded(&self, encoding: Encoding, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.slot(encoding).get_or_init(encode).clone()
    }

    fn slot(&self, encoding: Encoding) -> &OnceLock<Bytes> {
        match encoding {
            Encoding::Identity => &self.plain,
            Encoding::Gzip => &self.gzip,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, app_id: &str, entities: &[&str]) -> Arc<Host> {
        let entities = entities.iter().map(ToString::to_string).collect();
        Arc::new(Host { name: name.into(), app_id: app_id.into(), entities, ..Host::default() })
    }

    #[test]
    fn the_newest_stream_of_a_name_wins_with_all_its_types() {
        let (old, new) = (host("h:1", "old", &["a", "b"]), host("h:1", "new", &["a"]));
        let other = host("g:1", "other", &["b"]);
        let table =
            Table::new(3, [(StreamId(9), &new), (StreamId(2), &old), (StreamId(5), &other)]);
        let apps = table.by_type(|host| host.app_id.as_str());
        assert_eq!(apps, BTreeMap::from([("a", vec!["new"]), ("b", vec!["other"])]));
    }
}
