//! Plain HTTP/1.0 requests to processes of this machine: health checks, daprd's API, metrics.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Time limit of one request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// An answer: the status code and the body as text.
#[derive(Clone, Debug)]
pub struct Response {
    /// HTTP status code.
    pub status: u16,
    /// The body, invalid UTF-8 replaced.
    pub body: String,
}

impl Response {
    /// Whether the status is 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is not JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body)
            .with_context(|| format!("body of HTTP {} is no JSON: {}", self.status, self.body))
    }
}

/// `GET http://127.0.0.1:<port><path>`.
///
/// # Errors
/// When there is no connection or no HTTP answer. A status of 4xx or 5xx is an answer.
pub fn get(port: u16, path: &str) -> Result<Response> {
    request(port, "GET", path, &[], None)
}

/// `POST` of a JSON value to `http://127.0.0.1:<port><path>`.
///
/// # Errors
/// As [`get`].
pub fn post(port: u16, path: &str, body: &serde_json::Value) -> Result<Response> {
    request(port, "POST", path, &[("Content-Type", "application/json")], Some(&body.to_string()))
}

/// The value of a series (`name{label="value"}`) of the process with that metrics port; `None` for
/// one that does not exist.
///
/// # Errors
/// As [`get`], and for a value that is no number.
pub fn metric(port: u16, series: &str) -> Result<Option<f64>> {
    let text = get(port, "/")?.body;
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map(|value| value.parse().with_context(|| format!("{series} {value}"))).transpose()
}

/// Any request to `http://127.0.0.1:<port><path>`. HTTP/1.0, so that the answer is never chunked.
///
/// # Errors
/// As [`get`].
pub fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Result<Response> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    exchange(address, method, path, headers, body)
        .with_context(|| format!("{method} http://{address}{path}"))
}

fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Result<Response> {
    over(&mut connect(address)?, &address.to_string(), method, path, headers, body)
}

/// A connection with timeouts for reads and writes.
pub(crate) fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(stream)
}

/// One request over its own connection.
pub(crate) fn over(
    stream: &mut (impl std::io::Read + std::io::Write),
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Result<Response> {
    let mut message = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n");
    for (name, value) in headers {
        let _ = write!(message, "{name}: {value}\r\n");
    }
    let body = body.unwrap_or_default();
    let _ = write!(message, "Content-Length: {}\r\n\r\n{body}", body.len());
    // In one piece: a second small one would wait for the peer to acknowledge the first.
    stream.write_all(message.as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<Response> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no end of the HTTP header")?;
    let status = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok(Response { status: status.context("no HTTP status line")?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_status_and_body() {
        let got = parse("HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\nnot yet").unwrap();
        assert_eq!((got.status, got.body.as_str()), (503, "not yet"));
        assert!(!got.is_success());
    }

    #[test]
    fn rejects_an_answer_that_is_not_http() {
        assert!(parse("220 smtp ready\r\n\r\n").unwrap_err().to_string().contains("status"));
        assert!(parse("").is_err());
    }
}
