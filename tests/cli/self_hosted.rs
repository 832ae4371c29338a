//! A machine without a cluster: `dapr init --slim` from our bundle, `dapr run` with our placement,
//! and the steps of the first introductory post.

mod dashboard;

use anyhow::{Context as _, Result, ensure};
use blackbox::bundle::Bundle;
use blackbox::{
    ACTOR_STATE, ActorApp, DaprCli, Deadline, Process, Scratch, Service, Spawn, Tool,
    build_dashboard, environment, http, process, until,
};

/// Enough for a process to start on a busy machine.
const TIMEOUT: u64 = 120;
#[test]
fn slim_mode_runs_sidecars_and_actors_with_our_placement() -> Result<()> {
    let files = Scratch::new("self-hosted")?;
    let bundle = files.path().join("bundle");
    Bundle {
        daprd: Tool::DAPRD.path()?,
        scheduler: Service::Scheduler.build()?,
        placement: Service::Placement.build()?,
        sentry: Service::Sentry.build()?,
        dashboard: build_dashboard()?,
    }
    .write(&bundle)?;
    let cli = DaprCli::self_hosted()?;
    let printed = cli.run(&["init", "--slim", "--from-dir", &bundle.to_string_lossy()])?;
    ensure!(printed.contains("Success! Dapr is up and running"), "{printed}");
    let installed = cli.home().join(".dapr");
    for name in [
        "bin/daprd",
        "bin/placement",
        "bin/scheduler",
        "bin/dashboard",
        "config.yaml",
        "components",
    ] {
        ensure!(installed.join(name).exists(), "{name} is not installed");
    }
    let version = cli.run(&["--version"])?;
    let daprd = Tool::DAPRD.version().trim_start_matches('v');
    ensure!(version.contains(&format!("Runtime version: {daprd}")), "{version}");

    let id = &environment::secret()?[..8]; // `dapr stop` scans every process of the machine
    without_application(&cli, &files, &format!("no-app-{id}"))?;
    actors(&cli, &files, &format!("actors-{id}"))?;
    dashboard::shows_this_machine(&cli, &files, &format!("seen-{id}"))?;

    let printed = cli.run(&["uninstall"])?;
    ensure!(printed.contains("Dapr has been removed successfully"), "{printed}");
    ensure!(!installed.join("bin").exists(), "the programs are still there");
    ensure!(installed.join("components").exists(), "only --all removes what is the user's");
    Ok(())
}

/// A sidecar alone, without a listener at the addresses of placement and scheduler: it serves its
/// API, and reports in `healthz` what it is waiting for (daprd 1.18; older ones do not wait for a
/// scheduler).
fn without_application(cli: &DaprCli, files: &Scratch, app: &str) -> Result<()> {
    let unused = format!("127.0.0.1:{}", environment::free_port()?);
    let port = environment::free_port()?;
    let flags = ["--placement-host-address", &unused, "--scheduler-host-address", &unused];
    let mut run = start(cli, files, app, port, &flags)?;
    run.wait_for_http(port, "/v1.0/healthz/outbound", Deadline::seconds(TIMEOUT))?;
    let health = http::get(port, "/v1.0/healthz")?;
    ensure!(health.status == 500 && health.body.contains("not ready"), "{health:?}");
    let list = cli.run(&["list"])?;
    ensure!(list.contains(app), "{list}");
    stop(cli, app, run)?;

    let (app, port) = (&format!("{app}-content"), environment::free_port()?);
    let flags = ["--placement-host-address", "", "--scheduler-host-address", ""];
    let mut run = start(cli, files, app, port, &flags)?;
    run.wait_for_http(port, "/v1.0/healthz", Deadline::seconds(TIMEOUT))?;
    stop(cli, app, run)
}

/// Our placement, as installed by the CLI, gives the sidecar its table, and our scheduler accepts a
/// job.
fn actors(cli: &DaprCli, files: &Scratch, app: &str) -> Result<()> {
    let [address, health, metrics] =
        [environment::free_port()?, environment::free_port()?, environment::free_port()?];
    let mut placement =
        Spawn::new("placement", cli.home().join(".dapr/bin/placement"), files.path())
            .arg(format!("--port={address}"))
            .arg(format!("--healthz-port={health}"))
            .arg(format!("--metrics-port={metrics}"))
            .env_remove("KUBERNETES_SERVICE_HOST")
            .start()?;
    placement.wait_for_http(health, "/healthz", Deadline::seconds(TIMEOUT))?;
    let scheduler = scheduler(cli, files)?;
    files.write("resources/state.yaml", ACTOR_STATE)?;
    let resources = files.path().join("resources").to_string_lossy().into_owned();
    let (port, host) = (environment::free_port()?, ActorApp::start("host", &["Counter"])?);
    let (placement_address, app_port) = (format!("127.0.0.1:{address}"), host.port().to_string());
    let flags = [
        "--placement-host-address",
        &placement_address,
        "--scheduler-host-address",
        &scheduler.address,
        "--resources-path",
        &resources,
        "--app-port",
        &app_port,
    ];
    let mut run = start(cli, files, app, port, &flags)?;
    run.wait_for_http(port, "/v1.0/healthz", Deadline::seconds(TIMEOUT))?;
    until(Deadline::seconds(TIMEOUT), "the actor", || {
        let answer = http::request(port, "PUT", "/v1.0/actors/Counter/7/method/call", &[], None);
        Ok(answer.ok().filter(|answer| answer.status == 200 && answer.body == "host 7"))
    })
    .with_context(|| process::tail(&run.log()))?;
    let job = "/v1.0-alpha1/jobs/later";
    let answer = http::post(port, job, &serde_json::json!({"dueTime": "1h"}))?;
    ensure!(answer.is_success(), "{answer:?}");
    ensure!(http::get(port, job)?.is_success(), "the job is not there");
    let printed = cli.run(&["invoke", "--app-id", app, "--method", "healthz", "--verb", "GET"])?;
    ensure!(printed.contains("App invoked successfully"), "{printed}");
    stop(cli, app, run)
}

struct Scheduler {
    address: String,
    _process: Process,
}

/// Our scheduler, as installed by the CLI.
fn scheduler(cli: &DaprCli, files: &Scratch) -> Result<Scheduler> {
    let [port, health] = [environment::free_port()?, environment::free_port()?];
    let mut process = Spawn::new("scheduler", cli.home().join(".dapr/bin/scheduler"), files.path())
        .arg(format!("--port={port}"))
        .arg(format!("--healthz-port={health}"))
        .arg(format!("--metrics-port={}", environment::free_port()?))
        .arg(format!("--etcd-client-port={}", environment::free_port()?))
        .arg(format!("--override-broadcast-host-port=127.0.0.1:{port}"))
        .folder(files.path())
        .env_remove("KUBERNETES_SERVICE_HOST")
        .start()?;
    process.wait_for_http(health, "/healthz", Deadline::seconds(TIMEOUT))?;
    Ok(Scheduler { address: format!("127.0.0.1:{port}"), _process: process })
}

/// `dapr run` in the background, once it has found its sidecar: if it is stopped earlier, it
/// continues to search.
fn start(cli: &DaprCli, files: &Scratch, app: &str, port: u16, flags: &[&str]) -> Result<Process> {
    let mut spawn = cli.background(app, files.path())?.args([
        "run",
        "--app-id",
        app,
        "--dapr-http-port",
        &port.to_string(),
    ]);
    for flag in ["--dapr-grpc-port", "--dapr-internal-grpc-port", "--metrics-port"] {
        spawn = spawn.arg(flag).arg(environment::free_port()?.to_string());
    }
    let mut run = spawn.args(flags).start()?;
    run.wait_for_log("You're up and running!", Deadline::seconds(TIMEOUT))?;
    Ok(run)
}

fn stop(cli: &DaprCli, app: &str, mut run: Process) -> Result<()> {
    let printed = cli.run(&["stop", "--app-id", app])?;
    ensure!(printed.contains("app stopped successfully"), "{printed}");
    until(Deadline::seconds(TIMEOUT), "dapr run to end", || Ok(run.exit_status().map(drop)))
        .with_context(|| process::tail(&run.log()))
}
