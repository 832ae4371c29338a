//! The dashboard's process.

use std::process::ExitCode;

use dashboard::Flags;

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags: Flags = runtime::flags::parse();
    runtime::main("dapr.dashboard", &flags.process(), async move |scope| {
        Ok(dashboard::run(flags.into_config()?, scope).await?)
    })
}
