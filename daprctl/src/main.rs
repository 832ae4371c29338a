//! The command `daprctl`.

use std::process::ExitCode;

use daprctl::Command;

fn main() -> ExitCode {
    let command: Command = runtime::flags::parse();
    runtime::command("daprctl", async {
        Ok(match command {
            Command::Check(flags) => daprctl::check(flags.into_config()).await?,
            Command::Sidecars(flags) => daprctl::sidecars(flags).await?,
            Command::Jobs(flags) => daprctl::jobs(flags).await?,
            Command::Lint(flags) => daprctl::lint(&flags)?,
            Command::Dashboard(flags) => daprctl::dashboard(flags).await?,
            Command::SupportBundle(flags) => daprctl::support_bundle(flags).await?,
            Command::Completion(flags) => daprctl::completion(&flags)?,
            Command::Man(flags) => daprctl::man(&flags)?,
        })
    })
}
