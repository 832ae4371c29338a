//! An app that receives messages from its sidecar.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use super::app_server;

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
        let received = Arc::new(Mutex::new(Vec::new()));
        let inbox = received.clone();
        let port = app_server::serve(move |method, path| {
            let taken = method == "POST" && path.starts_with("/events/");
            if taken {
                inbox.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
            }
            Some((if taken { "200 OK" } else { "404 Not Found" }, String::new()))
        })?;
        Ok(Self { port, received })
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The paths of the messages so far, in order.
    pub fn received(&self) -> Vec<String> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
