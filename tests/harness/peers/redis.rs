//! The real Redis server as a process.

use anyhow::{Context as _, Result};

use crate::{Deadline, Process, Scratch, Spawn, environment, packages};

/// How long it may take to serve.
const START_SECONDS: u64 = 30;

/// A running Redis without persistence, on 127.0.0.1.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    _scratch: Scratch,
}

impl Redis {
    /// Starts it; `password` is what clients must give.
    ///
    /// # Errors
    /// When `redis-server` is not installed, and cannot be, or does not serve in time.
    pub fn start(password: Option<&str>) -> Result<Self> {
        packages::require(&packages::REDIS)?;
        let program =
            environment::find_program("redis-server").context("redis-server is missing")?;
        let scratch = Scratch::new("redis")?;
        let port = environment::free_port()?;
        let mut spawn = Spawn::new("redis-server", program, scratch.path())
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

    /// `127.0.0.1:<port>`, as a Component's `redisHost` wants it.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process, to kill and to read its log.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}
