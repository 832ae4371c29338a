//! Load generators. [`load`] drives any client in a closed or open loop; [`sidecars`] and
//! [`placement_hosts`] stand for many sidecars; [`attackers`] misbehave; [`jobs`] and [`job_streams`] for those of a scheduler,
//! whose deliveries go into [`delivery_log`], [`tick_log`] or [`gap_log`].

pub mod attackers;
pub mod cluster;
pub mod delivery_log;
pub mod gap_log;
pub mod grpc;
pub mod https;
pub mod job_streams;
pub mod jobs;
pub mod load;
pub mod order_stream;
pub mod placement_hosts;
pub mod sidecars;
pub mod tick_log;
