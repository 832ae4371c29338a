//! The scheduler and etcd: as its child ([`child`], [`peer_tls`]), as the store of another
//! installation ([`external`]), as data that Dapr's own scheduler left behind ([`foreign_data`]), and
//! the etcd API that the scheduler itself serves ([`client_port`], [`command_line`]).

mod child;
pub(crate) mod client_port;
pub(crate) mod command_line;
pub(crate) mod external;
mod foreign_data;
mod peer_tls;
