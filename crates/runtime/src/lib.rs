//! The process around a control plane service: flags, logs, health, metrics, signals, tasks and the
//! environment. It contains no knowledge about Dapr or Kubernetes.
//!
//! ```text
//!  flags::parse ──► main ──► logging::start
//!                    │──► Scope ──► tasks (spawn), readiness (ready), registry (metrics)
//!                    │──► http: /healthz, metrics
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

pub use flags::ProcessFlags;
pub use health::ReadyGuard;
pub use http::listen;
pub use process::{VERSION, command, main, refuse_root};
pub use resources::go_duration;
pub use scope::Scope;

/// An error and all its sources on one line, joined by `: `, for a log.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A text without control characters, which could break a line or change a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("read trust anchors")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn chain_prints_every_cause_once() {
        let error = Outer(std::io::Error::other("no such file"));
        assert_eq!(chain(&error), "read trust anchors: no such file");
    }
}
