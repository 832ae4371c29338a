//! An etcd of its own, which can be stopped and started again.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use blackbox::{Process, Scratch, Spawn, Tool, environment, soon, until};
use serde_json::Value;

/// An etcd of one member, or one member of several.
pub(crate) struct EtcdServer {
    pub(crate) process: Process,
    pub(crate) port: u16,
    peer: u16,
    flags: Vec<String>,
    folder: Scratch,
}

impl EtcdServer {
    pub(crate) fn start() -> Result<Self> {
        Self::start_with("http", &[])
    }

    /// One that clients reach by that scheme, with more flags.
    pub(crate) fn start_with(scheme: &str, flags: &[String]) -> Result<Self> {
        let peer = environment::free_port()?;
        let own = format!("default=http://127.0.0.1:{peer}");
        let mut all = vec![format!("--initial-cluster={own}")];
        all.extend(flags.iter().cloned());
        let server = Self::launch(scheme, peer, &all)?;
        server.wait()?;
        Ok(server)
    }

    /// Three that are one store.
    pub(crate) fn start_three() -> Result<Vec<Self>> {
        let peers = (0..3).map(|_| Ok(environment::free_port()?)).collect::<Result<Vec<_>>>()?;
        let entry = |(number, peer)| format!("etcd-{number}=http://127.0.0.1:{peer}");
        let entries: Vec<String> = peers.iter().enumerate().map(entry).collect();
        let cluster = format!("--initial-cluster={}", entries.join(","));
        let launch = |(number, peer): (usize, &u16)| {
            Self::launch("http", *peer, &[cluster.clone(), format!("--name=etcd-{number}")])
        };
        let all: Vec<Self> = peers.iter().enumerate().map(launch).collect::<Result<_>>()?;
        all.iter().try_for_each(Self::wait)?;
        Ok(all)
    }

    fn launch(scheme: &str, peer: u16, flags: &[String]) -> Result<Self> {
        let port = environment::free_port()?;
        let folder = Scratch::new("etcd")?;
        let url = format!("{scheme}://127.0.0.1:{port}");
        let mut all =
            vec![format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")];
        all.extend(flags.iter().cloned());
        let process = spawn(&folder, peer, &all)?;
        Ok(Self { process, port, peer, flags: all, folder })
    }

    fn wait(&self) -> Result<()> {
        until(soon(), "the port of etcd", || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", self.port)).ok())
        })?;
        Ok(())
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        self.process.terminate(soon()).map(drop)
    }

    /// Starts it again on its port and its directory.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.process = spawn(&self.folder, self.peer, &self.flags)?;
        self.wait()
    }

    /// Where schedulers find it.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What etcdctl says.
    pub(crate) fn ctl(&self, args: &[&str]) -> Result<String> {
        etcdctl(&self.endpoint(), args)
    }

    /// The keys that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Result<Vec<String>> {
        let said = self.ctl(&["get", prefix, "--prefix", "--keys-only"])?;
        Ok(said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    /// Key and `mod_revision` of each key that begins so.
    pub(crate) fn versions(&self, prefix: &str) -> Result<BTreeMap<String, u64>> {
        Ok(self.keys(prefix)?.into_iter().zip(self.revisions(prefix)?).collect())
    }

    /// The `mod_revision` of each key that begins so, in their order.
    pub(crate) fn revisions(&self, prefix: &str) -> Result<Vec<u64>> {
        let said = self.ctl(&["get", prefix, "--prefix", "--keys-only", "-w", "json"])?;
        let answer: Value = serde_json::from_str(&said)?;
        let pairs = answer.get("kvs").and_then(Value::as_array).into_iter().flatten();
        pairs.map(|pair| pair["mod_revision"].as_u64().context("a revision")).collect()
    }
}

/// What etcdctl says at an endpoint.
pub(crate) fn etcdctl(endpoint: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(Tool::ETCDCTL.path()?);
    let done = command.arg(format!("--endpoints={endpoint}")).args(args).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(String::from_utf8(done.stdout)?)
}

fn spawn(folder: &Scratch, peer: u16, flags: &[String]) -> Result<Process> {
    let peer = format!("http://127.0.0.1:{peer}");
    Spawn::new("etcd", Tool::ETCD.path()?, folder.path())
        .arg(format!("--data-dir={}", folder.path().join("data").display()))
        .arg(format!("--listen-peer-urls={peer}"))
        .arg(format!("--initial-advertise-peer-urls={peer}"))
        .args(flags)
        .start()
}
