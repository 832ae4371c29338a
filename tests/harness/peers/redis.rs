//! The real Redis server as a process.

use anyhow::Result;
use serde_json::json;

use crate::programs::servers;
use crate::{Deadline, Process, Scratch, Spawn, environment};

/// Seconds until it must serve.
const START_SECONDS: u64 = 30;

/// A running Redis without persistence, on 127.0.0.1.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    _scratch: Scratch,
}

impl Redis {
    /// Starts it; clients must send `password`.
    ///
    /// # Errors
    /// When it is missing and cannot be installed, or does not serve in time.
    pub fn start(password: Option<&str>) -> Result<Self> {
        let scratch = Scratch::new("redis")?;
        let port = environment::free_port()?;
        let mut spawn = Spawn::new("redis-server", servers::redis()?, scratch.path())
            .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .folder(scratch.path());
        if let Some(password) = password {
            spawn = spawn.args(["--requirepass", password]);
        }
        let mut process = spawn.start()?;
        process.wait_for_port(port, Deadline::seconds(START_SECONDS))?;
        Ok(Self { process, port, _scratch: scratch })
    }

    /// `127.0.0.1:<port>`, for `redisHost` of a Component.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A Component that keeps the state of actors in it, as JSON.
    pub fn actor_state(&self) -> String {
        let component = json!({
            "apiVersion": "dapr.io/v1alpha1", "kind": "Component", "metadata": {"name": "store"},
            "spec": {"type": "state.redis", "version": "v1", "metadata": [
                {"name": "redisHost", "value": self.host()},
                {"name": "actorStateStore", "value": "true"},
            ]},
        });
        component.to_string()
    }

    /// On 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// For tests that stop or kill it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
