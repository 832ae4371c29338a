//! Standalone mode: real sidecars get their identities and call each other.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context as _, Result};
use blackbox::{
    Daprd, Deadline, Ports, Process, Scratch, Spawn, Tool, build_binary, environment, http,
    process, soon, until,
};

/// A standalone sentry with a CA of its own.
pub(crate) struct Standalone {
    pub(crate) folder: Scratch,
    pub(crate) process: Process,
    pub(crate) port: u16,
}

/// Starts the reference sentry on the CA in a folder and returns it with its port. It creates a CA if
/// there is none.
pub(crate) fn reference(folder: &Scratch) -> Result<(Process, u16)> {
    folder.write("config.yaml", "")?;
    let ports = Ports::free()?;
    let mut process = Spawn::new("reference", Tool::REFERENCE_SENTRY.path()?, folder.path())
        .args(["--mode=standalone", "--trust-domain=cluster.local", "--config=config.yaml"])
        .arg("--issuer-credentials=.")
        .service_at(ports)
        .env("NAMESPACE", "mesh")
        .folder(folder.path())
        .start()?;
    process.wait_for_http(ports.healthz, "/healthz", soon())?;
    Ok((process, ports.main))
}

/// Its log message when it uses the CA that it found.
pub(crate) const FOUND: &str = "Root and issuer certs found: using credentials from store";

impl Standalone {
    fn start() -> Result<Self> {
        let folder = Scratch::new("sentry-standalone")?;
        folder.write("config.yaml", "")?;
        Self::start_in(folder)
    }

    /// Starts in a folder that may hold a CA.
    pub(crate) fn start_in(folder: Scratch) -> Result<Self> {
        let ports = Ports::free()?;
        let mut process = Spawn::new("sentry", build_binary("sentry")?, folder.path())
            // Flags with a single dash, as in Go.
            .args(["-mode", "standalone", "-trust-domain", "cluster.local"])
            .args(["--config", "config.yaml", "--issuer-credentials", "."])
            .service_at(ports)
            .env("NAMESPACE", "mesh")
            .folder(folder.path())
            .start()?;
        process.wait_for_http(ports.healthz, "/healthz", soon())?;
        Ok(Self { folder, process, port: ports.main })
    }

    fn path(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn sidecar(&self, app_id: &str, app_port: Option<u16>) -> Result<Daprd> {
        let anchors = std::fs::read_to_string(self.folder.path().join("ca.crt"))?;
        let mut builder = Daprd::builder(app_id)
            .arg("--enable-mtls")
            .arg(format!("--sentry-address=127.0.0.1:{}", self.port))
            .args(["--control-plane-trust-domain=cluster.local", "--control-plane-namespace=mesh"])
            .env("DAPR_TRUST_ANCHORS", anchors);
        if let Some(port) = app_port {
            builder = builder.arg(format!("--app-port={port}"));
        }
        builder.start()
    }
}

/// An application that responds to every request with one word.
pub(crate) fn serve_hello() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    Ok(port)
}

#[test]
fn sidecars_get_an_identity_and_call_each_other_with_it() -> Result<()> {
    let sentry = Standalone::start()?;
    let mut till = sentry.sidecar("till", Some(serve_hello()?))?;
    let mut customer = sentry.sidecar("customer", None)?;
    for sidecar in [&mut till, &mut customer] {
        sidecar.wait_outbound_ready(Deadline::seconds(60))?;
    }
    let path = "/v1.0/invoke/till/method/anything";
    let mut last = String::new();
    until(soon(), "the call from sidecar to sidecar", || {
        let answer = http::get(customer.http_port, path)?;
        last.clone_from(&answer.body);
        Ok((answer.is_success() && answer.body == "hello").then_some(()))
    })
    .with_context(|| format!("last response: {last}"))?;
    let log = sentry.process.log();
    for id in ["spiffe://public/ns/default/till", "spiffe://public/ns/default/customer"] {
        assert!(log.contains(id), "{log}");
    }
    assert!(till.log().contains("Security is initialized successfully"));
    Ok(())
}

#[test]
fn serves_grpc_with_an_ed25519_certificate_of_its_own_name() -> Result<()> {
    let sentry = Standalone::start()?;
    let connect = format!(
        "openssl s_client -connect 127.0.0.1:{} -alpn h2 -CAfile ca.crt -verify_return_error </dev/null",
        sentry.port
    );
    let session = process::output(
        Command::new("sh").args(["-c", &connect]).current_dir(sentry.folder.path()),
    )?;
    assert!(session.contains("ALPN protocol: h2"), "{session}");
    assert!(session.contains("Verification: OK"), "{session}");
    let read = format!("{connect} | openssl x509 -noout -text");
    let text =
        process::output(Command::new("sh").args(["-c", &read]).current_dir(sentry.folder.path()))?;
    assert!(text.contains("Public Key Algorithm: ED25519"), "{text}");
    assert!(text.contains("URI:spiffe://cluster.local/ns/mesh/dapr-sentry\n"), "{text}");
    assert!(text.contains("Signature Algorithm: ecdsa-with-SHA256"), "{text}");
    Ok(())
}

#[test]
fn stops_gracefully_and_rejects_invalid_flags() -> Result<()> {
    let mut sentry = Standalone::start()?;
    let status = sentry.process.terminate(soon())?;
    let log = sentry.process.log();
    assert_eq!(status.code(), Some(0), "{log}");
    let last = log.trim_end().lines().last().unwrap_or_default().to_owned();
    assert!(last.contains("Sentry shut down gracefully"), "{last}");

    let run = |args: &[&str]| -> Result<(Option<i32>, String)> {
        let done = Command::new(build_binary("sentry")?).args(args).output()?;
        let text = [done.stdout, done.stderr].concat();
        Ok((done.status.code(), String::from_utf8(text)?))
    };
    let (code, text) = run(&["--no-such-flag"])?;
    assert_eq!(code, Some(2), "{text}");
    let (code, text) = run(&["--mode", "both"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("invalid mode: both"), "{text}");
    Ok(())
}

#[test]
fn the_reference_placement_takes_its_identity_from_us() -> Result<()> {
    let sentry = Standalone::start()?;
    let ports = Ports::free()?;
    let mut placement = Spawn::new("placement", Tool::REFERENCE_PLACEMENT.path()?, sentry.path())
        .args(["--mode=standalone", "--tls-enabled", "--trust-domain=cluster.local"])
        .arg("--trust-anchors-file=ca.crt")
        .arg(format!("--sentry-address=127.0.0.1:{}", sentry.port))
        .arg("--id=one")
        .arg(format!("--initial-cluster=one=127.0.0.1:{}", environment::free_port()?))
        .service_at(ports)
        .env("NAMESPACE", "mesh")
        .folder(sentry.path())
        .start()?;
    placement.wait_for_http(ports.healthz, "/healthz", Deadline::seconds(60))?;
    let log = sentry.process.log();
    // A control plane service requests the trust domain itself.
    assert!(log.contains("spiffe://cluster.local/ns/mesh/dapr-placement"), "{log}");
    Ok(())
}

#[test]
fn the_reference_sentry_reads_the_ca_that_we_created() -> Result<()> {
    let mut ours = Standalone::start()?;
    ours.process.terminate(soon())?;
    let folder = ours.path().to_path_buf();
    let files = || -> Result<Vec<String>> {
        let read = |name: &str| std::fs::read_to_string(folder.join(name));
        Ok(["ca.crt", "issuer.crt", "issuer.key"]
            .map(read)
            .into_iter()
            .collect::<Result<_, _>>()?)
    };
    let before = files()?;
    let mut reference;
    (reference, ours.port) = self::reference(&ours.folder)?;
    reference.wait_for_log(FOUND, soon())?;
    assert_eq!(files()?, before, "it must not create a CA of its own");
    let mut sidecar = ours.sidecar("till", None)?;
    sidecar.wait_outbound_ready(Deadline::seconds(60))?;
    Ok(())
}

#[test]
fn we_read_the_ca_that_the_reference_sentry_created() -> Result<()> {
    let folder = Scratch::new("reference-ca")?;
    let (mut reference, _) = reference(&folder)?;
    reference.terminate(soon())?;
    let before = std::fs::read_to_string(folder.path().join("issuer.key"))?;
    let ours = Standalone::start_in(folder)?;
    assert_eq!(std::fs::read_to_string(ours.path().join("issuer.key"))?, before);
    let mut sidecar = ours.sidecar("till", None)?;
    sidecar.wait_outbound_ready(Deadline::seconds(60))?;
    Ok(())
}
