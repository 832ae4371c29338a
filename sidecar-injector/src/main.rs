//! The injector, and its commands on manifests.

use std::process::ExitCode;

use sidecar_injector::offline::{self, Command};
use sidecar_injector::{Flags, HostEnvironment};

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if runtime::flags::first_is_one_of(&["inject", "lint"]) {
        return on_manifests();
    }
    let flags: Flags = runtime::flags::parse();
    let process = flags.process.clone();
    runtime::main("dapr.injector", &process, async move |scope| {
        tracing::info!(target: "dapr.injector", "Starting Dapr Sidecar Injector -- version {}", runtime::VERSION);
        let host = HostEnvironment::detect();
        let config = flags.into_config(runtime::environment::var, &host)?;
        runtime::refuse_root()?;
        Ok(sidecar_injector::run(config, scope).await?)
    })
}

#[expect(clippy::print_stderr, reason = "a command prints its errors")]
fn on_manifests() -> ExitCode {
    match offline::run(&runtime::flags::parse::<Command>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", runtime::chain(&error));
            ExitCode::FAILURE
        }
    }
}
