//! The operator's process, and the commands that the chart runs from its image.
use std::process::ExitCode;

use operator::{
    config::{Environment, Flags, namespace},
    crds, self_test,
};

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if runtime::flags::first_is_one_of(&[crds::COMMAND]) {
        return apply_crds();
    }
    if runtime::flags::first_is_one_of(&[self_test::COMMAND]) {
        return test_installation();
    }
    let flags: Flags = runtime::flags::parse();
    runtime::main("dapr.operator", &flags.process.clone(), async move |scope| {
        operator::run(flags.into_config(Environment::read())?, scope).await
    })
}

fn apply_crds() -> ExitCode {
    let flags = runtime::flags::parse::<crds::Flags>().into_apply();
    runtime::main("dapr.operator.crds", &flags.process, async move |scope| {
        runtime::refuse_root()?;
        crds::apply(flags.kube.kubeconfig, &namespace(Environment::read().namespace)?).await?;
        scope.token().cancel();
        Ok(())
    })
}

fn test_installation() -> ExitCode {
    let flags = runtime::flags::parse::<self_test::Flags>().into_self_test();
    let process = flags.operator.process.clone();
    runtime::main("dapr.operator.selftest", &process, async move |scope| {
        runtime::refuse_root()?;
        let config = flags.operator.into_config(Environment::read())?;
        self_test::run(&config, &flags.service, flags.injection, &scope).await?;
        scope.token().cancel();
        Ok(())
    })
}
