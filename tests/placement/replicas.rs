//! Three replicas, official sidecars, and a client that calls actors while leaders stop.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use blackbox::{build_binary, environment, http, soon, until};
use rustix::process::Signal;

use crate::fixture::{Placement, Sidecar};

const REPLICAS: usize = 3;
/// Actors that the client calls, in turn.
const ACTORS: usize = 12;
/// Pause between two attempts of a client.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Replicas(pub(crate) Vec<Placement>);

impl Replicas {
    pub(crate) fn start() -> Self {
        Self::start_with(&[], &[])
    }

    /// With additional flags and variables.
    pub(crate) fn start_with(flags: &[&str], env: &[(&str, &str)]) -> Self {
        let ports: Vec<u16> = (0..REPLICAS).map(|_| environment::free_port().unwrap()).collect();
        let members: Vec<String> =
            ports.iter().enumerate().map(|(i, port)| format!("p{i}=127.0.0.1:{port}")).collect();
        let cluster = members.join(",");
        let program = build_binary("placement").unwrap();
        let replica = |i: usize| {
            let id = format!("--id=p{i}");
            let flags = [&[id.as_str()], flags].concat();
            Placement::start_member(&program, &cluster, ports[i], &flags, env)
        };
        let replicas = Self((0..REPLICAS).map(replica).collect());
        replicas.leader();
        replicas
    }

    pub(crate) fn addresses(&self) -> String {
        self.0.iter().map(Placement::address).collect::<Vec<_>>().join(",")
    }

    /// The leader, once exactly one leads.
    pub(crate) fn leader(&self) -> usize {
        until(soon(), "exactly one leader", || {
            let leads = |i: &usize| {
                let gauge = http::get(self.0[*i].metrics, "/").map(|a| a.body).unwrap_or_default();
                gauge.lines().any(|line| line == "dapr_placement_leader_status 1")
            };
            let leaders: Vec<usize> = (0..REPLICAS).filter(leads).collect();
            Ok(match leaders[..] {
                [one] => Some(one),
                _ => None,
            })
        })
        .unwrap()
    }

    pub(crate) fn lose(&mut self, signal: Signal) {
        let leader = self.leader();
        let lost = &mut self.0[leader];
        lost.process.signal(signal).unwrap();
        until(soon(), "its end", || Ok(lost.process.exit_status())).unwrap();
    }

    pub(crate) fn restart_all(&mut self) {
        for replica in &mut self.0 {
            if replica.process.exit_status().is_some() {
                replica.restart();
            }
        }
        self.leader();
    }
}

/// Results of the clients.
#[derive(Default)]
pub(crate) struct Calls {
    pub(crate) answered: AtomicUsize,
    /// Failed attempts. Each is retried until it is answered.
    pub(crate) failed: AtomicUsize,
    pub(crate) stop: AtomicBool,
}

impl Calls {
    /// Calls one actor after the other until stopped; returns the longest wait for an answer.
    pub(crate) fn run(&self, caller: &Sidecar) -> Duration {
        let mut longest = Duration::ZERO;
        for i in (0..ACTORS).cycle() {
            if self.stop.load(Ordering::Relaxed) {
                return longest;
            }
            let begin = soon();
            while let Err(error) = caller.call(&format!("tom-{i}")) {
                self.failed.fetch_add(1, Ordering::Relaxed);
                assert!(!begin.passed(), "tom-{i} is lost: {error:#}");
                thread::sleep(PAUSE);
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
            longest = longest.max(begin.elapsed());
        }
        longest
    }

    /// Waits for more successful calls: full turns of all actors in number.
    pub(crate) fn wait_for_turns(&self, turns: usize) {
        let want = self.answered.load(Ordering::Relaxed) + ACTORS * turns;
        until(soon(), "answers", || {
            Ok((self.answered.load(Ordering::Relaxed) >= want).then_some(()))
        })
        .unwrap();
    }
}

/// The leader is killed, then one is stopped, then all are rolled: calls are held meanwhile and
/// answered afterwards, none fails, and no actor runs on two hosts.
#[test]
fn calls_survive_every_loss_of_a_leader() {
    let mut replicas = Replicas::start();
    let addresses = replicas.addresses();
    let hosts = ["a", "b"].map(|name| Sidecar::start_with(name, &["cat"], &addresses, &[]));
    let caller = Sidecar::start_with("caller", &[], &addresses, &[]);
    replicas.0[replicas.leader()].wait_for_hosts(2);
    let calls = Calls::default();
    let longest = thread::scope(|scope| {
        let client = scope.spawn(|| calls.run(&caller));
        calls.wait_for_turns(1);
        for signal in [Signal::KILL, Signal::TERM, Signal::TERM, Signal::TERM] {
            replicas.lose(signal);
            replicas.0[replicas.leader()].wait_for_hosts(2);
            calls.wait_for_turns(1);
            replicas.restart_all();
        }
        calls.stop.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    println!(
        "{} calls answered, {} failed; the slowest took {longest:?}",
        calls.answered.load(Ordering::Relaxed),
        calls.failed.load(Ordering::Relaxed)
    );
    assert_eq!(calls.failed.load(Ordering::Relaxed), 0);
    let [a, b]: [BTreeSet<String>; 2] = hosts.each_ref().map(|h| h.app.as_ref().unwrap().active());
    assert!(a.is_disjoint(&b), "{a:?} {b:?}");
    assert!(a.len() + b.len() > 0);
}

/// Every replica is healthy, only the leader shows tables, and the others report that they do not
/// lead.
#[test]
fn followers_answer_for_themselves() {
    let replicas = Replicas::start();
    let leader = replicas.leader();
    let sidecar = Sidecar::start_with("a", &["cat"], &replicas.addresses(), &[]);
    replicas.0[leader].wait_for_hosts(1);
    for (i, replica) in replicas.0.iter().enumerate() {
        assert_eq!(http::get(replica.health, "/healthz").unwrap().status, 200);
        let state = http::get(replica.health, "/placement/state").unwrap().body;
        assert_eq!(state == "null", i != leader, "p{i}: {state}");
    }
    drop(sidecar);
}
