//! The etcd of three schedulers, whose members know each other by certificates of sentry.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Result, ensure};
use blackbox::procfs::child_of;
use blackbox::tools::path_with_etcd;
use blackbox::{
    Deadline, Ports, Process, Scratch, Spawn, Tool, build_binary, environment, http, soon, until,
};
use rustix::process::Signal;
use testkit::ca::Ca;

use crate::processes::member::Kind;

const NAMESPACE: &str = "jobs";

/// A standalone sentry.
struct Sentry {
    _process: Process,
    port: u16,
    folder: Scratch,
}

impl Sentry {
    fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// One with this Configuration.
    fn start_with(configuration: &str) -> Result<Self> {
        let folder = Scratch::new("sentry")?;
        folder.write("config.yaml", configuration)?;
        let ports = Ports::free()?;
        let mut process = Spawn::new("sentry", build_binary("sentry")?, folder.path())
            .args(["--mode=standalone", "--trust-domain=cluster.local", "--config=config.yaml"])
            .arg("--issuer-credentials=.")
            .service_at(ports)
            .env("NAMESPACE", NAMESPACE)
            .folder(folder.path())
            .start()?;
        process.wait_for_http(ports.healthz, "/healthz", soon())?;
        Ok(Self { _process: process, port: ports.main, folder })
    }

    fn anchors(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }
}

/// The name by which the members know a member.
fn host(number: usize) -> String {
    format!("dapr-scheduler-server-{number}.dapr-scheduler-server.{NAMESPACE}.svc.cluster.local")
}

struct Member {
    process: Process,
    health: u16,
    client: u16,
    identity: PathBuf,
    folder: Scratch,
}

impl Member {
    fn start(kind: Kind, number: usize, cluster: &str, sentry: &Sentry) -> Result<Self> {
        let folder = Scratch::new("member")?;
        let port = || environment::free_port();
        let [port, health, metrics, client] = [port()?, port()?, port()?, port()?];
        let hosts = [0, 1, 2].map(|number| format!("127.0.0.1 {}\n", host(number))).concat();
        let hosts = folder.write("hosts", format!("127.0.0.1 localhost\n{hosts}"))?;
        let identity = folder.path().join("identity");
        let anchors = folder.write("anchors.crt", fs::read(sentry.anchors())?)?;
        let program = match kind {
            Kind::Ours => build_binary("scheduler")?,
            Kind::Reference => Tool::REFERENCE_SCHEDULER.path()?,
        };
        // In a mount namespace where the names of the members are known.
        let process = Spawn::new("scheduler", "unshare", folder.path())
            .args(["--mount", "sh", "-c"])
            .arg(r#"mount --bind "$0" /etc/hosts && exec "$@""#)
            .arg(hosts)
            .arg(program)
            .arg(format!("--id=dapr-scheduler-server-{number}"))
            .arg(format!("--port={port}"))
            .arg(format!("--healthz-port={health}"))
            .arg(format!("--metrics-port={metrics}"))
            .arg(format!("--etcd-client-port={client}"))
            .arg(format!("--etcd-initial-cluster={cluster}"))
            .arg(format!("--etcd-data-dir={}", folder.path().join("data").display()))
            .arg(format!("--identity-directory-write={}", identity.display()))
            .arg(format!("--trust-anchors-file={}", anchors.display()))
            .arg(format!("--sentry-address=127.0.0.1:{}", sentry.port))
            .args(["--tls-enabled", "--trust-domain=cluster.local", "--listen-address=127.0.0.1"])
            .env("NAMESPACE", NAMESPACE)
            .env("PATH", path_with_etcd(folder.path())?)
            .start()?;
        Ok(Self { process, health, client, identity, folder })
    }

    /// It also trusts this one from now on.
    fn trust(&self, anchor: &str) -> Result<()> {
        let path = self.folder.path().join("anchors.crt");
        self.folder.write("anchors.crt", fs::read_to_string(path)? + anchor)?;
        Ok(())
    }

    fn certificate(&self) -> Result<String> {
        Ok(fs::read_to_string(self.identity.join("cert.pem"))?)
    }

    /// The keys of the members, as the etcd of this one has them.
    fn leadership(&self) -> Result<usize> {
        let done = Command::new(Tool::ETCDCTL.path()?)
            .arg(format!("--endpoints=127.0.0.1:{}", self.client))
            .args(["get", "dapr/leadership/", "--prefix", "--keys-only"])
            .output()?;
        let said = String::from_utf8_lossy(&done.stdout);
        Ok(said.lines().filter(|line| !line.is_empty()).count())
    }
}

fn cluster(hosts: [String; 3]) -> Result<String> {
    let entry = |(number, host): (usize, String)| {
        let port = environment::free_port()?;
        Ok(format!("dapr-scheduler-server-{number}=https://{host}:{port}"))
    };
    let entries: Result<Vec<_>> = hosts.into_iter().enumerate().map(entry).collect();
    Ok(entries?.join(","))
}

/// Two of ours and one of Dapr's own.
#[test]
#[ignore = "needs root: a hosts file of its own"]
fn members_know_each_other_by_certificates_of_sentry() -> Result<()> {
    let sentry = Sentry::start()?;
    let cluster = cluster([0, 1, 2].map(host))?;
    let kinds = [Kind::Ours, Kind::Ours, Kind::Reference];
    let mut members: Vec<Member> = kinds
        .into_iter()
        .enumerate()
        .map(|(number, kind)| Member::start(kind, number, &cluster, &sentry))
        .collect::<Result<_>>()?;
    for member in &mut members {
        member.process.wait_for_http(member.health, "/healthz", soon())?;
    }
    for member in &members {
        until(soon(), "three members", || Ok((member.leadership()? == 3).then_some(())))?;
    }
    for file in ["cert.pem", "key.pem", "ca.pem"] {
        let path = members[0].identity.join(file);
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&path)?);
        ensure!(mode & 0o777 == 0o600, "{file} has mode {mode:o}");
    }
    members[0].process.signal(Signal::TERM)?;
    let status = until(soon(), "the end", || Ok(members[0].process.exit_status()))?;
    ensure!(status.code() == Some(0), "{}", members[0].process.log());

    // The same member on another directory: the others answer its certificate.
    let mut lost = Member::start(Kind::Ours, 0, &cluster, &sentry)?;
    lost.process.wait_for_log("holds no data of member dapr-scheduler-server-0", soon())
}

#[test]
#[ignore = "needs root: a hosts file of its own"]
fn a_member_under_a_name_that_its_certificate_does_not_have_says_so() -> Result<()> {
    let sentry = Sentry::start()?;
    let cluster = cluster([0, 1, 2].map(|number| format!("scheduler-{number}.example")))?;
    let mut member = Member::start(Kind::Ours, 0, &cluster, &sentry)?;
    let sentence = "peer certificate does not contain the expected DNS name scheduler-0.example";
    member.process.wait_for_log(sentence, soon())?;
    until(soon(), "an answer", || Ok(http::get(member.health, "/healthz").ok()))?;
    ensure!(http::get(member.health, "/healthz")?.status == 503);
    ensure!(http::get(member.health, "/livez")?.status == 200);
    Ok(())
}

/// Certificates of half a minute.
const SHORT: &str = "apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: daprsystem}
spec: {mtls: {enabled: true, workloadCertTTL: 30s, allowedClockSkew: 5s}}
";

/// Looks at the client ports until it is over; whether one was ever closed. Two of three are a
/// majority.
fn at_most_one_is_away(clients: &[u16], over: &AtomicBool) -> Result<bool> {
    let mut seen = false;
    while !over.load(Ordering::Relaxed) {
        let is_away = |port: &&u16| TcpStream::connect(("127.0.0.1", **port)).is_err();
        let away = clients.iter().filter(is_away).count();
        ensure!(away <= 1, "{away} of three are away");
        seen |= away == 1;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(seen)
}

/// etcd reads certificates at each handshake, and anchors when it starts: one member at a time.
#[test]
#[ignore = "needs root: a hosts file of its own"]
fn members_get_new_certificates_and_new_anchors_without_losing_their_majority() -> Result<()> {
    let sentry = Sentry::start_with(SHORT)?;
    let cluster = cluster([0, 1, 2].map(host))?;
    let start = |number| Member::start(Kind::Ours, number, &cluster, &sentry);
    let mut members: Vec<Member> = (0..3).map(start).collect::<Result<_>>()?;
    for member in &mut members {
        member.process.wait_for_http(member.health, "/healthz", soon())?;
    }
    for member in &members {
        until(soon(), "three members", || Ok((member.leadership()? == 3).then_some(())))?;
    }
    let etcds = || members.iter().map(|member| child_of(member.process.pid(), "etcd"));
    let certificates = || members.iter().map(Member::certificate);
    let first: Vec<_> = etcds().zip(certificates()).collect();
    let clients: Vec<u16> = members.iter().map(|member| member.client).collect();
    let over = AtomicBool::new(false);
    let seen = thread::scope(|scope| {
        let watch = scope.spawn(|| at_most_one_is_away(&clients, &over));
        let another = Ca::new().pem().anchors.clone();
        let change = || {
            members.iter().try_for_each(|member| member.trust(&another))?;
            until(Deadline::seconds(120), "new certificates, and etcds with new anchors", || {
                for ((etcd, certificate), (old, before)) in etcds().zip(certificates()).zip(&first)
                {
                    let (Ok(old), Ok(before)) = (old, before) else { return Ok(None) };
                    let etcd = etcd?;
                    if etcd.is_none() || etcd == *old || certificate? == *before {
                        return Ok(None);
                    }
                }
                Ok(Some(()))
            })
        };
        let changed = change();
        over.store(true, Ordering::Relaxed);
        let seen = watch.join().unwrap();
        changed.and(seen)
    })?;
    ensure!(seen, "no etcd was seen to restart");
    for member in &mut members {
        member.process.wait_for_http(member.health, "/healthz", soon())?;
    }
    for member in &members {
        until(soon(), "three members", || Ok((member.leadership()? == 3).then_some(())))?;
    }
    Ok(())
}
