//! `dapr dashboard` without a cluster shows the sidecars of this machine and their objects.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result, ensure};
use blackbox::{
    DaprCli, Deadline, Process, Scratch, Tool, browser, environment, http, process, until,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{TIMEOUT, start, stop};

/// Words of the dashboard before its port.
const ADDRESS: &str = "Dashboard is at http://127.0.0.1:";
/// The port that the CLI asks for without `-p`.
const DEFAULT_PORT: u16 = 8080;
/// In a Component: on no page.
const PLANTED: &str = "pl4nted-s3cret-0815";
const OBJECTS: &str = "
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: bus}
spec: {type: pubsub.in-memory, version: v1, metadata: []}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: unused}
spec: {type: state.redis, version: v1, metadata: [{name: redisPassword, value: pl4nted-s3cret-0815}]}
scopes: [another]
";

/// `dapr dashboard`, and the program that it starts.
struct Dashboard {
    cli: Process,
    program: Pid,
    port: u16,
}

impl Dashboard {
    fn start(cli: &DaprCli, files: &Scratch, name: &str, args: &[&str]) -> Result<Self> {
        let spawn = cli.background(name, files.path())?.env_remove("KUBERNETES_SERVICE_HOST");
        let mut cli = spawn.arg("dashboard").args(args).start()?;
        cli.wait_for_log(ADDRESS, Deadline::seconds(TIMEOUT))?;
        let log = cli.log();
        let port =
            log.split_once(ADDRESS).and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        let port = port.with_context(|| format!("no port in {log}"))?;
        let program = child(cli.pid())?.context("the CLI started no dashboard")?;
        let mut started = Self { cli, program, port };
        started.cli.wait_for_http(port, "/apps", Deadline::seconds(TIMEOUT))?;
        Ok(started)
    }

    fn json(&self, path: &str) -> Result<Value> {
        let accept = [("Accept", "application/json")];
        let answer = http::request(self.port, "GET", path, &accept, None)?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        ensure!(!answer.body.contains(PLANTED), "{path} shows the secret: {}", answer.body);
        answer.json()
    }

    /// The row of a list with this member.
    fn row(&self, path: &str, member: &str, value: &str) -> Result<Option<Value>> {
        let list = self.json(path)?;
        let rows = list.as_object().into_iter().flatten().filter_map(|(_, rows)| rows.as_array());
        let mut rows = rows.flatten();
        Ok(rows.find(|row| row.get(member).and_then(Value::as_str) == Some(value)).cloned())
    }
}

/// A process that any thread of `parent` started.
fn child(parent: Pid) -> Result<Option<Pid>> {
    let threads = fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero()))?;
    for thread in threads {
        // The thread may have ended.
        let children = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        if let Some(child) = children.split_whitespace().next() {
            return Ok(Pid::from_raw(child.parse()?));
        }
    }
    Ok(None)
}

impl Drop for Dashboard {
    /// The CLI ends with its program, and not the other way round.
    fn drop(&mut self) {
        let _ = kill_process(self.program, Signal::TERM); // it may have ended
    }
}

pub(super) fn shows_this_machine(cli: &DaprCli, files: &Scratch, app: &str) -> Result<()> {
    fs::write(cli.home().join(".dapr/components/own.yaml"), OBJECTS)?;
    let port = environment::free_port()?;
    let flags = ["--placement-host-address", "", "--scheduler-host-address", ""];
    let mut run = start(cli, files, app, port, &flags)?;
    run.wait_for_http(port, "/v1.0/healthz", Deadline::seconds(TIMEOUT))?;
    let asked = environment::free_port()?;
    let mut dashboard =
        Dashboard::start(cli, files, "dapr-dashboard", &["-p", &asked.to_string()])?;
    ensure!(dashboard.port == asked, "asked for {asked}, got {}", dashboard.port);
    without_a_port(cli, files)?;

    let listed = cli.run(&["list"])?;
    ensure!(listed.contains(app), "{listed}");
    let find = |dashboard: &Dashboard| dashboard.row("/apps", "app_id", app);
    let row = until(Deadline::seconds(TIMEOUT), "the application", || find(&dashboard))
        .with_context(|| process::tail(&dashboard.cli.log()))?;
    let daprd = Tool::DAPRD.version().trim_start_matches('v');
    ensure!(row.pointer("/versions/0").and_then(Value::as_str) == Some(daprd), "{row:#}");
    let one = dashboard.json(&format!("/apps/default/{app}"))?;
    let resource = |name: &str| {
        let rows = one.get("resources").and_then(Value::as_array).into_iter().flatten();
        rows.into_iter().find(|row| row.get("name").and_then(Value::as_str) == Some(name))
    };
    let bus = resource("bus").with_context(|| format!("no Component: {one:#}"))?;
    ensure!(bus.get("loaded") == Some(&Value::Bool(true)), "{bus:#}");
    ensure!(resource("unused").is_none(), "its scopes name another application: {one:#}");
    ensure!(one.pointer("/configuration/1") == Some(&Value::Bool(true)), "{one:#}");
    let version = one.pointer("/sidecar/metadata/runtimeVersion").and_then(Value::as_str);
    ensure!(version.is_some(), "the sidecar was not asked: {one:#}");
    for path in ["/components/default/unused", "/graph", "/topics", "/configurations"] {
        dashboard.json(path)?;
    }
    pages(&dashboard, app)?;

    stop(cli, app, run)?;
    until(Deadline::seconds(TIMEOUT), "its end", || Ok(find(&dashboard)?.is_none().then_some(())))?;
    kill_process(dashboard.program, Signal::TERM)?;
    until(Deadline::seconds(TIMEOUT), "dapr dashboard to end", || {
        Ok(dashboard.cli.exit_status().map(drop))
    })
}

/// Without `-p` the CLI 1.16.5 asks for port 8080, and says what to do if it is in use; port 0 is a
/// free one.
fn without_a_port(cli: &DaprCli, files: &Scratch) -> Result<()> {
    // It fails if another program has the port, which is the same for the CLI.
    let _taken = TcpListener::bind((Ipv4Addr::UNSPECIFIED, DEFAULT_PORT));
    let output = cli.command()?.arg("dashboard").output()?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(said.contains("8080") && said.contains("\"-p\""), "{said}");
    let dashboard = Dashboard::start(cli, files, "dapr-dashboard-free-port", &["-p", "0"])?;
    ensure!(dashboard.port != DEFAULT_PORT, "it is at {}", dashboard.port);
    Ok(())
}

/// The first page in a browser, and one that needs a cluster.
fn pages(dashboard: &Dashboard, app: &str) -> Result<()> {
    let first = browser::open(&format!("http://127.0.0.1:{}/", dashboard.port))?;
    for words in [app, "Processes", "Components"] {
        ensure!(first.document.contains(words), "no {words:?}: {}", first.document);
    }
    ensure!(!first.document.contains("Control plane"), "{}", first.document);
    let other = http::get(dashboard.port, "/control-plane")?;
    ensure!(other.status == 404 && other.body.contains("in Kubernetes"), "{other:?}");
    Ok(())
}
