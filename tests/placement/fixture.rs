//! Processes for the placement tests: placement, official sidecars with actors, a sentry.

use std::path::Path;

use anyhow::Result;
use blackbox::{
    ACTOR_STATE, ActorApp, Daprd, Process, Scratch, Spawn, Tool, build_binary, environment, http,
    soon, until,
};

/// A placement process on ports of its own.
pub(crate) struct Placement {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) health: u16,
    pub(crate) metrics: u16,
    pub(crate) peers: u16,
    pub(crate) folder: Scratch,
    program: std::path::PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Placement {
    pub(crate) fn start(extra: &[&str]) -> Self {
        Self::start_program(&build_binary("placement").unwrap(), extra)
    }

    /// A single replica that leads: the reference is healthy some milliseconds before.
    pub(crate) fn start_program(program: &Path, extra: &[&str]) -> Self {
        let peers = environment::free_port().unwrap();
        let cluster = format!("dapr-placement-0=127.0.0.1:{peers}");
        let placement = Self::start_member(program, &cluster, peers, extra, &[]);
        until(soon(), "a leader", || {
            let leads = http::metric(placement.metrics, "dapr_placement_leader_status");
            Ok(leads.ok().flatten().filter(|leads| *leads > 0.0))
        })
        .unwrap();
        placement
    }

    /// One of the replicas that `cluster` names, whose election port is `peers`.
    pub(crate) fn start_member(
        program: &Path,
        cluster: &str,
        peers: u16,
        extra: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let [port, health, metrics] = [(); 3].map(|()| environment::free_port().unwrap());
        let mut args = vec![
            format!("--port={port}"),
            format!("--healthz-port={health}"),
            format!("--metrics-port={metrics}"),
            format!("--initial-cluster={cluster}"),
            "--listen-address=127.0.0.1".to_owned(),
            "--healthz-listen-address=127.0.0.1".to_owned(),
            "--metadata-enabled".to_owned(),
            "--log-level=debug".to_owned(),
        ];
        args.extend(extra.iter().map(ToString::to_string));
        let folder = Scratch::new("placement").unwrap();
        let env: Vec<(String, String)> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let process = spawn(program, &args, &env, &folder).start().unwrap();
        let program = program.to_owned();
        let mut placement =
            Self { process, port, health, metrics, peers, folder, program, args, env };
        placement.wait_healthy();
        placement
    }

    pub(crate) fn restart(&mut self) {
        self.process = spawn(&self.program, &self.args, &self.env, &self.folder).start().unwrap();
        self.wait_healthy();
    }

    pub(crate) fn wait_healthy(&mut self) {
        self.process.wait_for_http(self.health, "/healthz", soon()).unwrap();
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The registered hosts of the namespace `default`.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let answer = http::get(self.health, "/placement/state").unwrap().json().unwrap();
        let hosts = answer.pointer("/tables/default/hosts").and_then(|h| h.as_array().cloned());
        let name = |h: serde_json::Value| h["name"].as_str().unwrap_or_default().to_owned();
        hosts.unwrap_or_default().into_iter().map(name).collect()
    }

    /// The version of the table of the namespace `default`.
    pub(crate) fn version(&self) -> u64 {
        let answer = http::get(self.health, "/placement/state").unwrap().json().unwrap();
        answer.pointer("/tables/default/version").and_then(serde_json::Value::as_u64).unwrap()
    }

    pub(crate) fn wait_for_hosts(&self, count: usize) -> Vec<String> {
        until(soon(), &format!("{count} hosts in the table"), || {
            Ok(Some(self.hosts()).filter(|hosts| hosts.len() == count))
        })
        .unwrap()
    }

    pub(crate) fn metric(&self, line: &str) -> Option<f64> {
        http::metric(self.metrics, line).unwrap()
    }
}

fn spawn(program: &Path, args: &[String], env: &[(String, String)], folder: &Scratch) -> Spawn {
    let spawn = Spawn::new("placement", program, folder.path())
        .args(args)
        .env_remove("NAMESPACE")
        .env_remove("DAPR_PLACEMENT_METADATA_ENABLED");
    env.iter().fold(spawn, |spawn, (name, value)| spawn.env(name, value))
}

/// A sidecar, with an app that hosts actors or without any.
pub(crate) struct Sidecar {
    pub(crate) daprd: Daprd,
    pub(crate) app: Option<ActorApp>,
    _resources: Scratch,
}

impl Sidecar {
    /// `types` empty: no app.
    pub(crate) fn start(name: &str, types: &[&str], placement: &Placement) -> Self {
        Self::start_with(name, types, &placement.address(), &[])
    }

    pub(crate) fn start_with(
        name: &str,
        types: &[&str],
        placement: &str,
        env: &[(&str, &str)],
    ) -> Self {
        Self::start_version(Tool::DAPRD, name, types, placement, env)
    }

    /// `env` holds variables, and flags with their dashes.
    pub(crate) fn start_version(
        version: Tool,
        name: &str,
        types: &[&str],
        placement: &str,
        env: &[(&str, &str)],
    ) -> Self {
        let app = (!types.is_empty()).then(|| ActorApp::start(name, types).unwrap());
        Self::start_beside(app, version, name, placement, env)
    }

    /// The sidecar of an app that is already running.
    pub(crate) fn start_beside(
        app: Option<ActorApp>,
        version: Tool,
        name: &str,
        placement: &str,
        env: &[(&str, &str)],
    ) -> Self {
        let resources = Scratch::new("resources").unwrap();
        resources.write("store.yaml", ACTOR_STATE).unwrap();
        let mut builder = Daprd::builder(name)
            .version(version)
            .resources(resources.path())
            .placement(placement)
            .on_loopback();
        if let Some(app) = &app {
            builder = builder.arg(format!("--app-port={}", app.port()));
        }
        for (name, value) in env {
            builder = match name.strip_prefix("--") {
                Some(_) if value.is_empty() => builder.arg(*name),
                Some(_) => builder.arg(format!("{name}={value}")),
                None => builder.env(*name, *value),
            };
        }
        let mut daprd = builder.start().unwrap();
        daprd.wait_ready(soon()).unwrap();
        Self { daprd, app, _resources: resources }
    }

    /// The host's name on the ring.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.daprd.internal_port)
    }

    /// Calls an actor; returns the answer of the app that hosts it.
    pub(crate) fn call(&self, id: &str) -> Result<String> {
        let path = format!("/v1.0/actors/cat/{id}/method/who");
        let answer = http::request(self.daprd.http_port, "PUT", &path, &[], Some("{}"))?;
        anyhow::ensure!(answer.is_success(), "{}: {}", answer.status, answer.body);
        Ok(answer.body)
    }

    pub(crate) fn wait_until(&self, id: &str, want: &str) {
        let what = format!("{want:?} at {}", self.daprd.app_id());
        until(soon(), &what, || Ok(self.call(id).ok().filter(|got| got == want))).unwrap();
    }
}

/// Our sentry, self-hosted, with a CA of its own.
pub(crate) struct Sentry {
    _process: Process,
    pub(crate) port: u16,
    pub(crate) folder: Scratch,
}

impl Sentry {
    pub(crate) fn start() -> Self {
        let folder = Scratch::new("sentry").unwrap();
        let config = folder.write("config.yaml", "").unwrap();
        let [port, health, metrics] = [(); 3].map(|()| environment::free_port().unwrap());
        let mut process = Spawn::new("sentry", build_binary("sentry").unwrap(), folder.path())
            .arg(format!("--port={port}"))
            .arg(format!("--healthz-port={health}"))
            .arg(format!("--metrics-port={metrics}"))
            .arg(format!("--config={}", config.display()))
            .arg(format!("--issuer-credentials={}", folder.path().display()))
            .args(["--listen-address=127.0.0.1", "--healthz-listen-address=127.0.0.1"])
            .env_remove("NAMESPACE")
            .start()
            .unwrap();
        process.wait_for_http(health, "/healthz", soon()).unwrap();
        Self { _process: process, port, folder }
    }
}
