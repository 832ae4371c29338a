//! The placement service.

use std::process::ExitCode;

use placement::Flags;

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags: Flags = runtime::flags::parse();
    runtime::main("dapr.placement", &flags.process(), async move |scope| {
        Ok(placement::run(flags.into_config()?, scope).await?)
    })
}
