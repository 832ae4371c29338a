//! The process around a control plane service: flags, logs, health, metrics, signals, tasks and the
//! environment. It contains no knowledge about Dapr or Kubernetes.
//!
//! ```text
//!  flags::parse ──► main ──► logging::start
//!                    │──► Scope ──► tasks (spawn), readiness (ready), progress (heartbeat), metrics
//!                    │──► http: /healthz, /livez, metrics
//!                    └──► signals: the first cancels the scope, the second ends the process
//! ```
//! Start reading at [`main`], then [`Scope`].
//!
//! The environment, the wall clock and randomness are read here and nowhere else, so that every
//! decision elsewhere is a function of its arguments.

pub mod clock;
pub mod descriptors;
pub mod environment;
pub mod flags;
mod health;
mod http;
mod logging;
pub mod metrics;
mod process;
pub mod random;
mod scope;
pub mod server;
mod text;
mod version;

pub use flags::ProcessFlags;
pub use health::ReadyGuard;
pub use health::liveness::Heartbeat;
pub use http::{ListenError, listen};
pub use metrics::server::LimitMeter;
pub use process::{RootUserError, command, main, refuse_root};
pub use resources::go_duration;
pub use scope::{BoxError, Scope, TaskError};
pub use text::{chain, printable};
pub use version::VERSION;
