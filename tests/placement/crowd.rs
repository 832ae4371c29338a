//! Twenty official sidecars at three replicas are rolled, frozen, cut off and lose their leader,
//! while clients call actors all the time. Calls that wait for an owner are answered within a
//! minute, and no actor ever runs in two places.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use blackbox::{ActorApp, Executions, Tool, soon, until};
use rustix::process::Signal;

use crate::fixture::Sidecar;
use crate::replicas::{Calls, Replicas};

const HOSTS: usize = 20;
/// Sidecars that start, or stop, at the same time.
const AT_ONCE: usize = 5;
/// Clients of each of the two sidecars that are called through.
const CLIENTS: usize = 2;

struct Crowd {
    replicas: Replicas,
    hosts: Vec<Sidecar>,
    executions: Arc<Executions>,
}

impl Crowd {
    fn start() -> Self {
        let replicas = Replicas::start();
        let mut crowd = Self { replicas, hosts: vec![], executions: Arc::default() };
        for _ in 0..HOSTS / AT_ONCE {
            let more = crowd.some();
            crowd.hosts.extend(more);
        }
        crowd.wait_for_hosts(HOSTS);
        crowd
    }

    /// New sidecars, each with its app.
    fn some(&self) -> Vec<Sidecar> {
        let addresses = self.replicas.addresses();
        thread::scope(|scope| {
            let start = || self.host(&addresses);
            let started: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(start)).collect();
            started.into_iter().map(|sidecar| sidecar.join().unwrap()).collect()
        })
    }

    fn host(&self, placement: &str) -> Sidecar {
        let executions = Some(self.executions.clone());
        let app = ActorApp::start_watched("zoo", &["cat"], executions).unwrap();
        Sidecar::start_beside(Some(app), Tool::DAPRD, "zoo", placement, &[])
    }

    fn wait_for_hosts(&self, count: usize) {
        self.replicas.0[self.replicas.leader()].wait_for_hosts(count);
    }

    /// Replaces every sidecar by a new one, a few at a time.
    fn roll(&mut self) {
        for _ in 0..HOSTS / AT_ONCE {
            let new = self.some();
            let mut old: Vec<Sidecar> = self.hosts.drain(..AT_ONCE).collect();
            thread::scope(|scope| {
                for sidecar in &mut old {
                    scope.spawn(|| sidecar.daprd.process().terminate(soon()).unwrap());
                }
            });
            self.hosts.extend(new);
        }
        self.wait_for_hosts(HOSTS);
    }

    /// Freezes one sidecar, as on a node that swaps.
    fn freeze_one(&mut self, calls: &Calls) {
        self.hosts[0].daprd.process().signal(Signal::STOP).unwrap();
        self.wait_for_hosts(HOSTS - 1);
        calls.wait_for_turns(2);
        self.hosts[0].daprd.process().signal(Signal::CONT).unwrap();
        self.wait_for_hosts(HOSTS);
    }

    /// Adds a sidecar that cannot reach a replica for a while.
    fn cut_one_off(&mut self, calls: &Calls) {
        let relays: Vec<Relay> = self.replicas.0.iter().map(|r| Relay::start(r.port)).collect();
        let addresses: Vec<String> = relays.iter().map(Relay::address).collect();
        let _remote = self.host(&addresses.join(","));
        self.wait_for_hosts(HOSTS + 1);
        calls.wait_for_turns(2);
        relays.iter().for_each(Relay::cut);
        self.wait_for_hosts(HOSTS);
        calls.wait_for_turns(2);
        relays.iter().for_each(Relay::mend);
        self.wait_for_hosts(HOSTS + 1);
        calls.wait_for_turns(2);
    }

    /// Ends the leader by that signal; another takes over, and the first restarts.
    fn lose_leader(&mut self, signal: Signal, calls: &Calls) {
        self.replicas.lose(signal);
        self.wait_for_hosts(HOSTS);
        calls.wait_for_turns(2);
        self.replicas.restart_all();
    }
}

/// Forwards connections to a local port until it is cut: then bytes are dropped.
struct Relay {
    port: u16,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Relay {
    fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Self { port, cut: Arc::default(), open: Arc::default() };
        let (cut, open) = (relay.cut.clone(), relay.open.clone());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // A stopped replica refuses connections, and so does its relay.
                let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let cut = cut.clone();
                    thread::spawn(move || pass_on(from, to, &cut));
                }
                open.lock().unwrap().extend([near, far]);
            }
        });
        relay
    }

    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Closes open connections, as after an outage that one side has noticed.
    fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
        for connection in self.open.lock().unwrap().drain(..) {
            // The peer may have closed it already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if !cut.load(Ordering::Relaxed) && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    if !cut.load(Ordering::Relaxed) {
        let _ = to.shutdown(Shutdown::Both);
    }
}

#[test]
fn no_call_is_lost_and_no_actor_runs_twice_whatever_happens_to_twenty_sidecars() {
    let mut crowd = Crowd::start();
    let addresses = crowd.replicas.addresses();
    let callers = ["left", "right"].map(|name| Sidecar::start_with(name, &[], &addresses, &[]));
    let calls = Calls::default();
    let longest = thread::scope(|scope| {
        let callers = callers.iter().flat_map(|caller| [caller; CLIENTS]);
        let clients: Vec<_> = callers.map(|c| scope.spawn(|| calls.run(c))).collect();
        calls.wait_for_turns(2);
        crowd.roll();
        println!("rolled: {}", so_far(&calls, &crowd));
        crowd.freeze_one(&calls);
        println!("frozen: {}", so_far(&calls, &crowd));
        crowd.cut_one_off(&calls);
        println!("cut off: {}", so_far(&calls, &crowd));
        for signal in [Signal::KILL, Signal::TERM, Signal::TERM, Signal::TERM] {
            crowd.lose_leader(signal, &calls);
        }
        println!("leaders lost: {}", so_far(&calls, &crowd));
        calls.stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).max().unwrap_or(Duration::ZERO)
    });
    println!("the slowest answer took {longest:?}");
    assert_eq!(crowd.executions.overlaps(), [""; 0]);
    until(soon(), "each actor to live in one place", || {
        let active = crowd.hosts.iter().flat_map(|h| h.app.as_ref().unwrap().active());
        let mut active: Vec<String> = active.collect();
        let all = active.len();
        active.sort();
        active.dedup();
        Ok((active.len() == all).then_some(()))
    })
    .unwrap();
}

fn so_far(calls: &Calls, crowd: &Crowd) -> String {
    format!(
        "{} calls answered, {} tries failed, {} methods ran",
        calls.answered.load(Ordering::Relaxed),
        calls.failed.load(Ordering::Relaxed),
        crowd.executions.finished()
    )
}
