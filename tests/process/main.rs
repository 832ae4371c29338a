//! What the programs of all services do alike.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fs;

use blackbox::{Deadline, Scratch, Service, Spawn, environment};
use serde_json::Value;

/// The six flags about logs (Dapr 1.19), with a file that is written beside standard output.
fn log_flags(file: &str) -> [String; 7] {
    [
        format!("--log-outputs=stdout,{file}"),
        "--log-file-max-size=1M".to_owned(),
        "--log-file-max-backups=2".to_owned(),
        "--log-file-max-age=48h".to_owned(),
        "--log-file-compression=true".to_owned(),
        "--log-timestamp-format=2006-01-02".to_owned(),
        "--log-as-json".to_owned(),
    ]
}

/// Each service writes the same lines to standard output and to the file, in JSON, with the time in
/// the layout of `--log-timestamp-format`. Where the service needs an API server it finds none, says
/// so in its log, and ends.
#[test]
fn every_service_takes_the_six_flags_about_logs() {
    for service in Service::ALL {
        let name = service.binary();
        let scratch = Scratch::new(&format!("log-{name}")).unwrap();
        let file = scratch.path().join("logs/service.log");
        fs::create_dir(scratch.path().join("logs")).unwrap();
        let port = || environment::free_port().unwrap().to_string();
        let mut spawn = Spawn::new(name, service.build().unwrap(), scratch.path())
            .args(log_flags(&file.display().to_string()))
            .args(["--healthz-port", &port(), "--metrics-port", &port()])
            .env("NAMESPACE", "dapr-system")
            .env("HOME", scratch.path())
            .env("KUBECONFIG", scratch.path().join("none"))
            .folder(scratch.path());
        spawn = match service {
            Service::Sentry => {
                let folder = scratch.path().join("credentials");
                fs::create_dir(&folder).unwrap();
                spawn.args(["--port", &port(), "--issuer-credentials"]).arg(folder)
            }
            Service::Placement => spawn.args(["--port", &port()]),
            Service::Scheduler => {
                let data = scratch.path().join("data");
                let ports = [port(), port(), port()];
                let [api, client, peer] = &ports;
                spawn
                    .args(["--port", api, "--etcd-client-port", client])
                    .args(["--id", "dapr-scheduler-server-0", "--etcd-initial-cluster"])
                    .arg(format!("dapr-scheduler-server-0=http://localhost:{peer}"))
                    .arg("--etcd-data-dir")
                    .arg(data)
            }
            Service::Operator | Service::Injector => spawn,
        };
        let mut process = spawn.start().unwrap();
        let read = || fs::read_to_string(&file).unwrap_or_default();
        process
            .wait(Deadline::seconds(60), "a line in its log file", |_| Ok(read().contains('\n')))
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let lines = read();
        let first = lines.lines().next().unwrap();
        assert!(process.log().contains(first), "{name} wrote to its file alone: {first}");
        let record: Value = serde_json::from_str(first).unwrap();
        let time = record.get("time").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(time.len(), "2006-01-02".len(), "{name}: {first}");
    }
}
