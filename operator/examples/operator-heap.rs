//! The operator with the C library's allocator, which heap profilers can follow; docs/profiling.md.

use std::process::ExitCode;

use operator::{Environment, Flags};

fn main() -> ExitCode {
    let flags: Flags = runtime::flags::parse();
    runtime::main("dapr.operator", &flags.process.clone(), async move |scope| {
        Ok(operator::run(flags.into_config(Environment::read())?, scope).await?)
    })
}
