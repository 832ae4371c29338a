//! An app that receives jobs and actor reminders from its sidecar.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::Result;

use super::app_server::{self, Answer};

/// One call of the sidecar.
#[derive(Clone, Debug)]
pub struct Trigger {
    /// `/job/<name>`, or `/actors/<type>/<id>/method/remind/<name>`.
    pub path: String,
    /// Time of the call.
    pub at: SystemTime,
}

/// An app that hosts actors and accepts every job. It ends with the test process.
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
        let config = serde_json::json!({ "entities": types }).to_string();
        let shared = Arc::new(Shared { config, ..Shared::default() });
        let app = shared.clone();
        let port = app_server::serve(move |method, path| app.answer(method, path))?;
        Ok(Self { port, shared })
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every call so far, answered or not, in order.
    pub fn received(&self) -> Vec<Trigger> {
        self.shared.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether calls are answered with an error from now on.
    pub fn fail(&self, fails: bool) {
        self.shared.fails.store(fails, Ordering::Relaxed);
    }

    /// Whether calls stay unanswered from now on.
    pub fn hold(&self, holds: bool) {
        self.shared.holds.store(holds, Ordering::Relaxed);
    }
}

impl Shared {
    fn answer(&self, method: &str, path: &str) -> Option<Answer> {
        let trigger = path.starts_with("/job/") || path.contains("/method/remind/");
        let (status, body) = match method {
            "GET" if path == "/dapr/config" => ("200 OK", self.config.clone()),
            "GET" if path == "/healthz" => ("200 OK", String::new()),
            "DELETE" => ("200 OK", String::new()),
            _ if trigger => {
                self.note(path.to_owned());
                if self.holds.load(Ordering::Relaxed) {
                    return None;
                }
                let fails = self.fails.load(Ordering::Relaxed);
                (if fails { "500 Internal Server Error" } else { "200 OK" }, String::new())
            }
            _ => ("404 Not Found", String::new()),
        };
        Some((status, body))
    }

    #[expect(clippy::disallowed_methods, reason = "a test compares it with the time it asked for")]
    fn note(&self, path: String) {
        let at = SystemTime::now();
        let mut received = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        received.push(Trigger { path, at });
    }
}
