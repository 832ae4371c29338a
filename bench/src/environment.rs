//! What the scenarios run in. Start reading at [`test_env`].

pub mod authority;
pub mod programs;
pub mod test_env;
pub mod usage;
