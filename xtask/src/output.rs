//! What a command prints as its result, as opposed to progress.

use std::io::Write as _;

use anyhow::Result;

/// Prints a line on standard output.
///
/// # Errors
/// When nobody reads it.
pub(crate) fn print(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
