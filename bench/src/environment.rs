//! The environment of the scenarios: API server, authority, services. Start reading at
//! [`test_env`].

pub mod authority;
pub mod memory_group;
pub mod programs;
pub mod scheduler;
pub mod test_env;
pub mod usage;
