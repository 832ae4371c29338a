//! The injector's process.

use sidecar_injector::{Flags, Surroundings};

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let flags: Flags = runtime::flags::parse();
    let process = flags.process.clone();
    runtime::main("dapr.injector", &process, async move |scope| {
        tracing::info!(target: "dapr.injector", "Starting Dapr Sidecar Injector -- version {}", runtime::VERSION);
        let around = Surroundings::of_this_process();
        let config = flags.into_config(runtime::environment::var, &around)?;
        runtime::refuse_root()?;
        sidecar_injector::run(config, scope).await
    })
}
