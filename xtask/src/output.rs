//! Prints the result of a command, as opposed to its progress.

use std::io::Write as _;

use anyhow::Result;

/// Prints a line on standard output.
///
/// # Errors
/// Standard output is closed.
pub(crate) fn print(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
