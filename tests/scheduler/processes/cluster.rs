//! Schedulers that run an etcd of their own.

use std::net::TcpStream;

use anyhow::{Context as _, Result};
use blackbox::{environment, soon, until};
use serde_json::Value;

use super::etcd_server::etcdctl;
use super::member::{Crowd, Kind, Member};

/// Schedulers that store jobs in an etcd of their own.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Member>,
    pub(crate) crowd: Crowd,
    /// The client ports.
    pub(crate) clients: Vec<u16>,
}

impl Cluster {
    /// So many members of that kind, with more flags.
    pub(crate) fn start(kind: Kind, count: usize, flags: &[&str]) -> Result<Self> {
        Self::start_first(kind, count, count, flags)
    }

    /// The first `running` of so many members. [`Self::next`] starts the others.
    pub(crate) fn start_first(
        kind: Kind,
        running: usize,
        count: usize,
        flags: &[&str],
    ) -> Result<Self> {
        let ports =
            |count| (0..count).map(|_| Ok(environment::free_port()?)).collect::<Result<Vec<_>>>();
        let (peers, clients) = (ports(count)?, ports(count)?);
        let entry =
            |(number, port)| format!("dapr-scheduler-server-{number}=http://127.0.0.1:{port}");
        let entries: Vec<String> = peers.iter().enumerate().map(entry).collect();
        let common = |client: &u16| {
            let mut all = vec![
                format!("--etcd-initial-cluster={}", entries.join(",")),
                format!("--etcd-client-port={client}"),
            ];
            all.extend(flags.iter().map(ToString::to_string));
            all
        };
        let mut members: Vec<Member> = clients
            .iter()
            .enumerate()
            .take(running)
            .map(|(number, client)| Member::spawn(kind, number, common(client)))
            .collect::<Result<_>>()?;
        members.iter_mut().try_for_each(Member::wait_healthy)?;
        let crowd = Crowd::start(&members.iter().map(|member| member.port).collect::<Vec<_>>())?;
        crowd.wait_for_hosts(&members, running)?;
        Ok(Self { members, crowd, clients })
    }

    /// Starts the member that follows these, of the cluster with these client ports.
    pub(crate) fn next(kind: Kind, members: &[Member], clients: &[u16]) -> Result<Member> {
        let number = members.len();
        let mut flags = members[0].flags.clone();
        flags[1] = format!("--etcd-client-port={}", clients[number]);
        let mut member = Member::spawn(kind, number, flags)?;
        member.wait_healthy()?;
        Ok(member)
    }

    /// Schedules at each member in turn.
    pub(crate) fn schedule(&self, names: &[String], job: &proto::scheduler::Job) -> Result<()> {
        for (name, member) in names.iter().zip(self.members.iter().cycle()) {
            self.crowd.schedule(member.port, name, job.clone())?;
        }
        Ok(())
    }

    /// What etcdctl says at the client port of a member.
    pub(crate) fn ctl(&self, number: usize, args: &[&str]) -> Result<String> {
        etcdctl(&format!("127.0.0.1:{}", self.clients[number]), args)
    }

    /// The revision of the store.
    pub(crate) fn revision(&self, number: usize) -> Result<u64> {
        let answer: Value =
            serde_json::from_str(&self.ctl(number, &["get", "none", "-w", "json"])?)?;
        answer["header"]["revision"].as_u64().context("a revision")
    }

    /// The keys that begin so, as the etcd of a member has them.
    pub(crate) fn keys(&self, number: usize, prefix: &str) -> Result<Vec<String>> {
        let said = self.ctl(number, &["get", prefix, "--prefix", "--keys-only"])?;
        Ok(said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }

    pub(crate) fn wait_for_closed_port(&self, number: usize) -> Result<()> {
        let port = self.clients[number];
        until(soon(), "the end of etcd", || {
            Ok(TcpStream::connect(("127.0.0.1", port)).is_err().then_some(()))
        })
    }
}
