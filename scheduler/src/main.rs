//! The scheduler service.

use std::process::ExitCode;

use scheduler::Flags;

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if let Some(error) = scheduler::exec_child() {
        eprintln!("start etcd: {error}");
        return ExitCode::FAILURE;
    }
    let flags: Flags = runtime::flags::parse();
    runtime::main("dapr.scheduler", &flags.process(), async move |scope| {
        Ok(Box::pin(scheduler::run(flags.into_config()?, scope)).await?)
    })
}
