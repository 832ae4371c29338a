//! Rotation of the CA without restarts: a new root is distributed before its issuer signs, and
//! cross-signed certificates connect both roots meanwhile.
//!
//! Start reading at [`plan::plan`], which decides the next step; [`executor`] turns a step into the
//! update of the Secret that carries it out. Both are pure; `ca::controller` does the I/O.

pub(crate) mod executor;
pub(crate) mod plan;

pub(crate) use executor::{Action, RotationError, SecretUpdate, execute};
pub(crate) use plan::{NextCa, Progress, Stage, StaleSidecars, State, Step, Timing};
