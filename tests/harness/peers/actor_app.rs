//! An app that hosts actors, for a sidecar.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use super::app_server::{self, Answer};

/// Duration of a watched method: long enough to overlap with one that must not run.
const WORK: Duration = Duration::from_millis(5);

/// Watches the methods of all apps of a test for actors that run in two places at once.
#[derive(Debug, Default)]
pub struct Executions(Mutex<Observations>);

#[derive(Debug, Default)]
struct Observations {
    finished: usize,
    /// The app in which an actor runs now.
    running: BTreeMap<String, String>,
    overlaps: Vec<String>,
}

impl Executions {
    /// Number of methods that ran to their end.
    pub fn finished(&self) -> usize {
        self.lock().finished
    }

    /// Each method that started while another app ran one of the same actor.
    pub fn overlaps(&self) -> Vec<String> {
        self.lock().overlaps.clone()
    }

    fn run(&self, app: &str, id: &str) {
        {
            let mut seen = self.lock();
            if let Some(other) = seen.running.insert(id.to_owned(), app.to_owned()) {
                seen.overlaps.push(format!("{id} at {app} while at {other}"));
            }
        }
        thread::sleep(WORK);
        let mut seen = self.lock();
        seen.running.remove(id);
        seen.finished += 1;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Observations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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
        Self::start_watched(name, types, None)
    }

    /// As [`ActorApp::start`]; `executions` watches its methods.
    ///
    /// # Errors
    /// No port is free.
    pub fn start_watched(
        name: &str,
        types: &[&str],
        executions: Option<Arc<Executions>>,
    ) -> Result<Self> {
        let active = Arc::new(Mutex::new(BTreeSet::new()));
        let config = serde_json::json!({
            "entities": types, "drainOngoingCallTimeout": "1s", "drainRebalancedActors": true,
        });
        let (name, config) = (name.to_owned(), config.to_string());
        let app = App { name, config, active: active.clone(), executions };
        let port = app_server::serve(move |method, path| Some(app.answer(method, path)))?;
        Ok(Self { port, active })
    }

    /// On 127.0.0.1.
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
    executions: Option<Arc<Executions>>,
}

impl App {
    fn answer(&self, method: &str, path: &str) -> Answer {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["dapr", "config"]) => ("200 OK", self.config.clone()),
            ("GET", ["healthz"]) => ("200 OK", String::new()),
            ("PUT", ["actors", _, id, "method", _]) => {
                self.change(|active| active.insert((*id).to_owned()));
                if let Some(executions) = &self.executions {
                    executions.run(&self.name, id);
                }
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
