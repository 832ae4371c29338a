//! The sentry process.

use std::process::ExitCode;

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags: sentry::Flags = runtime::flags::parse();
    let process = flags.process.clone();
    runtime::main("dapr.sentry", &process, async move |scope| {
        Ok(sentry::run(flags.into_config()?, scope).await?)
    })
}
