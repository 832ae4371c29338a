//! The command `daprctl`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let daprctl::Command::Check(flags) = runtime::flags::parse();
    runtime::command("daprctl", async { Ok(daprctl::check(flags.into_config()).await?) })
}
