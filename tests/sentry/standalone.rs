//! Standalone mode: real sidecars get their identity and call each other with it.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context as _, Result};
use blackbox::{
    Daprd, Deadline, Process, Scratch, Spawn, build_binary, environment, http, process, until,
};

/// A standalone sentry with a CA of its own.
struct Standalone {
    folder: Scratch,
    process: Process,
    port: u16,
}

impl Standalone {
    fn start() -> Result<Self> {
        let folder = Scratch::new("sentry-standalone")?;
        folder.write("config.yaml", String::new())?;
        let port = environment::free_port()?;
        let healthz = environment::free_port()?;
        let mut process = Spawn::new("sentry", build_binary("sentry")?, folder.path())
            // Go's single dash.
            .args(["-mode", "standalone", "-trust-domain", "cluster.local"])
            .args(["--config", "config.yaml", "--issuer-credentials", "."])
            .args(["--listen-address=127.0.0.1".to_owned(), format!("--port={port}")])
            .arg(format!("--healthz-port={healthz}"))
            .arg(format!("--metrics-port={}", environment::free_port()?))
            .env("NAMESPACE", "mesh")
            .folder(folder.path())
            .start()?;
        process.wait_for_http(healthz, "/healthz", Deadline::seconds(20))?;
        Ok(Self { folder, process, port })
    }

    fn sidecar(&self, app_id: &str, app_port: Option<u16>) -> Result<Daprd> {
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

/// An application that answers every request with one word.
fn serve_hello() -> Result<u16> {
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
    until(Deadline::seconds(30), "the call from sidecar to sidecar", || {
        let answer = http::get(customer.http_port, path)?;
        last.clone_from(&answer.body);
        Ok((answer.is_success() && answer.body == "hello").then_some(()))
    })
    .with_context(|| format!("last answer: {last}"))?;
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
fn stops_in_order_and_refuses_bad_flags() -> Result<()> {
    let mut sentry = Standalone::start()?;
    let status = sentry.process.terminate(Deadline::seconds(15))?;
    assert_eq!(status.code(), Some(0), "{}", sentry.process.log());

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
    let (code, text) = run(&["--jwt-enabled"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("JWT SVIDs are not part of this release"), "{text}");
    Ok(())
}
