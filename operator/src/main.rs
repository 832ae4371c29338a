//! The operator's process, and the commands that the chart runs from its image.
use std::process::ExitCode;

use operator::commands::apply_crds::{self, ApplyFlags};
use operator::commands::scheduler_check::{self, SchedulerFlags};
use operator::commands::self_test::{self, SelfTestFlags};
use operator::commands::{self, Command};
use operator::{Environment, Flags, namespace};

#[global_allocator]
static ALLOC: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    if runtime::flags::first_is_one_of(&commands::WORDS) {
        return match runtime::flags::parse::<commands::Flags>().command {
            Command::ApplyCrds(flags) => apply_crds(*flags),
            Command::CheckScheduler(flags) => check_scheduler(*flags),
            Command::SelfTest(flags) => self_test(*flags),
        };
    }
    let flags: Flags = runtime::flags::parse();
    runtime::main("dapr.operator", &flags.process.clone(), async move |scope| {
        Ok(operator::run(flags.into_config(Environment::read())?, scope).await?)
    })
}

fn apply_crds(flags: ApplyFlags) -> ExitCode {
    runtime::main("dapr.operator.crds", &flags.process, async move |scope| {
        runtime::refuse_root()?;
        let namespace = namespace(Environment::read().namespace)?;
        apply_crds::apply(flags.kube.kubeconfig, &namespace).await?;
        scope.token().cancel();
        Ok(())
    })
}

fn check_scheduler(flags: SchedulerFlags) -> ExitCode {
    runtime::main("dapr.operator.scheduler", &flags.process.clone(), async move |scope| {
        runtime::refuse_root()?;
        let namespace = namespace(Environment::read().namespace)?;
        scheduler_check::check(&flags, &namespace).await?;
        scope.token().cancel();
        Ok(())
    })
}

fn self_test(flags: SelfTestFlags) -> ExitCode {
    let process = flags.operator.process.clone();
    runtime::main("dapr.operator.selftest", &process, async move |scope| {
        runtime::refuse_root()?;
        let config = flags.operator.into_config(Environment::read())?;
        self_test::run(&config, &flags.service, flags.injection, &scope).await?;
        scope.token().cancel();
        Ok(())
    })
}
