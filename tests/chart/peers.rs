//! The chart's peers: our own programs, which take its arguments, and the official `dapr` CLI,
//! which installs it and reads what it installed.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use blackbox::{ApiBed, Scratch, Tool, build_binary, environment, process};
use rstest::rstest;

use crate::{
    cluster::{alone, bed, clean},
    helm::{NAMESPACE, Objects, folder},
};

#[rstest]
#[case("operator", "Deployment/dapr-operator")]
#[case("sentry", "Deployment/dapr-sentry")]
#[case("injector", "Deployment/dapr-sidecar-injector")]
#[case("placement", "StatefulSet/dapr-placement-server")]
fn our_programs_take_every_argument(#[case] program: &str, #[case] workload: &str) -> Result<()> {
    let file = build_binary(program)?;
    let everything = [
        "global.logAsJson=true",
        "global.rbac.namespaced=true",
        "global.argoRolloutServiceReconciler.enabled=true",
        "global.operator.watchdogCanPatchPodLabels=true",
        "global.issuerFilenames.ca=ca.crt",
        "global.issuerFilenames.cert=tls.crt",
        "global.issuerFilenames.key=tls.key",
        "dapr_operator.serviceReconciler.enabled=false",
        "dapr_operator.serviceReconciler.daemonSets=true",
        "dapr_operator.healthzPort=8081",
        "dapr_operator.webhookPort=29443",
        "dapr_sidecar_injector.webhookPort=24000",
        "dapr_sentry.caKeyType=ed25519",
        "dapr_sentry.caLifetime=720h",
        "dapr_sentry.caRotateAt=0",
        "dapr_sentry.caKeepRetired=48h",
        "dapr_placement.metadataEnabled=true",
    ];
    for sets in [&[][..], &["global.prometheus.enabled=false"], &everything] {
        // Arguments are read from left to right: what comes before --help must be known.
        let args = Objects::render(sets)?.args(workload)?;
        process::output(Command::new(&file).args(args).arg("--help"))?;
    }
    // And that is no idle question.
    let unknown = process::output(Command::new(&file).args(["--no-such-flag", "--help"]));
    ensure!(unknown.is_err(), "{program} takes any argument");
    Ok(())
}

#[test]
fn the_official_cli_installs_reads_and_removes_it() -> Result<()> {
    let _alone = alone();
    let bed = bed()?;
    clean(bed)?;
    let cli = Cli::new(bed)?;
    // Up to 1.17 the CLI wants to install a dashboard too, unless it finds this.
    let dashboard = ["clusterrole", "dashboard-reader"];
    bed.kubectl(&["create", "clusterrole", dashboard[1], "--verb=get", "--resource=pods"])?;

    let said = cli.run(&[
        "init",
        "-k",
        "--runtime-version",
        "1.18.3",
        "--image-registry",
        "mirror.example/dapr",
    ])?;
    assert!(said.contains("Success! Dapr has been installed to namespace dapr-system"), "{said}");
    let status = cli.run(&["status", "-k"])?;
    for name in ["dapr-operator", "dapr-sentry", "dapr-sidecar-injector", "dapr-placement-server"] {
        let row = status.lines().find(|line| line.trim_start().starts_with(name));
        let row = row.with_context(|| format!("no row {name} in:\n{status}"))?;
        assert!(row.contains(" 1.18.3 "), "{row}");
    }
    let mtls = cli.run(&["mtls", "-k"])?;
    assert!(mtls.contains("Mutual TLS is enabled"), "{mtls}");
    let injector = bed.get(&["deployment", "dapr-sidecar-injector", "-n", NAMESPACE])?;
    let spec = injector.to_string();
    assert!(spec.contains("mirror.example/dapr/daprd:1.18.3"), "the mirror holds daprd too");

    let said = cli.run(&["uninstall", "-k"])?;
    assert!(said.contains("Dapr has been removed successfully"), "{said}");
    bed.kubectl(&["delete", dashboard[0], dashboard[1]]).map(drop)
}

/// The official CLI with a home of its own and a chart repository on this machine.
pub(crate) struct Cli {
    program: PathBuf,
    kubeconfig: PathBuf,
    path: String,
    repository: String,
    home: Scratch,
}

impl Cli {
    pub(crate) fn new(bed: &ApiBed) -> Result<Self> {
        let home = Scratch::new("dapr-cli")?;
        // The CLI runs `kubectl`.
        let kubectl = Tool::KUBECTL.path()?;
        std::os::unix::fs::symlink(kubectl, home.path().join("kubectl"))?;
        let path = environment::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", home.path().display());
        let repository = repository(&home.path().join("charts"))?;
        let kubeconfig = bed.kubeconfig().to_path_buf();
        Ok(Self { program: Tool::DAPR_CLI.path()?, kubeconfig, path, repository, home })
    }

    pub(crate) fn run(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.path);
        command.env("HOME", self.home.path()).env("DAPR_HELM_REPO_URL", &self.repository);
        process::output(&mut command)
    }
}

/// Packages the chart into `folder`, serves it, and returns the address.
fn repository(folder_of_charts: &Path) -> Result<String> {
    fs::create_dir_all(folder_of_charts)?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = format!("http://{}", listener.local_addr()?);
    let helm = || Tool::HELM.path().map(Command::new);
    process::output(helm()?.arg("package").arg(folder()).arg("-d").arg(folder_of_charts))?;
    process::output(
        helm()?.args(["repo", "index"]).arg(folder_of_charts).args(["--url", &address]),
    )?;
    let root = folder_of_charts.to_path_buf();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // A client that goes away early is its own business.
            let _ = answer(connection, &root);
        }
    });
    Ok(address)
}

/// Answers one GET with a file of `root`, and closes.
fn answer(connection: TcpStream, root: &Path) -> Result<()> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let name = line.split_whitespace().nth(1).and_then(|path| path.rsplit('/').next());
    let found = fs::read(root.join(name.context("no path")?));
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let (status, body) = found.map_or(("404 Not Found", Vec::new()), |body| ("200 OK", body));
    let mut connection = reader.into_inner();
    let length = body.len();
    write!(
        connection,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    connection.write_all(&body).map_err(Into::into)
}
