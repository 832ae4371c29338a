//! An app that takes messages from its sidecar.

use std::{
    io::{BufReader, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Result;

use super::actor_app::read_request;

/// An app that accepts every message on a path below `/events/` and subscribes to nothing by
/// itself. It ends with the test process.
#[derive(Debug)]
pub struct SubscriberApp {
    port: u16,
    received: Arc<Mutex<Vec<String>>>,
}

impl SubscriberApp {
    /// Starts it on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// No port is free.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let received = Arc::new(Mutex::new(Vec::new()));
        let inbox = received.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let inbox = inbox.clone();
                // The sidecar has gone: nothing is left to answer.
                thread::spawn(move || drop(serve(connection, &inbox)));
            }
        });
        Ok(Self { port, received })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The paths that messages came on so far, in order.
    pub fn received(&self) -> Vec<String> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(connection: TcpStream, inbox: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut answers = connection.try_clone()?;
    let mut requests = BufReader::new(connection);
    while let Some((method, path)) = read_request(&mut requests)? {
        let taken = method == "POST" && path.starts_with("/events/");
        if taken {
            inbox.lock().unwrap_or_else(PoisonError::into_inner).push(path);
        }
        let status = if taken { "200 OK" } else { "404 Not Found" };
        write!(answers, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")?;
    }
    Ok(())
}
