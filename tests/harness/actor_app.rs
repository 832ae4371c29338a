//! An app that hosts actors, for a sidecar: a few lines of HTTP on a thread.

use std::{
    collections::BTreeSet,
    io::{BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Result;

/// An app that answers every actor method with its own name and the actor's id, as
/// `<app> <actor id>`. It ends with the test process.
#[derive(Debug)]
pub struct ActorApp {
    port: u16,
    active: Arc<Mutex<BTreeSet<String>>>,
}

impl ActorApp {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub fn start(name: &str, types: &[&str]) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let active = Arc::new(Mutex::new(BTreeSet::new()));
        let config = serde_json::json!({
            "entities": types, "drainOngoingCallTimeout": "1s", "drainRebalancedActors": true,
        });
        let app = App { name: name.to_owned(), config: config.to_string(), active: active.clone() };
        let app = Arc::new(app);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let app = app.clone();
                // The sidecar has gone: nothing is left to answer.
                thread::spawn(move || drop(app.serve(connection)));
            }
        });
        Ok(Self { port, active })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The ids of the actors that were called and not deactivated since.
    pub fn active(&self) -> BTreeSet<String> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct App {
    name: String,
    config: String,
    active: Arc<Mutex<BTreeSet<String>>>,
}

impl App {
    fn serve(&self, connection: TcpStream) -> std::io::Result<()> {
        let mut answers = connection.try_clone()?;
        let mut requests = BufReader::new(connection);
        while let Some((method, path)) = read_request(&mut requests)? {
            let (status, body) = self.answer(&method, &path);
            write!(
                answers,
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        Ok(())
    }

    fn answer(&self, method: &str, path: &str) -> (&'static str, String) {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["dapr", "config"]) => ("200 OK", self.config.clone()),
            ("GET", ["healthz"]) => ("200 OK", String::new()),
            ("PUT", ["actors", _, id, "method", _]) => {
                self.change(|active| active.insert((*id).to_owned()));
                ("200 OK", format!("{} {id}", self.name))
            }
            ("DELETE", ["actors", _, id]) => {
                self.change(|active| active.remove(*id));
                ("200 OK", String::new())
            }
            _ => ("404 Not Found", String::new()),
        }
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) {
        change(&mut self.active.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Method and path of the next request, its body skipped; `None` at the end of the connection.
pub(crate) fn read_request(
    from: &mut impl std::io::BufRead,
) -> std::io::Result<Option<(String, String)>> {
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
