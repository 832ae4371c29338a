//! Faults around real processes: each service is stopped, is killed, runs out of file descriptors,
//! logs to a full disk or to a reader that hangs, and has its clock moved. Faults of the API server are
//! in the suites of the services (`operator/faults.rs`, `sentry/faults.rs`,
//! `injector_admission/outages.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]

mod services;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use blackbox::{http, soon, until};
use rstest::rstest;
use rustix::process::Signal;

use services::{Running, What};

#[rstest]
fn a_service_that_was_stopped_goes_on(
    #[values(What::Sentry, What::Placement, What::Scheduler, What::Operator, What::Injector)] what: What,
) {
    let mut service = Running::start(what);
    let before = service.state();
    service.process.signal(Signal::STOP).unwrap();
    until(soon(), "the process to stop", || Ok(service.is_stopped().then_some(()))).unwrap();
    assert!(!service.answers(), "a stopped process answers");
    service.process.signal(Signal::CONT).unwrap();
    service.wait_healthy();
    assert!(service.accepts(), "no new connections");
    assert_eq!(service.state(), before);
    assert!(!service.process.log().contains("panicked"), "{}", service.process.log());
}

#[rstest]
fn a_service_that_was_killed_starts_with_what_it_had(
    #[values(What::Sentry, What::Placement, What::Scheduler, What::Operator, What::Injector)] what: What,
) {
    let mut service = Running::start(what);
    let before = service.state();
    for _ in 0..3 {
        service.process.kill();
        service.restart();
        assert_eq!(service.state(), before, "{what:?}");
    }
    assert!(service.accepts());
}

/// Fewer than the idle connections of the test.
const DESCRIPTORS: usize = 256;

#[rstest]
fn a_service_without_descriptors_answers_probes_and_recovers(
    #[values(What::Sentry, What::Placement, What::Scheduler, What::Operator, What::Injector)] what: What,
) {
    let mut service = Running::start_with(what, &format!("ulimit -n {DESCRIPTORS}; exec \"$@\""));
    let address = SocketAddr::from(([127, 0, 0, 1], service.ports.main));
    let flood: Vec<_> =
        (0..2 * DESCRIPTORS).filter_map(|_| TcpStream::connect(address).ok()).collect();
    assert!(flood.len() > DESCRIPTORS / 2, "{} connections", flood.len());
    until(soon(), "a limit to be hit", || Ok((service.limit_hits() > 0.0).then_some(()))).unwrap();
    let health = http::get(service.ports.healthz, "/healthz").unwrap();
    assert!(health.is_success(), "{}: {}", health.status, service.process.log());
    drop(flood);
    until(soon(), "a new connection", || Ok(service.accepts().then_some(()))).unwrap();
    assert!(service.process.is_running());
    let log = service.process.log();
    assert!(log.contains("a limit of the server was reached"), "{log}");
}

#[rstest]
fn a_full_log_disk_stops_no_service(
    #[values(What::Sentry, What::Placement, What::Scheduler)] what: What,
) {
    let mut service = Running::start_with(what, "exec \"$@\" --log-file=/dev/full");
    assert!(service.accepts());
    assert!(service.process.is_running());
}

/// Threads that send lines at a time: each alone is slow on a busy machine.
const SENDERS: usize = 4;

#[rstest]
fn a_log_without_a_reader_delays_no_service(
    #[values(What::Sentry, What::Placement, What::Scheduler)] what: What,
) {
    // Opens the pipe for reading too, so that it fills up instead of breaking.
    let script = "mkfifo pipe; exec 3<>pipe; exec \"$@\" --log-level=debug >pipe";
    let mut service = Running::start_with(what, script);
    // Each connection is a line, and thousands fit into the queue.
    let (address, enough) = (service.address(), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..SENDERS {
            scope.spawn(|| {
                while !enough.load(Ordering::Relaxed) {
                    nonsense(address);
                }
            });
        }
        let dropped = until(soon(), "lines to be dropped", || {
            Ok((service.metric("trilby_log_lines_dropped_total") > 0.0).then_some(()))
        });
        enough.store(true, Ordering::Relaxed);
        dropped.unwrap();
    });
    assert!(http::get(service.ports.healthz, "/healthz").unwrap().is_success());
    assert!(service.accepts());
    assert!(service.process.is_running());
}

#[rstest]
#[case::an_hour_ahead("3600")]
#[case::an_hour_back("-3600")]
fn a_clock_that_jumps_leaves_a_service_usable(
    #[case] seconds: &str,
    #[values(What::Sentry, What::Placement, What::Scheduler, What::Operator, What::Injector)] what: What,
) {
    let mut service = Running::with_clock(what);
    let before = service.state();
    service.jump(seconds);
    service.wait_healthy();
    assert!(service.accepts());
    assert_eq!(service.state(), before);
    // Starts with a clock that is wrong from the beginning, too. A CA that is not valid yet is neither
    // used nor replaced.
    service.process.kill();
    let former = service.process.log().len();
    service.spawn();
    if let (Some(complaint), true) = (of_an_early_clock(what), seconds.starts_with('-')) {
        let is_said = |log: &str| Ok(log[former..].contains(complaint));
        service.process.wait(soon(), complaint, is_said).unwrap();
        service.jump("0");
    }
    service.wait_healthy();
    assert_eq!(service.state(), before);
}

/// What a service logs for whose clock the certificate of sentry is not valid yet; `None` if it has no
/// certificates.
fn of_an_early_clock(what: What) -> Option<&'static str> {
    match what {
        What::Sentry => Some("sentry is not ready"),
        What::Operator | What::Injector => Some("no identity from sentry"),
        What::Placement | What::Scheduler => None,
    }
}

/// Sends what no service understands, and waits until the service ends the connection: clients that do
/// not wait fill the queue of connections to accept, and then wait for a second each.
fn nonsense(address: SocketAddr) {
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(b"\x16\x03\x01\xff\xffnonsense\r\n\r\n");
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let _ = io::copy(&mut stream, &mut io::sink());
    }
}
