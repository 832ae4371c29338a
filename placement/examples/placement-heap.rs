//! The placement service with the C library's allocator, which heap profilers can follow; docs/profiling.md.

use std::process::ExitCode;

use placement::Flags;

fn main() -> ExitCode {
    let flags: Flags = runtime::flags::parse();
    runtime::main("dapr.placement", &flags.process(), async move |scope| {
        Ok(placement::run(flags.into_config()?, scope).await?)
    })
}
