//! Orders as bytes: gRPC frames, made once per table and shared by all streams.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use proto::placement::{Host, PlacementOrder, PlacementTable, PlacementTables};

use crate::outbox::Order;
use crate::table::Table;

/// A gRPC frame begins with the compression flag and the length of its message.
const FRAME_HEAD: usize = 5;

/// The frame of an order. `replication_factor` is the number of virtual nodes per host.
pub fn frame(order: &Order, replication_factor: i64) -> Bytes {
    match order {
        Order::Lock(version) => encode("lock", *version, None),
        Order::Unlock(version) => encode("unlock", *version, None),
        Order::Update(table) => table
            .encoded(|| encode("update", table.version(), Some(tables(table, replication_factor)))),
    }
}

fn encode(operation: &str, version: u64, tables: Option<PlacementTables>) -> Bytes {
    let order = PlacementOrder { tables, operation: operation.to_owned(), version };
    let length = order.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + length);
    frame.put_u8(0); // not compressed
    // A message of 4 GiB is beyond any memory; peers take 4 MiB.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    order.encode_raw(&mut frame);
    frame.freeze()
}

/// Hosts carry what sidecars read. The whole registration under each of its types, as Dapr 1.18
/// sends it, grows with the square of the types and meets the peers' limit of 4 MiB.
fn tables(table: &Table, replication_factor: i64) -> PlacementTables {
    let slim = |host: &crate::message::Host| Host {
        name: host.name.clone(),
        port: host.port,
        id: host.app_id.clone(),
        namespace: host.namespace.clone(),
        ..Host::default()
    };
    let entries = table.by_type().into_iter().map(|(entity, hosts)| {
        let load_map = hosts.into_iter().map(|host| (host.name.clone(), slim(host))).collect();
        (entity.to_owned(), PlacementTable { load_map, ..PlacementTable::default() })
    });
    PlacementTables {
        entries: entries.collect(),
        version: table.version().to_string(),
        api_level: 0,
        replication_factor,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::StreamId;
    use std::sync::Arc;

    fn host(i: usize, types: usize) -> Arc<crate::message::Host> {
        Arc::new(crate::message::Host {
            name: format!("10.0.{}.{}:50002", i / 250, i % 250),
            app_id: "app".into(),
            namespace: "ns".into(),
            api_level: 20,
            operation: 1,
            entities: (0..types).map(|t| format!("dapr.internal.ns.app.type{t}")).collect(),
            ..crate::message::Host::default()
        })
    }

    fn decode(frame: &Bytes) -> PlacementOrder {
        assert_eq!(frame[0], 0);
        let length = u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize;
        assert_eq!(length, frame.len() - 5);
        PlacementOrder::decode(&frame[5..]).unwrap()
    }

    #[test]
    fn an_update_carries_slim_hosts_and_both_forms_of_the_version() {
        let host = host(1, 2);
        let order = Order::Update(Arc::new(Table::new(7, [(StreamId(1), &host)])));
        let got = decode(&frame(&order, 100));
        assert_eq!((got.operation.as_str(), got.version), ("update", 7));
        let tables = got.tables.unwrap();
        assert_eq!((tables.version.as_str(), tables.api_level), ("7", 0));
        assert_eq!(tables.replication_factor, 100);
        assert_eq!(tables.entries.len(), 2);
        let table = &tables.entries["dapr.internal.ns.app.type1"];
        assert!(table.hosts.is_empty() && table.sorted_set.is_empty());
        let want = Host {
            name: "10.0.0.1:50002".into(),
            id: "app".into(),
            namespace: "ns".into(),
            ..Host::default()
        };
        assert_eq!(table.load_map["10.0.0.1:50002"], want);
    }

    #[test]
    fn a_table_is_encoded_once() {
        let order = Order::Update(Arc::new(Table::new(1, [(StreamId(1), &host(1, 1))])));
        assert_eq!(frame(&order, 100).as_ptr(), frame(&order.clone(), 100).as_ptr());
    }

    #[test]
    fn a_thousand_hosts_with_25_types_fit_the_peers_limit() {
        let hosts: Vec<_> = (0..1_000).map(|i| host(i, 25)).collect();
        let table = Table::new(1, hosts.iter().enumerate().map(|(i, h)| (StreamId(i as u64), h)));
        let length = frame(&Order::Update(Arc::new(table)), 100).len();
        assert!(length < 4 << 20, "{length} bytes");
    }

    #[test]
    fn lock_and_unlock_carry_their_version() {
        for (order, want) in [(Order::Lock(0), ("lock", 0)), (Order::Unlock(9), ("unlock", 9))] {
            let got = decode(&frame(&order, 100));
            assert_eq!((got.operation.as_str(), got.version, got.tables), (want.0, want.1, None));
        }
    }
}
