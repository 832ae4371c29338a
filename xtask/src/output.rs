//! What a command prints as its result, as opposed to progress.

use std::io::Write as _;

use anyhow::Result;

/// Prints a line on standard output.
///
/// # Errors
/// The reader of the output is gone.
pub(crate) fn print(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
