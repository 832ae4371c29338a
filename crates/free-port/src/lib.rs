//! Ports for the servers that tests start as processes.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};
use std::{io, process};

/// Below the ports that Linux gives to outgoing connections (from 32768) and Kubernetes to Services
/// (from 30000). A port of those could be taken between the choice and the bind.
const PORTS: Range<u16> = 10_000..30_000;

/// Distance between the first candidates of processes with consecutive ids.
const STRIDE: u32 = 61;

/// A TCP port of 127.0.0.1 that nothing listens on now. No other caller on this machine gets it
/// while this process runs.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`]: each port is taken. Others as `socket(2)` and `bind(2)`.
pub fn free_port() -> io::Result<u16> {
    static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    for port in candidates(process::id()) {
        let Some(claim) = claim(port)? else { continue };
        if is_free(port)? {
            claims.push(claim);
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port on 127.0.0.1"))
}

/// All ports, from one that depends on the process.
fn candidates(process: u32) -> impl Iterator<Item = u16> {
    let count = PORTS.len();
    let first = process.wrapping_mul(STRIDE) as usize % count;
    PORTS.cycle().skip(first).take(count)
}

/// An abstract socket address of that number: it needs no file, and the kernel frees it with the
/// process.
fn claim(port: u16) -> io::Result<Option<UnixListener>> {
    let address = SocketAddr::from_abstract_name(format!("trilby-port-{port}"))?;
    unless_in_use(UnixListener::bind_addr(&address))
}

fn is_free(port: u16) -> io::Result<bool> {
    Ok(unless_in_use(TcpListener::bind((Ipv4Addr::LOCALHOST, port)))?.is_some())
}

fn unless_in_use<T>(bound: io::Result<T>) -> io::Result<Option<T>> {
    match bound {
        Ok(bound) => Ok(Some(bound)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_never_while_something_listens() {
        let first = free_port().unwrap();
        assert!(PORTS.contains(&first) && is_free(first).unwrap());
        let next = candidates(process::id()).find(|port| claim(*port).unwrap().is_some()).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, next));
        let second = free_port().unwrap();
        assert!(first != second && (listener.is_err() || second != next));
    }

    #[test]
    fn each_port_is_tried_once() {
        let mut all: Vec<u16> = candidates(u32::MAX).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(PORTS));
    }
}
