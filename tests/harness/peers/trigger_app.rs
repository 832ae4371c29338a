//! An app that takes jobs and actor reminders from its sidecar.

use std::{
    io::{BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::SystemTime,
};

use anyhow::Result;

use super::actor_app::read_request;

/// One call of the sidecar.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// `/job/<name>`, or `/actors/<type>/<id>/method/remind/<name>`.
    pub path: String,
    /// When it came.
    pub at: SystemTime,
}

/// An app that hosts actors and takes every job. It ends with the test process.
#[derive(Debug)]
pub struct TriggerApp {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    config: String,
    received: Mutex<Vec<Trigger>>,
    /// Calls are answered with 500.
    fails: AtomicBool,
    /// Calls are not answered; their connections stay open.
    holds: AtomicBool,
}

impl TriggerApp {
    /// Starts it on a free port of 127.0.0.1, hosting these actor types.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(types: &[&str]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let config = serde_json::json!({ "entities": types }).to_string();
        let shared = Arc::new(Shared { config, ..Shared::default() });
        let app = shared.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let app = app.clone();
                // The sidecar has gone: nothing is left to answer.
                thread::spawn(move || drop(app.serve(connection)));
            }
        });
        Ok(Self { port, shared })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every call so far, answered or not, in order.
    pub fn received(&self) -> Vec<Trigger> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on calls are answered with an error, or not.
    pub fn fail(&self, fails: bool) {
        self.shared.fails.store(fails, Ordering::Relaxed);
    }

    /// From now on calls stay without an answer, or not.
    pub fn hold(&self, holds: bool) {
        self.shared.holds.store(holds, Ordering::Relaxed);
    }
}

impl Shared {
    fn serve(&self, connection: TcpStream) -> std::io::Result<()> {
        let mut answers = connection.try_clone()?;
        let mut requests = BufReader::new(connection);
        while let Some((method, path)) = read_request(&mut requests)? {
            let trigger = path.starts_with("/job/") || path.contains("/method/remind/");
            let (status, body) = match method.as_str() {
                "GET" if path == "/dapr/config" => ("200 OK", self.config.as_str()),
                "GET" if path == "/healthz" => ("200 OK", ""),
                "DELETE" => ("200 OK", ""),
                _ if trigger => {
                    self.note(path);
                    if self.holds.load(Ordering::Relaxed) {
                        continue;
                    }
                    let fails = self.fails.load(Ordering::Relaxed);
                    (if fails { "500 Internal Server Error" } else { "200 OK" }, "")
                }
                _ => ("404 Not Found", ""),
            };
            write!(
                answers,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        Ok(())
    }

    #[expect(clippy::disallowed_methods, reason = "a test compares it with the time it asked for")]
    fn note(&self, path: String) {
        let at = SystemTime::now();
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.push(Trigger { path, at });
    }
}
