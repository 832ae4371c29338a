//! The operator's process.
use std::process::ExitCode;

use operator::config::{Environment, Flags};

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags: Flags = runtime::flags::parse();
    runtime::main("dapr.operator", &flags.process.clone(), async move |scope| {
        operator::run(flags.into_config(Environment::read())?, scope).await
    })
}
