//! The sentry with the C library's allocator, which heap profilers can follow; docs/profiling.md.

use std::process::ExitCode;

fn main() -> ExitCode {
    let flags: sentry::Flags = runtime::flags::parse();
    let process = flags.process.clone();
    runtime::main("dapr.sentry", &process, async move |scope| {
        Ok(sentry::run(flags.into_config()?, scope).await?)
    })
}
