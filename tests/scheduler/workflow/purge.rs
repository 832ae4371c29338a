//! `dapr workflow purge` of the official command line: workflows through their sidecar, then what is
//! left of them in the scheduler.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use blackbox::{Daprd, Scratch, Tool, build_binary, environment};
use tokio::runtime::Runtime;

use super::Fixture;
use crate::etcd::command_line::{Cli, PORT, actor, own_address, put_far};
use crate::processes::Scheduler;

/// What an application that crashed may have left: reminders of an instance that is purged, and of
/// others whose name begins with its name.
fn leave_reminders(scheduler: &Scheduler, app: &str) -> Result<()> {
    let runtime = Runtime::new()?;
    let put = |app: &str, kind: &str, id: &str, name: &str| {
        let target = actor(&format!("dapr.internal.default.{app}.{kind}"), id);
        put_far(&runtime, scheduler, "default", app, target, name, Some("@every 1h"));
    };
    for id in ["order-1", "order-10"] {
        put(app, "workflow", id, "timer-left");
        put(app, "activity", &format!("{id}::0::1"), "run");
    }
    put("other", "workflow", "order-1", "timer-left");
    Ok(())
}

/// What the command line says of each step, and which keys are left.
fn scene(program: PathBuf, second: u8, app: &str) -> Result<[String; 10]> {
    let (address, folder) = (own_address(second), Arc::new(Scratch::new("purge")?));
    let flags =
        [format!("--etcd-client-listen-address={address}"), format!("--etcd-client-port={PORT}")];
    let scheduler = Scheduler::start_on(program, &folder, &flags.each_ref().map(String::as_str));
    // The command line finds the sidecar among the processes, and dials it at `localhost` too.
    let fixture = Fixture::start_by(scheduler, Daprd::builder(app).listed().address(&address))?;
    let cli = Cli::new(&address, folder.path());
    let redis = format!("redis://{}", fixture.redis.host());
    let workflow = |args: &[&str]| {
        let (succeeds, said) = cli.group_says("workflow", &[args, &["--app-id", app]].concat());
        format!("{}: {succeeds}\n{said}", args[0])
    };
    let [done, running] = ["order-1", "order-2"].map(|id| fixture.instance(id));
    done.start()?;
    done.reaches("event")?;
    done.approve()?;
    fixture.completes(&done)?;
    running.start()?;
    running.reaches("event")?;
    leave_reminders(&fixture.scheduler, app)?;
    let left = || {
        let said = cli.group_says("scheduler", &["list"]).1;
        let keys = said.lines().filter_map(|line| line.split_whitespace().next());
        keys.collect::<Vec<_>>().join("\n")
    };
    let list = || {
        let said = workflow(&["list", "--connection-string", &redis]);
        // The last column is the age.
        let lines = said.lines().map(|line| line.trim_end().trim_end_matches(is_age).trim_end());
        lines.collect::<Vec<_>>().join("\n")
    };
    Ok([
        list(),
        left(),
        workflow(&["purge", "order-2"]),
        workflow(&["purge", "order-1"]),
        left(),
        list(),
        workflow(&["terminate", "order-2"]),
        workflow(&["purge", "--all", "--connection-string", &redis]),
        left(),
        list(),
    ])
}

/// Whether a character can be part of `1m2s`.
fn is_age(character: char) -> bool {
    character.is_ascii_digit() || matches!(character, 'm' | 's')
}

#[test]
#[ignore = "needs root: a hosts file of its own"]
fn the_official_command_line_purges_workflows_as_with_daprs_scheduler() -> Result<()> {
    let app = format!("purge-{}", &environment::secret()?[..8]);
    let ours = scene(build_binary("scheduler")?, 80, &app)?;
    let theirs = scene(Tool::REFERENCE_SCHEDULER.path()?, 81, &app)?;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        ensure!(ours == theirs, "ours: {ours}\ntheirs: {theirs}");
    }
    let left = "NAME\nactivity/APP/order-10::0::1\nworkflow/other/order-1/timer-left\n\
        workflow/APP/order-10/timer-left";
    ensure!(ours.contains(&left.replace("APP", &app)), "{ours:?}");
    Ok(())
}
