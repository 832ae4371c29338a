//! The table of one namespace at one version: which hosts serve which actor types.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::message::{Host, StreamId};
use crate::wire::Encoding;

/// A table as it was when its version began. It never changes, so a version names its content.
#[derive(Debug, Default)]
pub struct Table {
    version: u64,
    hosts: Vec<Arc<Host>>,
    plain: OnceLock<Bytes>,
    gzip: OnceLock<Bytes>,
}

impl Table {
    /// The table of these hosts. Of two streams with one host name the newer wins: the older
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
        let hosts = newest.into_values().map(|(_, host)| host.clone()).collect();
        Self { version, hosts, ..Self::default() }
    }

    /// The version of the table.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The hosts with actor types, sorted by name; names are unique.
    pub fn hosts(&self) -> &[Arc<Host>] {
        &self.hosts
    }

    /// What `of` makes of the hosts of each actor type, both sorted; called once per host.
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

    /// The encoded order, made by `encode` for the first stream and shared by all others that take
    /// the same encoding.
    pub(crate) fn encoded(&self, encoding: Encoding, encode: impl FnOnce() -> Bytes) -> Bytes {
        let slot = match encoding {
            Encoding::Identity => &self.plain,
            Encoding::Gzip => &self.gzip,
        };
        slot.get_or_init(encode).clone()
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
