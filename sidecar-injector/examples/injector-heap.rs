//! The injector with the C library's allocator, which heap profilers can follow; docs/profiling.md.

use std::process::ExitCode;

use sidecar_injector::{Flags, Surroundings};

fn main() -> ExitCode {
    let flags: Flags = runtime::flags::parse();
    let process = flags.process.clone();
    runtime::main("dapr.injector", &process, async move |scope| {
        let around = Surroundings::of_this_process();
        let config = flags.into_config(runtime::environment::var, &around)?;
        sidecar_injector::run(config, scope).await
    })
}
