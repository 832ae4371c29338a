//! Behaviour shared by the programs of all services.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

use std::fs;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::Path;

use blackbox::{Deadline, Scratch, Service, Spawn, environment};
use serde_json::Value;

/// The six log flags (Dapr 1.19), with a file that is written in addition to standard output.
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

struct Ports {
    main: u16,
    health: u16,
    metrics: u16,
}

impl Ports {
    fn new() -> Self {
        let port = || environment::free_port().unwrap();
        Self { main: port(), health: port(), metrics: port() }
    }
}

/// A service as it runs outside of Kubernetes, with this kubeconfig.
fn spawn(service: Service, scratch: &Scratch, kubeconfig: &Path, ports: &Ports) -> Spawn {
    let port = || environment::free_port().unwrap();
    let spawn = Spawn::new(service.binary(), service.build().unwrap(), scratch.path())
        .arg(format!("--healthz-port={}", ports.health))
        .arg(format!("--metrics-port={}", ports.metrics))
        .env("NAMESPACE", "dapr-system")
        .env("HOME", scratch.path())
        .env("KUBECONFIG", kubeconfig)
        .env("DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK", "true")
        .env("SIDECAR_IMAGE", "daprd:1")
        .env("KUBE_CLUSTER_DOMAIN", "cluster.local")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .folder(scratch.path());
    let main = format!("--port={}", ports.main);
    match service {
        Service::Sentry => {
            let folder = scratch.path().join("credentials");
            fs::create_dir(&folder).unwrap();
            let configuration = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\n\
                                 metadata: {name: daprsystem}\nspec: {}\n";
            let configuration = scratch.write("configuration.yaml", configuration).unwrap();
            spawn
                .arg(main)
                .arg("--issuer-credentials")
                .arg(folder)
                .arg("--config")
                .arg(configuration)
        }
        Service::Placement => {
            let own = format!("--initial-cluster=dapr-placement-0=127.0.0.1:{}", port());
            spawn.arg(main).arg(own)
        }
        Service::Scheduler => spawn
            .arg(main)
            .arg(format!("--etcd-client-port={}", port()))
            .args(["--id", "dapr-scheduler-server-0", "--etcd-initial-cluster"])
            .arg(format!("dapr-scheduler-server-0=http://localhost:{}", port()))
            .arg("--etcd-data-dir")
            .arg(scratch.path().join("data")),
        Service::Operator => spawn.arg("--disable-leader-election"),
        Service::Injector => spawn,
    }
}

/// Each service writes the same lines to standard output and to the file, in JSON, with the time in
/// the layout of `--log-timestamp-format`. A service that needs an API server finds none, logs
/// that, and ends.
#[test]
fn every_service_takes_the_six_flags_about_logs() {
    for service in Service::ALL {
        let name = service.binary();
        let scratch = Scratch::new(&format!("log-{name}")).unwrap();
        let file = scratch.path().join("logs/service.log");
        fs::create_dir(scratch.path().join("logs")).unwrap();
        let spawn = spawn(service, &scratch, &scratch.path().join("none"), &Ports::new())
            .args(log_flags(&file.display().to_string()));
        let mut process = spawn.start().unwrap();
        let read = || fs::read_to_string(&file).unwrap_or_default();
        process
            .wait(Deadline::seconds(60), "a line in its log file", |_| Ok(read().contains('\n')))
            .unwrap_or_else(|error| panic!("{name}: {error:#}"));
        let lines = read();
        let first = lines.lines().next().unwrap();
        assert!(process.log().contains(first), "{name} wrote only to its file: {first}");
        let record: Value = serde_json::from_str(first).unwrap();
        let time = record.get("time").and_then(Value::as_str).unwrap_or_default();
        assert_eq!(time.len(), "2006-01-02".len(), "{name}: {first}");
    }
}

/// The addresses of health, metrics and main port (Dapr 1.19): each service listens only on that
/// address. Operator and injector open their main port when they have a certificate, so a test of
/// the library covers theirs.
#[test]
fn every_service_listens_on_the_loopback_address_that_it_is_given() {
    // An API server that accepts connections and never answers: the service waits for it.
    let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let server = format!("http://{}", silent.local_addr().unwrap());
    let config = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": server}}],
        "users": [{"name": "x", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]});
    for (address, other) in [("::1", "127.0.0.1"), ("127.0.0.1", "::1")] {
        for service in Service::ALL {
            let name = service.binary();
            let scratch = Scratch::new(&format!("listen-{name}")).unwrap();
            let kubeconfig = scratch.write("silent.json", config.to_string()).unwrap();
            let ports = Ports::new();
            let mut process = spawn(service, &scratch, &kubeconfig, &ports)
                .args(
                    ["healthz-listen-address", "metrics-listen-address", "listen-address"]
                        .map(|flag| format!("--{flag}={address}")),
                )
                .start()
                .unwrap();
            let mut open = vec![ports.health, ports.metrics];
            if !matches!(service, Service::Operator | Service::Injector) {
                open.push(ports.main);
            }
            for port in open {
                let reaches = |host: &str| {
                    TcpStream::connect((host.parse::<IpAddr>().unwrap(), port)).is_ok()
                };
                let what = format!("{name} on [{address}]:{port}");
                process
                    .wait(Deadline::seconds(60), &what, |_| Ok(reaches(address)))
                    .unwrap_or_else(|error| panic!("{what}: {error:#}"));
                assert!(!reaches(other), "{name} listens on {other}:{port} too");
            }
        }
    }
}
