//! The HTTP server of the small applications that run behind a sidecar.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use anyhow::Result;

/// The status line and the body of an answer.
pub(super) type Answer = (&'static str, String);

/// Serves on a free port of 127.0.0.1 until the test process ends; returns the port. `answer`
/// receives method and path of each request; `None` leaves the request without an answer.
///
/// # Errors
/// No port is free.
pub(super) fn serve(
    answer: impl Fn(&str, &str) -> Option<Answer> + Send + Sync + 'static,
) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let answer = answer.clone();
            // An error means that the sidecar has closed the connection.
            thread::spawn(move || drop(serve_connection(connection, &*answer)));
        }
    });
    Ok(port)
}

fn serve_connection(
    connection: TcpStream,
    answer: &impl Fn(&str, &str) -> Option<Answer>,
) -> std::io::Result<()> {
    let mut answers = connection.try_clone()?;
    let mut requests = BufReader::new(connection);
    while let Some((method, path)) = read_request(&mut requests)? {
        let Some((status, body)) = answer(&method, &path) else { continue };
        write!(
            answers,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
    Ok(())
}

/// Method and path of the next request, its body skipped; `None` at the end of the connection.
fn read_request(from: &mut impl BufRead) -> std::io::Result<Option<(String, String)>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(ToOwned::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut length = 0;
    loop {
        let mut header = String::new();
        from.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    std::io::copy(&mut from.take(length), &mut std::io::sink())?;
    Ok(Some((method, path)))
}
