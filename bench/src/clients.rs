//! Load generators. [`load`] drives any client in a closed or open loop; [`sidecars`] and
//! [`placement_hosts`] stand for many sidecars.

pub mod cluster;
pub mod https;
pub mod load;
pub mod order_stream;
pub mod placement_hosts;
pub mod sidecars;
