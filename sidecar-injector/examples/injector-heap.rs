//! The injector with the allocator of the C library, for heap profilers; see docs/profiling.md.

use std::process::ExitCode;

use sidecar_injector::{Flags, HostEnvironment};

fn main() -> ExitCode {
    let flags: Flags = runtime::flags::parse();
    let process = flags.process.clone();
    runtime::main("dapr.injector", &process, async move |scope| {
        let host = HostEnvironment::detect();
        let config = flags.into_config(runtime::environment::var, &host)?;
        Ok(sidecar_injector::run(config, scope).await?)
    })
}
