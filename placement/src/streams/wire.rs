//! Orders as bytes: gRPC frames, made once per table and encoding and shared by all streams.
//!
//! The messages here are those of `proto::placement` on the wire, but hold the entry of a host as
//! bytes, so that it is encoded once and not once for each of its types.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use proto::placement::Host;

use crate::rounds::encoding::Encoding;
use crate::rounds::outbox::Order;
use crate::rounds::table::Table;

/// A gRPC frame begins with the compression flag and the length of its message.
const FRAME_HEAD: usize = 5;

/// How orders are written for one stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    /// The number of virtual nodes per host.
    pub replication_factor: i64,
    /// The encoding of tables.
    pub encoding: Encoding,
}

/// Encodes an order as a gRPC frame.
pub(crate) fn frame(order: &Order, format: Format) -> Bytes {
    match order {
        Order::Lock(version) => frame_of(&message("lock", *version, None)),
        Order::Unlock(version) => frame_of(&message("unlock", *version, None)),
        Order::Update(table) => table.encoded(format.encoding, || {
            let tables = tables(table, format.replication_factor);
            let message = message("update", table.version(), Some(tables));
            match format.encoding {
                Encoding::Identity => frame_of(&message),
                Encoding::Gzip => compressed(&message),
            }
        }),
    }
}

/// `PlacementOrder`.
#[derive(Clone, PartialEq, Message)]
struct OrderMessage {
    #[prost(message, optional, tag = "1")]
    tables: Option<Tables>,
    #[prost(string, tag = "2")]
    operation: String,
    #[prost(uint64, tag = "3")]
    version: u64,
}

/// `PlacementTables`.
#[derive(Clone, PartialEq, Message)]
struct Tables {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<TypeEntry>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(int64, tag = "4")]
    replication_factor: i64,
}

/// An entry of `PlacementTables.entries`.
#[derive(Clone, PartialEq, Message)]
struct TypeEntry {
    #[prost(string, tag = "1")]
    entity: String,
    #[prost(message, optional, tag = "2")]
    table: Option<TypeTable>,
}

/// `PlacementTable`, whose `load_map` holds encoded entries.
#[derive(Clone, PartialEq, Message)]
struct TypeTable {
    #[prost(bytes = "bytes", repeated, tag = "3")]
    load_map: Vec<Bytes>,
}

/// An entry of `PlacementTable.load_map`.
#[derive(Clone, PartialEq, Message)]
struct HostEntry {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    host: Option<Host>,
}

fn message(operation: &str, version: u64, tables: Option<Tables>) -> OrderMessage {
    OrderMessage { tables, operation: operation.to_owned(), version }
}

fn frame_of(message: &OrderMessage) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + length);
    put_head(&mut frame, false, length);
    message.encode_raw(&mut frame);
    frame.freeze()
}

fn compressed(message: &OrderMessage) -> Bytes {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    let written = gzip.write_all(&message.encode_to_vec()).and_then(|()| gzip.finish());
    // Writing to memory does not fail; if it did, a frame may be plain whatever its stream takes.
    let Ok(body) = written else { return frame_of(message) };
    let mut frame = BytesMut::with_capacity(FRAME_HEAD + body.len());
    put_head(&mut frame, true, body.len());
    frame.put_slice(&body);
    frame.freeze()
}

fn put_head(frame: &mut BytesMut, compressed: bool, length: usize) {
    frame.put_u8(u8::from(compressed));
    // A message of 4 GiB does not fit into memory; peers accept 4 MiB.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// Hosts carry what sidecars read. The whole registration under each of its types, as Dapr 1.18
/// sends it, grows with the square of the types and meets the peers' limit of 4 MiB.
fn tables(table: &Table, replication_factor: i64) -> Tables {
    let entries = table.by_type(entry).into_iter().map(|(entity, load_map)| TypeEntry {
        entity: entity.to_owned(),
        table: Some(TypeTable { load_map }),
    });
    Tables { entries: entries.collect(), version: table.version().to_string(), replication_factor }
}

fn entry(host: &crate::rounds::message::Host) -> Bytes {
    let slim = Host {
        name: host.name.clone(),
        port: host.port,
        id: host.app_id.clone(),
        namespace: host.namespace.clone(),
        ..Host::default()
    };
    HostEntry { name: host.name.clone(), host: Some(slim) }.encode_to_vec().into()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::sync::Arc;

    use flate2::read::GzDecoder;
    use proto::placement::PlacementOrder;
    use rstest::rstest;

    use super::*;
    use crate::rounds::message::StreamId;
    use crate::rounds::table::{ORDER_OVERHEAD, charge};

    const PLAIN: Format = Format { replication_factor: 100, encoding: Encoding::Identity };
    const GZIP: Format = Format { encoding: Encoding::Gzip, ..PLAIN };

    fn host(i: usize, types: usize) -> Arc<crate::rounds::message::Host> {
        Arc::new(crate::rounds::message::Host {
            name: format!("10.0.{}.{}:50002", i / 250, i % 250),
            app_id: "app".into(),
            namespace: "ns".into(),
            api_level: 20,
            operation: 1,
            entities: (0..types).map(|t| format!("dapr.internal.ns.app.type{t}")).collect(),
            ..crate::rounds::message::Host::default()
        })
    }

    fn decode(frame: &Bytes) -> PlacementOrder {
        let (head, body) = frame.split_at(FRAME_HEAD);
        let length = u32::from_be_bytes(head[1..].try_into().unwrap()) as usize;
        assert_eq!(length, body.len());
        let mut message = body.to_vec();
        if head[0] == 1 {
            message.clear();
            GzDecoder::new(body).read_to_end(&mut message).unwrap();
        }
        PlacementOrder::decode(&*message).unwrap()
    }

    #[test]
    fn an_update_carries_slim_hosts_and_both_forms_of_the_version() {
        let host = host(1, 2);
        let order = Order::Update(Arc::new(Table::new(7, [(StreamId(1), &host)])));
        let got = decode(&frame(&order, PLAIN));
        assert_eq!(decode(&frame(&order, GZIP)), got, "another encoding is the same table");
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
        for format in [PLAIN, GZIP] {
            assert_eq!(frame(&order, format).as_ptr(), frame(&order.clone(), format).as_ptr());
        }
    }

    #[test]
    fn a_thousand_hosts_with_25_types_fit_the_peers_limit() {
        let hosts: Vec<_> = (0..1_000).map(|i| host(i, 25)).collect();
        let table = Table::new(1, hosts.iter().enumerate().map(|(i, h)| (StreamId(i as u64), h)));
        let order = Order::Update(Arc::new(table));
        let [plain, gzip] = [PLAIN, GZIP].map(|format| frame(&order, format).len());
        assert!(plain < 4 << 20, "{plain} bytes");
        assert!(gzip < plain / 8, "{gzip} of {plain} bytes");
    }

    #[test]
    fn a_table_is_never_larger_than_what_its_hosts_are_charged() {
        for (hosts, types) in [(0, 0), (1, 1), (1, 1_000), (300, 7), (2, 0)] {
            let hosts: Vec<_> = (0..hosts).map(|i| host(i, types)).collect();
            let charged: usize = hosts.iter().map(|host| charge(host)).sum::<usize>();
            let streams = hosts.iter().enumerate().map(|(i, h)| (StreamId(i as u64), h));
            let order = Order::Update(Arc::new(Table::new(u64::MAX, streams)));
            let length = frame(&order, Format { replication_factor: i64::MAX, ..PLAIN }).len();
            assert!(length <= charged + ORDER_OVERHEAD, "{length} > {charged}");
            assert!(hosts.len() > 1 || charged <= length + 32 * types, "{length}, {charged}");
        }
    }

    #[rstest]
    #[case(None, Encoding::Identity)]
    #[case(Some(""), Encoding::Identity)]
    #[case(Some("identity,deflate"), Encoding::Identity)]
    #[case(Some("gzip"), Encoding::Gzip)]
    #[case(Some("identity, gzip"), Encoding::Gzip)]
    fn compresses_for_those_who_take_it(#[case] list: Option<&str>, #[case] want: Encoding) {
        assert_eq!(Encoding::accepted(list), want);
    }

    #[test]
    fn lock_and_unlock_carry_their_version() {
        for (order, want) in [(Order::Lock(0), ("lock", 0)), (Order::Unlock(9), ("unlock", 9))] {
            let got = decode(&frame(&order, GZIP));
            assert_eq!((got.operation.as_str(), got.version, got.tables), (want.0, want.1, None));
        }
    }
}
