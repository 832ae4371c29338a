//! Progress of long work as plain lines on standard error, each with the time since the start.

use std::fmt::Display;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Result;

use crate::Deadline;

/// The start of this process's work.
fn clock() -> &'static Deadline {
    static START: OnceLock<Deadline> = OnceLock::new();
    START.get_or_init(|| Deadline::after(Duration::MAX))
}

/// Time since the first progress line of this process.
pub fn elapsed() -> Duration {
    clock().elapsed()
}

/// Prints one line.
pub fn say(text: impl Display) {
    eprintln!("[{:7.1}s] {text}", elapsed().as_secs_f64());
}

/// Runs `work` and prints a line before it, and one after it with its duration or failure.
///
/// # Errors
/// Those of `work`.
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(format_args!("{what} ..."));
    let began = elapsed();
    let result = work();
    let took = elapsed().saturating_sub(began).as_secs_f64();
    let end = if result.is_ok() { "done" } else { "FAILED" };
    say(format_args!("{what}: {end} ({took:.1} s)"));
    result
}
